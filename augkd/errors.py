"""The one exception for a user's mistake: the command line prints its text alone."""


class UserError(Exception):
    """Bad input. The text is one line: what is wrong, what was expected, how to mend it."""
