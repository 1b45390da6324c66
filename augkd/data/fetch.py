"""Fetching what the registry lists: from a mirror folder, else the net; resumed, verified, whole.

A file is written as NAME.partial and takes its name only when its size and hashes are right, so
whatever bears the name may be used. Of the libraries at hand pooch verifies but does not resume,
which 20 GB over a shaky line needs, so the transfer is our own (``augkd.data.transfer``) over
requests, which knows proxies, redirects and certificates.

A file of which nobody has published a hash is trusted once: its SHA-256 is written to NAME.sha256
(``sha256sum -c`` reads it) and every later fetch must agree.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from tqdm import tqdm

from augkd.data.archives import Archive
from augkd.data.registry import Registry, RemoteFile, Source, Weights, load_registry
from augkd.data.transfer import Patience, Refused, transfer
from augkd.errors import UserError
from augkd.files import replacing

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
