"""A user's mistake, of which the command line prints the text alone; and files written whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class UserError(Exception):
    """Bad input. The text is one line: what is wrong, what was expected, how to mend it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to; it takes the name ``path`` at the end.

    If the body raises, ``path`` is left as it was and nothing lies beside it. Missing folders are
    made; a link is followed; the permissions of a file that is replaced are kept.

    Raises:
        UserError: the place cannot be written to, or the disk is full.
    """
    target = path.resolve()
    partial = target.with_name(f"{os.getpid()}.{hash(target.name):x}.partial")  # never too long
    try:
        if target.is_dir():
            raise UserError(f"{path}: is a folder, expected a file: give the name of a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise UserError(f"{path}: {problem}: free the space or choose another place") from None
    finally:
        with suppress(OSError):  # there is none, or its folder could not be made
            partial.unlink()
