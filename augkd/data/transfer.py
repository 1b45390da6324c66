"""One address to one file: HTTP that is resumed where it broke and gives up on servers that hang.

A file is continued with ``Range`` and, so that two versions are never spliced, ``If-Range`` with
the ETag or date that the first answer had. A server that does not do ranges answers with the whole
file, and then it is written from its start.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from augkd.errors import UserError

_PIECE = 1 << 16
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # what a server may answer now and not later
# asks for the bytes as they are stored; some hosts turn unknown programs away
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "Mozilla/5.0 (compatible; augkd)"}


@dataclass(frozen=True)
class Patience:
    """With slow and failing servers.

    Attributes:
        timeout: seconds to connect, and without a byte, after which a connection is given up.
        slowest: bytes a second, over ``timeout`` seconds, under which it is given up likewise.
        attempts: in a row that bring the file no further, after which an address is given up.
        pause: seconds before the second attempt; each further pause is twice as long, up to 60.
    """

    timeout: float = 30
    slowest: float = 1024
    attempts: int = 5
    pause: float = 1


class Refused(Exception):
    """An address does not serve the file, or not any more. The text follows the address."""


class _Broken(Exception):
    """A transfer broke in a way that may pass."""

    def __init__(self, why: str, pause: float = 0) -> None:
        super().__init__(why)
        self.pause = pause


def transfer(
    url: str,
    partial: Path,
    *,
    size: int | None,
    verified: bool,
    patience: Patience,
    title: str,
    progress: bool,
) -> bool:
    """Writes what ``url`` serves to ``partial``, continuing what lies there.

    Args:
        size: of the file in bytes, if known; an address that offers another size is refused.
        verified: whether its content will be checked against a published hash. If so, it is
            continued even where the server cannot tell whether it is still the same file.

    Returns:
        Whether it was put together from more than one answer.

    Raises:
        Refused: for good, or after ``patience.attempts`` without progress.
        UserError: the disk has no room for it.
        OSError: the file cannot be written.
    """
    failures, furthest, pieced = 0, _size(partial), False
    while True:
        try:
            return _attempt(url, partial, size, verified, patience, title, progress) or pieced
        except _Broken as broken:
            pieced = pieced or _size(partial) > 0
            failures = 1 if _size(partial) > furthest else failures + 1
            furthest = max(furthest, _size(partial))
            if failures >= patience.attempts:
                times = f" ({failures} times in a row)" if failures > 1 else ""
                raise Refused(f"{broken}{times}") from None
            time.sleep(max(broken.pause, min(60, patience.pause * 2 ** (failures - 1))))


def _attempt(
    url: str,
    partial: Path,
    size: int | None,
    verified: bool,
    patience: Patience,
    title: str,
    progress: bool,
) -> bool:
    """One request. Returns whether it continued what was there."""
    start, validator = _resumable(url, partial, size, verified)
    if size is not None and start == size:
        return True
    headers = dict(_HEADERS)
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    with (
        _network(patience),
        requests.get(url, headers=headers, stream=True, timeout=patience.timeout) as answer,
    ):
        if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{start}":
            return True  # all of it was there
        start, total = _judge(answer, partial, start)
        if size is not None and total not in (None, size):
            raise Refused(f"offers {total} bytes, expected {size}")
        total = size if total is None else total
        if total is not None and total - start > shutil.disk_usage(partial.parent).free:
            raise UserError(
                f"{title}: {total - start} bytes do not fit on the disk of {partial.parent}: free "
                "the space or choose another folder"
            )
        if start == 0:
            partial.unlink(missing_ok=True)
            kept = {"url": url, "validator": _validator(answer)}
            _note(partial).write_text(json.dumps(kept), encoding="utf-8")
        with (
            partial.open("ab") as file,
            tqdm(
                total=total,
                initial=start,
                desc=title,
                unit="B",
                unit_scale=True,
                disable=None if progress else True,
            ) as bar,
        ):
            for piece in _pieces(answer, patience):
                file.write(piece)
                bar.update(len(piece))
    if total is not None and _size(partial) < total:
        raise _Broken(f"ended after {_size(partial)} of {total} bytes")
    _note(partial).unlink(missing_ok=True)
    return start > 0


def _judge(answer: requests.Response, partial: Path, start: int) -> tuple[int, int | None]:
    """Where the answer's bytes belong, and the size of the whole file if it is told."""
    code = answer.status_code
    if code in _PASSING:
        wait = answer.headers.get("Retry-After", "")
        pause = min(120.0, float(wait)) if wait.isdigit() else 0
        raise _Broken(f"answers {code} {answer.reason}", pause)
    if code == 416 and start:  # what lies here does not belong to the file that is served now
        partial.unlink(missing_ok=True)
        raise _Broken("has no such range")
    if code not in (200, 206):
        raise Refused(f"answers {code} {answer.reason}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise Refused("answers with a web page instead of the file")
    if code == 206:
        ranges = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
        )
        if ranges is None or int(ranges[1]) != start:
            partial.unlink(missing_ok=True)
            raise _Broken("answers with another range than was asked for")
        return start, None if ranges[2] == "*" else int(ranges[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _pieces(answer: requests.Response, patience: Patience) -> Iterator[bytes]:
    """The answer's bytes as they come, without undoing an encoding: .gz files stay as they are."""
    since, received = time.monotonic(), 0
    while piece := answer.raw.read1(_PIECE, decode_content=False):
        yield piece
        received += len(piece)
        if (passed := time.monotonic() - since) > patience.timeout:
            if received < patience.slowest * passed:
                raise _Broken(f"sends only {received / passed:.0f} bytes a second")
            since, received = time.monotonic(), 0


@contextmanager
def _network(patience: Patience) -> Iterator[None]:
    """What requests and urllib3 raise, as a refusal or as something that may pass."""
    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _Broken(f"sent nothing for {patience.timeout:g} s") from None
    except requests.exceptions.SSLError as error:
        raise Refused(f"has no valid certificate ({_first(error)})") from None
    except requests.ConnectionError as error:
        raise _Broken(f"cannot be reached ({_first(error)})") from None
    except urllib3.exceptions.ProtocolError as error:
        raise _Broken(f"breaks off ({_first(error)})") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Refused(f"fails ({_first(error)})") from None


def _first(error: BaseException) -> str:
    """The innermost reason: the libraries wrap each other's exceptions."""
    while isinstance(inner := error.args[-1] if error.args else None, BaseException):
        error = inner
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _first(reason)
    text = " ".join(str(error).split())
    # urllib3 puts the object that failed before what failed
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", text) or type(error).__name__


def _resumable(url: str, partial: Path, size: int | None, verified: bool) -> tuple[int, str | None]:
    """How much of ``partial`` may be continued from ``url``, and the validator to ask with."""
    start = _size(partial)
    if start == 0 or (size is not None and start > size):
        return 0, None
    try:
        kept = json.loads(_note(partial).read_text(encoding="utf-8"))
        validator = kept["validator"] if kept["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        validator = None
    return (start, validator) if validator or verified else (0, None)


def _validator(answer: requests.Response) -> str | None:
    """A strong ETag, or the date: a weak ETag may not go with ``If-Range`` (RFC 9110, 13.1.5)."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified")


def _note(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
