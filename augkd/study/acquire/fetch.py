"""Fetching what the registry lists: from a mirror folder, else the net; resumed, verified, whole.

A file gets its name once it is verified, so whatever bears the name may be used; until then it is
NAME.partial, with what the server said of its version in NAME.etag.

A file of which nobody has published a hash is trusted once: its SHA-256 is written to NAME.sha256
(``sha256sum -c`` reads it) and every later fetch must agree.
"""

import hashlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import requests
from filelock import FileLock
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from augkd.errors import UserError, replacing
from augkd.study.acquire.archives import find_images, open_archive
from augkd.study.acquire.registry import Registry, Source, Weights, load_registry
from augkd.study.params import Study

# asks for the bytes as they are stored; some hosts turn unknown programs away
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "Mozilla/5.0 (compatible; augkd)"}
ATTEMPTS = 5  # in a row that bring a file no further, after which an address is given up
PAUSE = 1.0  # seconds before the second attempt in a row; the next are each twice as long
TIMEOUT = 30.0  # seconds to connect, and without a byte, after which a connection is given up
S = TypeVar("S", Source, Weights)


class Refused(Exception):
    """A copy or an address does not have the file. The text follows its name."""


@dataclass(frozen=True)
class Fetcher:
    """Has files, datasets and checkpoints of a registry in a folder, verified.

    Attributes:
        folder: made if need be; several processes may fetch into it at once.
        mirror: a folder of files, as ``data.mirror`` names it; it is asked first.
        registry: where names are looked up.
    """

    folder: Path
    mirror: Path | None = None
    registry: Registry = field(default_factory=load_registry)

    def dataset(self, name: str) -> list[Path]:
        """The files of a dataset, of all its parts, from the first source that can be had."""
        dataset = self.registry.dataset(name)
        if dataset.parts:
            return [path for part in dataset.parts for path in self.dataset(part)]
        return self._first(name, dataset.sources)[1]

    def checkpoint(self, name: str) -> Path:
        """A checkpoint's own file, taken out of its archive where it comes in one."""
        source, (path,) = self._first(name, self.registry.checkpoint(name).sources)
        if source.member is None:
            return path
        with open_archive(path) as members:
            if source.member not in members:
                raise UserError(f"{path}: has no '{source.member}': remove it and fetch it again")
            return members[source.member].unpack(self.folder / Path(source.member).name)

    def _first(self, name: str, sources: tuple[S, ...]) -> tuple[S, list[Path]]:
        """The first source that can be had, and its files; one that is at hand goes first."""
        failures = []
        for source in sorted(sources, key=lambda source: not all(map(self._copies, source.files))):
            try:
                return source, [self.file(file) for file in source.files]
            except UserError as error:
                failures.append(str(error))
        raise UserError(f"{name}: {'; or '.join(failures)}")

    def _copies(self, name: str) -> list[Path]:
        places = [self.folder, self.mirror] if self.mirror else [self.folder]
        return [place / name for place in places if (place / name).is_file()]

    def file(self, name: str) -> Path:
        """One file, from the folder itself, the mirror, or the first address that serves it.

        From the mirror it is hard-linked, or copied from another file system. A transfer that
        breaks is resumed, in this call or a later one. A wrong file in the folder is set aside as
        NAME.rejected.

        Raises:
            UserError: one line: nobody has the file, it must be got by hand, or it is another.
        """
        if self.mirror is not None and not self.mirror.is_dir():
            raise UserError(
                f"data.mirror: {self.mirror}: no such folder: correct it, or set it to null"
            )
        target = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{name}.lock"):
                self._have(target)
        except OSError as error:
            raise UserError(
                f"{target}: cannot be written ({error.strerror or error}): free the space or "
                "choose another place"
            ) from None
        return target

    def _have(self, target: Path) -> None:
        name, failures, partial = target.name, [], target.with_name(f"{target.name}.partial")
        file = self.registry.files[name]
        offers: list[Path | str] = [*self._copies(name), *file.urls]
        for offer in offers:
            continued = partial.exists()
            try:
                found = self._download(offer, partial) if isinstance(offer, str) else offer
                self._verify(found, name)
                break
            except Refused as refusal:
                failures.append(f"{offer} {refusal}")
                if continued and not partial.exists():  # what was put together is set aside
                    offers.append(offer)
        else:
            why = f" ({'; '.join(failures)})" if failures else ""
            raise UserError(
                f"{name}: cannot be fetched{why}: get it from {file.by_hand or 'elsewhere'} and "
                f"put it into {self.folder}, or into the folder that data.mirror names"
            )
        for failure in failures:  # it went well in the end, but not as planned
            tqdm.write(f"{name}: {failure}")
        if found.parent == self.folder:
            os.replace(found, target)
            return
        try:
            os.link(found.resolve(), target)
        except OSError:  # on another file system
            with replacing(target) as beside:
                shutil.copyfile(found, beside)

    def _download(self, url: str, partial: Path) -> Path:
        """Completes ``partial``; a connection that breaks is continued where it broke."""
        tries, furthest = 0, 0
        while True:
            try:
                self._request(url, partial)
                partial.with_suffix(".etag").unlink(missing_ok=True)
                return partial
            except (requests.RequestException, HTTPError) as error:
                size = partial.stat().st_size if partial.exists() else 0
                tries, furthest = (1, size) if size > furthest else (tries + 1, furthest)
                if tries == ATTEMPTS:
                    inner = error.args[0] if error.args else error  # they wrap each other's
                    reason = " ".join(str(getattr(inner, "reason", inner)).split())
                    raise Refused(f"fails ({reason}; {tries} times in a row)") from None
                time.sleep(PAUSE * 2 ** (tries - 1))

    def _request(self, url: str, partial: Path) -> None:
        """Adds to ``partial`` what one request brings.

        A file whose hash is published is continued wherever it was begun: the hash will tell.
        Another only with ``If-Range`` and the ETag of the first answer: two versions are never
        spliced.
        """
        file, note = self.registry.files[partial.stem], partial.with_suffix(".etag")
        asked, start = dict(HEADERS), partial.stat().st_size if partial.exists() else 0
        if start and (file.sha256 or file.md5):
            asked["Range"] = f"bytes={start}-"
        elif start and (etag := note.read_text() if note.exists() else ""):
            asked |= {"Range": f"bytes={start}-", "If-Range": etag}
        with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
            if start and answer.status_code == 416:  # all of it is there, or it is another
                return
            if answer.status_code in (401, 403, 404, 410):  # other errors may pass
                raise Refused(f"answers {answer.status_code} {answer.reason}")
            answer.raise_for_status()
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise Refused("answers with a web page instead of the file")
            if answer.status_code != 206:
                start = 0
                partial.unlink(missing_ok=True)
                etag = answer.headers.get("ETag", "")  # a weak one may not go with If-Range
                note.write_text(etag if etag.startswith('"') else "")
            total = start + int(answer.headers.get("Content-Length", 0)) or None
            bar = tqdm.wrapattr(
                answer.raw, "read", total, desc=note.stem, initial=start, disable=None
            )
            with bar as body, partial.open("ab") as out:
                shutil.copyfileobj(body, out)  # as it is, even if it is called an encoding

    def _verify(self, path: Path, name: str) -> None:
        """A first hash is written down here; a wrong file in the folder is set aside.

        Raises:
            Refused: the content of ``path`` has another hash than is published or recorded.
        """
        file, lock = self.registry.files[name], self.folder / f"{name}.sha256"
        recorded = lock.read_text().split(" ")[0] if lock.is_file() else ""
        expected = file.sha256 or file.md5 or recorded or file.sha256_begins or ""
        kind = "md5" if expected == file.md5 else "sha256"
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if not found.startswith(expected):
            problem = f"has the {kind.upper()} {found}, expected {expected} (from "
            problem += f"{lock if expected == recorded else file.hash_from})"
            if path.parent == self.folder:
                os.replace(path, self.folder / f"{name}.rejected")
                problem += f"; set aside as {name}.rejected"
            raise Refused(problem)
        if len(expected) < len(found):
            with replacing(lock) as beside:
                beside.write_text(f"{found}  {name}\n")
            tqdm.write(
                f"{name}: nobody has published a whole hash of it, so it is trusted this once; "
                f"its SHA-256 is recorded in {lock} and checked from now on"
            )


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
    fetcher = Fetcher(folder, study.root / data.mirror if data.mirror else None, registry)
    # CSD's VGG19 too, where the budget gives the method a file of it
    vgg = {Path(options["vgg"]).name for options in budget.methods.values() if options.get("vgg")}
    files = [fetcher.checkpoint(name) for name in dict.fromkeys(budget.checkpoints.values())]
    files += [fetcher.file(name) for name in sorted(vgg & registry.files.keys())]
    for name in budget.images.datasets.names():
        files += fetcher.dataset(name)
        with find_images(name, folder, registry) as pairs:
            print(f"  {name}: {len(pairs)} images", flush=True)
    return list(dict.fromkeys(files))
