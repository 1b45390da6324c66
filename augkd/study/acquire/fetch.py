"""Fetching what the registry lists: from a mirror folder, else the net; resumed, verified, whole.

A file gets its name once it is verified, so whatever bears the name may be used; until then it is
NAME.partial, with what the server said of its version in NAME.etag. If nobody has published a hash,
it is trusted once: every later fetch must agree with NAME.sha256, which ``sha256sum -c`` reads too.
"""

import hashlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests
from filelock import FileLock
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from augkd.errors import UserError, replacing
from augkd.study.acquire.archives import find_images, open_archive
from augkd.study.acquire.registry import Registry, load_registry
from augkd.study.params import Study

# asks for the bytes as they are stored; some hosts turn unknown programs away
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "Mozilla/5.0 (compatible; augkd)"}
ATTEMPTS = 5  # in a row that bring a file no further, after which an address is given up
PAUSE = 1.0  # seconds before the second attempt in a row; the next are each twice as long
TIMEOUT = 30.0  # seconds to connect, and without a byte, after which a connection is given up


@dataclass(frozen=True)
class Fetcher:
    """Has files, datasets and checkpoints of a registry in a folder, verified.

    Several processes may fetch into the folder at once. ``mirror``, a folder of files as
    ``data.mirror`` names it, is asked before any address. What nobody has is a UserError.
    """

    folder: Path
    mirror: Path | None = None
    registry: Registry = field(default_factory=load_registry)

    def dataset(self, name: str) -> list[Path]:
        """The files of a dataset, of all its parts, from the first source that can be had."""
        dataset = self.registry.dataset(name)
        if dataset.parts:
            return [path for part in dataset.parts for path in self.dataset(part)]
        return self._first(name, [source.files for source in dataset.sources])

    def checkpoint(self, name: str) -> Path:
        """A checkpoint's own file, taken out of its archive where it comes in one."""
        members = {source.files: source.member for source in self.registry.checkpoint(name).sources}
        (path,) = self._first(name, [*members])
        if (member := members[(path.name,)]) is None:
            return path
        with open_archive(path) as inside:
            if member not in inside:
                raise UserError(f"{path}: has no '{member}': remove it and fetch it again")
            return inside[member].unpack(self.folder / Path(member).name)

    def _first(self, name: str, sources: list[tuple[str, ...]]) -> list[Path]:
        """The files of the first source that can be had; one that is at hand goes first."""
        failures = []
        for files in sorted(sources, key=lambda files: not all(map(self._copies, files))):
            try:
                return [self.file(file) for file in files]
            except UserError as error:
                failures.append(str(error))
        raise UserError(f"{name}: {'; or '.join(failures)}")

    def _copies(self, name: str) -> list[Path]:
        return [p / name for p in (self.folder, self.mirror) if p and (p / name).is_file()]

    def file(self, name: str) -> Path:
        """One file, from the folder, the mirror (as a hard link, if it can), or an address."""
        target = self.folder / name
        if self.mirror is not None and not self.mirror.is_dir():
            raise UserError(f"data.mirror: {self.mirror}: no such folder: correct it, or set null")
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{name}.lock"):
            found = self._verified(name)
            if found.parent == self.folder:
                return found.replace(target)
            with replacing(target) as beside:
                try:
                    os.link(found.resolve(), beside)
                except OSError:  # on another file system
                    shutil.copyfile(found, beside)
        return target

    def _verified(self, name: str) -> Path:
        """The file where it lies, in the folder or the mirror, or what an address brought."""
        file, partial, failures = self.registry.files[name], self.folder / f"{name}.partial", []
        offers: list[Path | str] = [*self._copies(name), *file.urls]
        for offer in offers:
            continued = partial.exists()
            try:
                found = self._download(offer, partial) if isinstance(offer, str) else offer
                self._verify(found, name)
            except UserError as refusal:
                failures.append(f"{offer} {refusal}")
                if continued and not partial.exists():  # what was put together is set aside
                    offers.append(offer)
            else:
                for failure in failures:  # it went well in the end, but not as planned
                    tqdm.write(f"{name}: {failure}")
                return found
        why = f" ({'; '.join(failures)})" if failures else ""
        mend = f"get it from {file.by_hand or 'elsewhere'} and put it into {self.folder}"
        raise UserError(f"{name}: cannot be fetched{why}: {mend}, or where data.mirror says")

    def _download(self, url: str, partial: Path) -> Path:
        """Completes ``partial``, which another try, of another address too, may have begun;
        without a published hash only by the first answer's ETag: two versions are never spliced."""
        file, note = self.registry.files[partial.stem], partial.with_suffix(".etag")
        known, tries, furthest = file.sha256 or file.md5, 0, -1
        while True:
            start = partial.stat().st_size if partial.exists() else 0
            tries, furthest = (0, start) if start > furthest else (tries, furthest)
            etag = note.read_text() if note.exists() else ""
            resumed = {"Range": f"bytes={start}-"} | ({} if known else {"If-Range": etag})
            asked = HEADERS | resumed if start and (known or etag) else HEADERS
            try:
                with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
                    _receive(answer, partial, note, start)
                note.unlink(missing_ok=True)
                return partial
            except (requests.RequestException, HTTPError) as error:
                if (tries := tries + 1) == ATTEMPTS:
                    inner = error.args[0] if error.args else error  # they wrap each other's
                    reason = " ".join(str(getattr(inner, "reason", inner)).split())
                    raise UserError(f"fails ({reason}; {tries} times in a row)") from None
                time.sleep(PAUSE * 2 ** (tries - 1))

    def _verify(self, path: Path, name: str) -> None:
        """UserError: it has another hash than is published or recorded. A first one is recorded."""
        file, lock = self.registry.files[name], self.folder / f"{name}.sha256"
        recorded = lock.read_text().split(" ")[0] if lock.is_file() else ""
        expected = file.sha256 or file.md5 or recorded or file.sha256_begins or ""
        kind = "md5" if expected == file.md5 else "sha256"
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if not found.startswith(expected):
            origin = lock if expected == recorded else file.hash_from
            problem = f"has the {kind.upper()} {found}, expected {expected} (from {origin})"
            if path.parent == self.folder:
                path.replace(self.folder / f"{name}.rejected")
                problem += f"; set aside as {name}.rejected"
            raise UserError(problem)
        if len(expected) < len(found):
            with replacing(lock) as beside:
                beside.write_text(f"{found}  {name}\n")
            why = "nobody has published a whole hash of it, so it is trusted this once"
            tqdm.write(f"{name}: {why}; its SHA-256 is in {lock} and checked from now on")


def _receive(answer: requests.Response, partial: Path, note: Path, start: int) -> None:
    """Adds what an answer brings to the ``start`` bytes of ``partial``, or begins it anew."""
    if start and answer.status_code == 416:  # all of it is there, or it is another
        return
    if answer.status_code in (401, 403, 404, 410):  # other errors may pass
        raise UserError(f"answers {answer.status_code} {answer.reason}")
    answer.raise_for_status()
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise UserError("answers with a web page instead of the file")
    if answer.status_code != 206:
        start = 0
        partial.unlink(missing_ok=True)
        etag = answer.headers.get("ETag", "")  # a weak one may not go with If-Range
        note.write_text(etag if etag.startswith('"') else "")
    total = start + int(answer.headers.get("Content-Length", 0)) or None
    bar = tqdm.wrapattr(answer.raw, "read", total, desc=note.stem, initial=start, disable=None)
    with bar as body, partial.open("ab") as out:
        shutil.copyfileobj(body, out)  # as it is, even if it is called an encoding


def fetch_study(study: Study) -> list[Path]:
    """Has the budget's datasets and checkpoints in the folder that its ``origin`` names.

    Each dataset is opened too: incomplete ones stop here, before anything is trained, and what
    lies in compressed archives is unpacked, so that later stages change nothing in the folder.
    Raises UserError if there is nothing to fetch, or something cannot be had.
    """
    budget, data = study.budget, study.params.data
    if budget.images.datasets is None:
        raise UserError(f"budget '{budget.name}' fetches nothing: it has the packages' images")
    folder, registry = study.root / budget.origin, load_registry(study.root / data.registry)
    fetcher = Fetcher(folder, study.root / data.mirror if data.mirror else None, registry)
    files = [fetcher.checkpoint(name) for name in budget.checkpoints.values()]
    # CSD's VGG19 too, where the budget gives the method a file of it
    vgg = {Path(options["vgg"]).name for options in budget.methods.values() if options.get("vgg")}
    files += [fetcher.file(name) for name in sorted(vgg & registry.files.keys())]
    for name in budget.images.datasets.names():
        files += fetcher.dataset(name)
        with find_images(name, folder, registry) as pairs:
            print(f"  {name}: {len(pairs)} images", flush=True)
    return list(dict.fromkeys(files))
