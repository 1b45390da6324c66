"""A user's mistake, of which the command line prints the text alone; and files written whole."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

# what safetensors and torch, whose errors are their own, say of a file that cannot be written
_UNWRITTEN = re.compile(r"\(os error \d+\)|inline_container")


class UserError(Exception):
    """Bad input. The text is one line: what is wrong, what was expected, how to mend it."""


def one_line(error: Exception) -> str:
    """What a user is told; of the system's errors, the file and the mend."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename or Path.cwd()}: {error.strerror or text}"
        text += ": free the space, change permissions or the path"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to; it takes the name ``path`` at the end.

    If the body raises, ``path`` is left as it was and nothing lies beside it. Missing folders are
    made; a link is followed; a file that is replaced keeps its permissions, a new one has those of
    the user's other files, also where a writer makes private ones, as safetensors does.

    Raises:
        UserError: the place cannot be written to, or the disk is full.
    """
    target = path.resolve()
    partial = target.with_name(f"{os.getpid()}.{hash(target.name):x}.partial")  # never too long
    try:
        if target.is_dir():
            raise UserError(f"{path}: is a folder, expected a file: give the name of a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = (target if target.exists() else partial).stat().st_mode
        partial.unlink()  # a body may make a link
        yield partial
        if partial.stat().st_nlink == 1:  # a link's permissions are also the other file's
            partial.chmod(S_IMODE(mode))
        os.replace(partial, target)
    except Exception as error:
        if not isinstance(error, OSError) and not _UNWRITTEN.search(str(error)):
            raise
        problem = f"cannot be written ({getattr(error, 'strerror', None) or error})"
        raise UserError(f"{path}: {problem}: free the space or choose another place") from None
    finally:
        with suppress(OSError):  # there is none, or its folder could not be made
            partial.unlink()
