"""Fetching what the registry lists: from a mirror folder, else the net; resumed, verified, whole.

pooch verifies a file and only then gives it its name, so whatever bears the name may be used. The
transfer is our own downloader for it, because 20 GB over a shaky line have to be resumed.

A file of which nobody has published a hash is trusted once: its SHA-256 is written to NAME.sha256
(``sha256sum -c`` reads it) and every later fetch must agree.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pooch
import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError
from urllib3.util import Retry

from augkd.errors import UserError, replacing
from augkd.study.acquire.archives import Archive, find_images
from augkd.study.acquire.registry import Registry, RemoteFile, Source, Weights, load_registry
from augkd.study.params import Study

pooch.get_logger().setLevel("WARNING")  # what a user should know is said here
# asks for the bytes as they are stored; some hosts turn unknown programs away
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "Mozilla/5.0 (compatible; augkd)"}
S = TypeVar("S", Source, Weights)


class Refused(Exception):
    """An address does not serve the file, or not any more. The text follows the address."""


@dataclass
class RangeDownloader:
    """A downloader for pooch that continues with ``Range`` what came before it broke.

    So that two versions are never spliced, it asks with ``If-Range`` and the ETag or date that the
    first answer had. A server that does not do ranges answers with the whole file.

    Attributes:
        kept: where the bytes lie until the file is whole, and for a later call to continue.
        size: of the file in bytes, if known; an address that offers another size is refused.
        verified: its content is checked against a published hash, so it is continued even where
            the server cannot tell whether it is still the same file.
        attempts: in a row that bring the file no further, after which an address is given up.
        pause: seconds before the third attempt in a row; the next are each twice as long.
        timeout: seconds to connect, and without a byte, after which a connection is given up.
        slowest: bytes a second, over ``timeout`` seconds, under which it is given up likewise.
        pieced: whether the file was put together from more than one answer.
    """

    kept: Path
    size: int | None
    verified: bool
    attempts: int = 5
    pause: float = 1
    timeout: float = 30
    slowest: float = 1024
    pieced: bool = False

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Writes what ``url`` serves to ``output_file``.

        Raises:
            Refused: for good, or after ``attempts`` without progress.
            UserError: the disk has no room for it.
            OSError: the file cannot be written.
        """
        left = again = Retry(
            self.attempts - 1,
            backoff_factor=2 * self.pause,
            status_forcelist=(408, 425, 429, 500, 502, 503, 504),  # now, and perhaps not later
            raise_on_status=False,
            retry_after_max=120,
        )
        furthest = self._have()
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=again))
            while broken := self._attempt(session, url):
                if self._have() > furthest:
                    left, furthest = again, self._have()
                try:
                    left = left.increment("GET", url)
                except MaxRetryError:
                    raise Refused(f"{broken} ({self.attempts} times in a row)") from None
                left.sleep()
        link(self.kept, Path(output_file))

    def _have(self) -> int:
        return self.kept.stat().st_size if self.kept.exists() else 0

    def _attempt(self, session: requests.Session, url: str) -> str:
        """One request. Returns "", or how it broke in a way that may pass."""
        note = self.kept.with_name(f"{self.kept.name}.json")
        known = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        start, asked = self._have(), dict(HEADERS)
        if not (known.get(url) or self.verified) or start > (self.size or start):
            start = 0
        self.pieced = start > 0
        if start and start == self.size:
            return ""
        if start:
            asked["Range"] = f"bytes={start}-"
            asked |= {"If-Range": known[url]} if known.get(url) else {}
        try:
            answer = session.get(url, headers=asked, stream=True, timeout=self.timeout)
        except requests.RequestException as error:
            raise Refused(f"cannot be reached ({_reason(error)})") from None
        with answer:
            code, told = answer.status_code, answer.headers.get("Content-Range", "").strip()
            part = re.fullmatch(rf"bytes {start}-\d+/(\d+|\*)", told) if code == 206 else None
            if code == 416 and told == f"bytes */{start}":
                return ""  # all of it was there
            if (code == 416 and start) or (code == 206 and not part):
                self.kept.unlink(missing_ok=True)  # it is not of the file that is served now
                return "has no such range"
            if code not in (200, 206):
                raise Refused(f"answers {code} {answer.reason}")
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise Refused("answers with a web page instead of the file")
            length = part[1] if part else answer.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else self.size
            if self.size not in (None, total):
                raise Refused(f"offers {total} bytes, expected {self.size}")
            if not (start and part):
                self.pieced = False
                self.kept.unlink(missing_ok=True)
                etag = answer.headers.get("ETag", "")  # a weak one may not go with If-Range
                strong = etag if etag.startswith('"') else answer.headers.get("Last-Modified")
                with replacing(note) as beside:
                    beside.write_text(json.dumps({url: strong}), encoding="utf-8")
            if broken := self._write(answer, total):
                return broken
        note.unlink()
        return ""

    def _write(self, answer: requests.Response, total: int | None) -> str:
        """Adds the answer's bytes to what is kept. Returns as above."""
        title, have, folder = self.kept.stem, self._have(), self.kept.parent
        if total and total - have > shutil.disk_usage(folder).free:
            raise UserError(
                f"{title}: {total - have} bytes do not fit on the disk of {folder}: free the "
                "space or choose another folder"
            )
        bar = tqdm(  # none where there is no terminal
            desc=title, total=total, initial=have, unit="B", unit_scale=True, disable=None
        )
        since, received = time.monotonic(), 0
        try:
            with bar, self.kept.open("ab") as file:
                # .gz files stay as they are, even if a server calls them an encoding
                while piece := answer.raw.read1(1 << 16, decode_content=False):
                    file.write(piece)
                    bar.update(len(piece))
                    received += len(piece)
                    if (passed := time.monotonic() - since) > self.timeout:
                        if received < self.slowest * passed:
                            return f"sends only {received / passed:.0f} bytes a second"
                        since, received = time.monotonic(), 0
        except ReadTimeoutError:
            return f"sent nothing for {self.timeout:g} s"
        except HTTPError as error:
            return f"breaks off ({_reason(error)})"
        have = self._have()
        return f"ended after {have} of {total} bytes" if total and have < total else ""


def _reason(error: Exception) -> str:
    """The libraries wrap each other's exceptions."""
    inner = error.args[0] if error.args else ""
    return " ".join(str(getattr(inner, "reason", inner)).split()) or type(error).__name__


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system does not link."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


@dataclass(frozen=True)
class Fetcher:
    """Has files, datasets and checkpoints of a registry in a folder, verified.

    Attributes:
        folder: made if need be; several processes may fetch into it at once.
        mirror: a folder of files, as ``data.mirror`` names it; it is asked first.
        download: makes the downloader of a file, more or less patient with its servers.
        registry: where names are looked up.
    """

    folder: Path
    mirror: Path | None = None
    download: Callable[..., RangeDownloader] = RangeDownloader
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
        places = [self.folder, *([self.mirror] if self.mirror else [])]

        def elsewhere(source: S) -> bool:
            return not all(any((at / file).is_file() for at in places) for file in source.files)

        for source in sorted(sources, key=elsewhere):
            try:
                return source, [self.file(self.registry.file(file)) for file in source.files]
            except UserError as error:
                failures.append(str(error))
        raise UserError(failures[0] if len(failures) == 1 else f"{name}: {'; or '.join(failures)}")

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
                self._have(file, target)
        except OSError as error:
            raise UserError(
                f"{target}: cannot be written ({error.strerror or error}): free the space or "
                "choose another place"
            ) from None
        return target

    def _have(self, file: RemoteFile, target: Path) -> None:
        failures = []
        if target.is_file():
            if (problem := self._set_aside(file, target)) is None:
                return
            failures.append(f"{target} {problem}")
        if self.mirror is not None and (offered := self.mirror / file.name).is_file():
            if (problem := self._problem(file, offered)) is None:
                with replacing(target) as beside:
                    link(offered, beside)
                return
            failures.append(f"{offered} {problem}; not used")
        for url in file.urls:
            try:
                self._download(file, target, url)
            except Refused as refusal:
                failures.append(f"{url} {refusal}")
                continue
            for failure in failures:  # it went well in the end, but not as planned
                tqdm.write(f"{file.name}: {failure}")
            return
        why = f" ({'; '.join(failures)})" if failures else ""
        raise UserError(
            f"{file.name}: cannot be fetched{why}: get it from {file.by_hand or 'elsewhere'} and "
            f"put it into {self.folder}, or into the folder that data.mirror names"
        )

    def _download(self, file: RemoteFile, target: Path, url: str) -> None:
        """One address; what was put together and turns out wrong is fetched once more, whole."""
        kept = target.with_name(f"{file.name}.partial")
        known, published = self._known(file), file.known_hash is not None
        download = self.download(kept, file.bytes, published)
        for last in (False, True):
            try:
                pooch.retrieve(url, known, file.name, self.folder, downloader=download)
                kept.unlink()
                problem = None if known else self._set_aside(file, target)
            except ValueError:  # of pooch: not the known hash
                if (problem := self._set_aside(file, kept)) is None:
                    raise
            if problem is None:
                return
            if last or not download.pieced:
                raise Refused(f"serves another file: it {problem}")

    def _set_aside(self, file: RemoteFile, path: Path) -> str | None:
        """What is wrong with the content of ``path``, if anything, and where it now is."""
        if (problem := self._problem(file, path)) is None:
            return None
        os.replace(path, self.folder / f"{file.name}.rejected")
        return f"{problem}; set aside as {file.name}.rejected"

    def _problem(self, file: RemoteFile, path: Path) -> str | None:
        """What is wrong with the content of ``path``; a first hash is written down here."""
        size, known, lock = path.stat().st_size, self._known(file), self._lock(file)
        if file.bytes not in (None, size):
            return f"has {size} bytes, expected {file.bytes}"
        kind, _, expected = (known or f"sha256:{file.sha256_begins or ''}").partition(":")
        found = pooch.file_hash(str(path), kind)
        if not (found == expected if known else found.startswith(expected)):
            whose = "" if file.known_hash else f" ({lock})" if known else "..."
            return f"has the {kind.upper()} {found}, expected {expected}{whose}"
        if known is None:
            with replacing(lock) as beside:
                beside.write_text(f"{found}  {file.name}\n", encoding="ascii")
            tqdm.write(
                f"{file.name}: nobody has published a whole hash of it, so it is trusted this "
                f"once; its SHA-256 is recorded in {lock} and checked from now on"
            )
        return None

    def _known(self, file: RemoteFile) -> str | None:
        """The published hash, or that of the first fetch, as pooch takes them."""
        lock = self._lock(file)
        if file.known_hash or not lock.is_file():
            return file.known_hash
        return "sha256:" + lock.read_text(encoding="ascii", errors="replace").partition(" ")[0]

    def _lock(self, file: RemoteFile) -> Path:
        return self.folder / f"{file.name}.sha256"


def fetch_study(study: Study) -> list[Path]:
    """Has the budget's datasets and checkpoints in the folder that its ``origin`` names.

    Each dataset is opened too: incomplete ones stop here, before anything is trained, and what
    lies in compressed archives is unpacked, so that later stages change nothing in the folder.

    Returns:
        The files, each once.

    Raises:
        UserError: the budget fetches nothing, or something cannot be had or is not complete.
    """
    budget, data = study.budget, study.params.data
    if budget.images.datasets is None:
        raise UserError(
            f"budget '{budget.name}' fetches nothing: its images are those of the packages"
        )
    folder, registry = study.root / budget.origin, load_registry(study.root / data.registry)
    fetcher = Fetcher(folder, study.root / data.mirror if data.mirror else None, registry=registry)
    vgg = {Path(options["vgg"]).name for options in budget.methods.values() if options.get("vgg")}
    features = [  # CSD's VGG19, where the budget gives the method a file of it
        name
        for name, checkpoint in registry.checkpoints.items()
        if checkpoint.role == "feature network" and vgg & {s.file for s in checkpoint.sources}
    ]
    checkpoints = dict.fromkeys([*budget.checkpoints.values(), *features])
    files = [fetcher.checkpoint(name) for name in checkpoints]
    for name in budget.images.datasets.names():
        files += fetcher.dataset(name)
        with find_images(name, folder, registry) as pairs:
            print(f"  {name}: {len(pairs)} images", flush=True)
    return list(dict.fromkeys(files))
