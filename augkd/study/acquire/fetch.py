"""All that a budget needs of the registry, fetched and looked through: the stage ``fetch``.

One address to one file: HTTP that is resumed where it broke and gives up on servers that hang.

A file is continued with ``Range`` and, so that two versions are never spliced, ``If-Range`` with
the ETag or date that the first answer had. A server that does not do ranges answers with the whole
file, and then it is written from its start.

Fetching what the registry lists: from a mirror folder, else the net; resumed, verified, whole.

A file is written as NAME.partial and takes its name only when its size and hashes are right, so
whatever bears the name may be used. Of the libraries at hand pooch verifies but does not resume,
which 20 GB over a shaky line needs, so the transfer is our own (``augkd.study.acquire.fetch``) over
requests, which knows proxies, redirects and certificates.

A file of which nobody has published a hash is trusted once: its SHA-256 is written to NAME.sha256
(``sha256sum -c`` reads it) and every later fetch must agree.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from augkd.errors import UserError, replacing
from augkd.study.acquire.archives import Archive, find_images
from augkd.study.acquire.registry import Registry, RemoteFile, Source, Weights, load_registry
from augkd.study.params import Study

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


S = TypeVar("S", Source, Weights)


@dataclass(frozen=True)
class Fetcher:
    """Has files, datasets and checkpoints of a registry in a folder, verified.

    Attributes:
        folder: made if need be; several processes may fetch into it at once.
        mirror: a folder of files, as ``data.mirror`` names it; it is asked first.
        locks: where NAME.sha256 is kept for files without a published hash; None is ``folder``.
        patience: with slow and failing servers.
        progress: whether bars are shown (they never are where there is no terminal).
        registry: where names are looked up.
    """

    folder: Path
    mirror: Path | None = None
    locks: Path | None = None
    patience: Patience = field(default_factory=Patience)
    progress: bool = True
    registry: Registry = field(default_factory=load_registry)

    def dataset(self, name: str) -> list[Path]:
        """The files of a dataset, of all its parts.

        Sources are tried in the registry's order, but one that is wholly at hand goes first.

        Raises:
            UserError: no source of it can be had.
        """
        dataset = self.registry.dataset(name)
        if dataset.parts:
            return [path for part in dataset.parts for path in self.dataset(part)]
        return self._first(name, dataset.sources)[1]

    def checkpoint(self, name: str) -> Path:
        """A checkpoint's own file, taken out of its archive where it comes in one."""
        source, (path,) = self._first(name, self.registry.checkpoint(name).sources)
        if source.member is None:
            return path
        with Archive(path) as archive:
            return archive.unpack(source.member, self.folder / Path(source.member).name)

    def _first(self, name: str, sources: tuple[S, ...]) -> tuple[S, list[Path]]:
        """The first source that can be had, and its files."""
        failures = []
        for source in sorted(sources, key=lambda source: not self.at_hand(source)):
            try:
                return source, [self.file(self.registry.file(file)) for file in source.files]
            except UserError as error:
                failures.append(str(error))
        raise UserError(failures[0] if len(failures) == 1 else f"{name}: {'; or '.join(failures)}")

    def at_hand(self, source: Source | Weights) -> bool:
        """Whether all its files are in the folder or the mirror, right or wrong."""
        places = [self.folder, *([self.mirror] if self.mirror else [])]
        return all(any((place / file).is_file() for place in places) for file in source.files)

    def file(self, file: RemoteFile) -> Path:
        """One file.

        What lies there already is verified too, and set aside as NAME.rejected if it is wrong.
        Then the mirror is asked for a file of the same name (hard-linked, or copied from another
        file system), then each address in order. A broken transfer is resumed, in this call or
        a later one.

        Raises:
            UserError: one line: nobody has the file, it must be got by hand, or it is another.
        """
        if self.mirror is not None and not self.mirror.is_dir():
            raise UserError(
                f"data.mirror: {self.mirror}: no such folder: correct it, or set it to null"
            )
        target = self.folder / file.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{file.name}.lock"):
                self._have(file)
        except OSError as error:
            raise UserError(
                f"{target}: cannot be written ({error.strerror or error}): free the space or "
                "choose another place"
            ) from None
        return target

    def _have(self, file: RemoteFile) -> None:
        target, failures = self.folder / file.name, []
        partial, rejected = (
            target.with_name(f"{file.name}.{end}") for end in ("partial", "rejected")
        )
        if target.is_file():
            if (problem := self._problem(file, target)) is None:
                return
            os.replace(target, rejected)
            failures.append(f"{target} {problem}; set aside as {rejected.name}")
        if self.mirror is not None and (offered := self.mirror / file.name).is_file():
            if (problem := self._problem(file, offered)) is None:
                _link(offered, partial)
                os.replace(partial, target)
                return
            failures.append(f"{offered} {problem}; not used")
        for url in file.urls:
            try:
                self._download(file, url, partial, rejected)
            except Refused as refusal:
                failures.append(f"{url} {refusal}")
                continue
            os.replace(partial, target)
            for failure in failures:  # it went well in the end, but not as planned
                tqdm.write(f"{file.name}: {failure}")
            return
        why = f" ({'; '.join(failures)})" if failures else ""
        raise UserError(
            f"{file.name}: cannot be fetched{why}: get it from {file.by_hand or 'elsewhere'} and "
            f"put it into {self.folder}, or into the folder that data.mirror names"
        )

    def _download(self, file: RemoteFile, url: str, partial: Path, rejected: Path) -> None:
        """One address; what was put together and turns out wrong is fetched once more, whole."""
        for last in (False, True):
            pieced = transfer(
                url,
                partial,
                size=file.bytes,
                verified=file.published,
                patience=self.patience,
                title=file.name,
                progress=self.progress,
            )
            if (problem := self._problem(file, partial)) is None:
                return
            os.replace(partial, rejected)
            if last or not pieced:
                raise Refused(f"serves another file: it {problem}; kept as {rejected.name}")

    def _problem(self, file: RemoteFile, path: Path) -> str | None:
        """What is wrong with the content of ``path``; a first hash is written down here."""
        size = path.stat().st_size
        if file.bytes is not None and size != file.bytes:
            return f"has {size} bytes, expected {file.bytes}"
        sha256, md5 = self._hashes(path)
        if file.md5 and md5 != file.md5:
            return f"has the MD5 {md5}, expected {file.md5}"
        if file.sha256 and sha256 != file.sha256:
            return f"has the SHA-256 {sha256}, expected {file.sha256}"
        if file.sha256_begins and not sha256.startswith(file.sha256_begins):
            return f"has the SHA-256 {sha256}, expected one that begins {file.sha256_begins}"
        return None if file.published else self._trust_once(file, sha256)

    def _trust_once(self, file: RemoteFile, sha256: str) -> str | None:
        lock = (self.locks or self.folder) / f"{file.name}.sha256"
        if lock.is_file():
            recorded = lock.read_text(encoding="ascii", errors="replace").partition(" ")[0]
            if recorded == sha256:
                return None
            return f"has the SHA-256 {sha256}, but the first one fetched had {recorded} ({lock})"
        with replacing(lock) as partial:
            partial.write_text(f"{sha256}  {file.name}\n", encoding="ascii")
        tqdm.write(
            f"{file.name}: nobody has published a whole hash of it, so it is trusted this once; "
            f"its SHA-256 is recorded in {lock} and checked from now on"
        )
        return None

    def _hashes(self, path: Path) -> tuple[str, str]:
        """SHA-256 and MD5."""
        digests = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        size = path.stat().st_size
        shown = self.progress and size > 256 << 20  # less takes a second
        with (
            path.open("rb") as stream,
            tqdm(
                total=size,
                desc=f"check {path.name}",
                unit="B",
                unit_scale=True,
                disable=None if shown else True,
            ) as bar,
        ):
            while piece := stream.read(1 << 20):
                for digest in digests:
                    digest.update(piece)
                bar.update(len(piece))
        return digests[0].hexdigest(), digests[1].hexdigest()


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one that does not link
        shutil.copyfile(source, target)


def fetch(name: str, folder: Path, mirror: Path | None = None, **options: Any) -> list[Path]:
    """Has a dataset, a checkpoint or a file of the registry in ``folder``: where it now is.

    ``options`` are those of ``Fetcher``.
    """
    fetcher = Fetcher(folder, mirror, **options)
    registry = fetcher.registry
    if name in registry.checkpoints:
        return [fetcher.checkpoint(name)]
    if name in registry.files:
        return [fetcher.file(registry.files[name])]
    return fetcher.dataset(name)


def fetch_study(study: Study) -> list[Path]:
    """Has the budget's datasets and checkpoints in the folder that its ``origin`` names.

    Each dataset is opened too: incomplete ones stop here, before anything is trained, and what
    lies in compressed archives is unpacked, so that later stages change nothing in the folder.

    Returns:
        The files, each once.

    Raises:
        UserError: the budget fetches nothing, or something cannot be had or is not complete.
    """
    datasets, data = study.budget.images.datasets, study.params.data
    if datasets is None:
        raise UserError(
            f"budget '{study.budget.name}' fetches nothing: its images are those of the packages"
        )
    folder, registry = study.root / study.budget.origin, load_registry(study.root / data.registry)
    mirror = study.root / data.mirror if data.mirror else None
    fetcher = Fetcher(folder, mirror, registry=registry)
    checkpoints = [*study.budget.checkpoints.values(), *_feature_networks(study, registry)]
    files = [fetcher.checkpoint(name) for name in dict.fromkeys(checkpoints)]
    for name in datasets.names():
        files += fetcher.dataset(name)
        with find_images(name, folder, registry) as pairs:
            print(f"  {name}: {len(pairs)} images", flush=True)
    return list(dict.fromkeys(files))


def _feature_networks(study: Study, registry: Registry) -> list[str]:
    """CSD's VGG19, where the budget gives the method a file of it."""
    given = [options.get("vgg") for options in study.budget.methods.values()]
    wanted = {Path(vgg).name for vgg in given if vgg}
    return [
        name
        for name, checkpoint in registry.checkpoints.items()
        if checkpoint.role == "feature network"
        and any(source.file in wanted for source in checkpoint.sources)
    ]
