"""A user's mistake, of which the command line prints the text alone; and files written whole."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
    except Exception as error:
        if not isinstance(error, OSError) and not _UNWRITTEN.search(str(error)):
            raise
        problem = f"cannot be written ({getattr(error, 'strerror', None) or error})"
        raise UserError(f"{path}: {problem}: free the space or choose another place") from None
    finally:
        with suppress(OSError):  # there is none, or its folder could not be made
            partial.unlink()
