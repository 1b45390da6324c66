"""From a dataset's fetched archives to its images: pairs of HR and shipped LR, read where they lie.

Archives (zip, tar, tar.gz) are not trusted. One is refused as a whole, before anything is read
from it, if a member would leave its folder or is no plain file or folder, or if all unpack to an
absurd size. This is stricter than tarfile's ``data`` filter, which lets inner links pass.
"""

import gzip
import os
import posixpath
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from torch import Tensor

from augkd.data.images import read_image
from augkd.errors import UserError, replacing
from augkd.study.acquire.registry import Registry

RATIO = 100  # unpacked to packed bytes; images hardly shrink, and bombs start at about 1000
SLACK = 64 << 20  # bytes that any archive may unpack to
_WAYS_OUT = re.compile(r"^/|^[A-Za-z]:|^\.\.(/|$)|[\\\x00-\x1f\x7f]")  # on this system or another


class Member(NamedTuple):
    """A file in an open archive, and what opens it."""

    archive: Path
    name: str
    opens: Callable[[], Any]

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"

    def unpack(self, target: Path) -> Path:
        """Writes ``target``: all of it or nothing. Raises UserError: the member is damaged."""
        with _complaints(self.archive), self.opens() as stream:
            data = stream.read()
        with replacing(target) as beside:
            beside.write_bytes(data)
        return target

    def image(self) -> Tensor:
        """(3, H, W) uint8 RGB. Raises UserError: it is damaged, or not an 8-bit image."""
        with TemporaryDirectory() as folder:
            file = self.unpack(Path(folder) / Path(self.name).name)
            try:
                return read_image(file)
            except UserError as error:
                raise UserError(str(error).replace(str(file), str(self))) from None


class Pair(NamedTuple):
    """One image of a dataset: ``hr`` is None where it has none, ``lr`` has what is shipped."""

    dataset: str
    name: str
    hr: Member | None
    lr: dict[int, Member]

    def read(self) -> tuple[Tensor | None, dict[int, Tensor]]:
        """HR (3, H, W) and, by scale s, the shipped LR, (3, H // s, W // s) or a little less."""
        hr, lr = self.hr.image() if self.hr else None, dict[int, Tensor]()
        for scale, member in self.lr.items():
            small = lr[scale] = member.image()
            cut = [] if hr is None else [hr.shape[k] - scale * small.shape[k] for k in (1, 2)]
            if any(not 0 <= side < 12 for side in cut):  # HR may be cut to multiples of 2, 3 and 4
                raise UserError(f"{member}: is not 1/{scale} of {self.hr} in size: get them again")
        return hr, lr


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, Member]]:
    """The members of an archive by name ("/" between folders), in its order.

    A tar.gz is unpacked once, to the tar NAME.unpacked beside it, to be read in any order.

    Raises UserError: the file is missing, damaged, no such archive, or refused (see above).
    """
    with ExitStack() as opened:
        with _complaints(path):
            limit = RATIO * path.stat().st_size + SLACK
            with path.open("rb") as file:
                head = file.read(2)
            if head == b"PK":  # by zipfile's own test a tar that ends with a zip would be one
                archive: Any = opened.enter_context(zipfile.ZipFile(path))
                entries, opens = archive.infolist(), archive.open
            else:
                plain = _gunzip(path, limit) if head == b"\x1f\x8b" else path
                archive = opened.enter_context(tarfile.open(plain, "r:"))
                entries, opens = archive, archive.extractfile
            members, total = {}, 0
            for entry in entries:
                if isinstance(entry, tarfile.TarInfo):
                    raw, size, whole = entry.name, entry.size, entry.isreg() or entry.isdir()
                else:
                    raw, size = entry.filename, entry.file_size
                    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where no Unix has written it
                    whole = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                name, total = posixpath.normpath(raw), total + size
                if _WAYS_OUT.search(name):
                    raise ValueError(f"{raw!r} would leave its folder")
                if not whole or size < 0:
                    raise ValueError(f"{raw!r} is a link or a device")
                if total > limit:
                    raise ValueError(f"up to {raw!r} it unpacks to over {RATIO} times its size")
                members[name] = Member(path, name, partial(opens, entry))
        yield members


def _gunzip(path: Path, limit: int) -> Path:
    """The tar of a tar.gz, cut off above ``limit`` bytes; once made, it has the tar.gz's time."""
    plain, made = path.with_name(f"{path.name}.unpacked"), path.stat().st_mtime_ns
    if not plain.is_file() or plain.stat().st_mtime_ns != made:
        with gzip.open(path) as packed, plain.open("wb") as file:
            while file.tell() <= limit and (piece := packed.read(1 << 20)):
                file.write(piece)
        os.utime(plain, ns=(made, made))
    return plain


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Damage of any kind as one line."""
    try:
        yield
    except Exception as error:  # the libraries raise a dozen kinds on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        mend = "if the archive is to blame, remove it and fetch it again"
        raise UserError(f"{path}: cannot be unpacked ({reason}): {mend}") from None


@contextmanager
def find_images(dataset: str, folder: Path, registry: Registry) -> Iterator[list[Pair]]:
    """The images of a dataset whose files ``fetch`` put into ``folder``, by name.

    Those of a dataset of parts keep the parts' names. Archives stay open within the ``with``.

    Raises UserError: no source is wholly there, an archive is refused, or an image is missing.
    """
    with ExitStack() as opened:
        parts = registry.dataset(dataset).parts or (dataset,)
        yield [pair for part in parts for pair in _find(part, registry, folder, opened)]


def _find(name: str, registry: Registry, folder: Path, opened: ExitStack) -> Iterator[Pair]:
    dataset = registry.dataset(name)
    there = [s for s in dataset.sources if all((folder / file).is_file() for file in s.files)]
    if not there:
        wanted = " or ".join(" and ".join(source.files) for source in dataset.sources)
        raise UserError(f"{name}: {folder} has no {wanted}: fetch it first")
    source, members = there[0], list[Member]()
    for file in source.files:
        members += opened.enter_context(open_archive(folder / file)).values()
    found, names = dict[int, dict[str, Member]](), list[str]()
    templates = {1: source.hr} if source.hr else {}
    for scale, template in (templates | source.lr).items():
        # a name starts without a dot: not so "._0001.png", which macOS puts beside each file
        path = re.escape(template).replace(r"\*", "[^/]+").replace(r"\{name\}", "([^/.][^/]*)")
        fits = ((re.fullmatch(f"(?:.*/)?{path}", member.name), member) for member in members)
        images = found[scale] = {match[1]: member for match, member in fits if match}
        names = names or sorted(images)
        if sorted(images) != names or len(images) != dataset.images:
            problem = f"{len(images)} images at x{scale} in {', '.join(source.files)}"
            mend = f"expected the same {dataset.images} at each scale: remove it and fetch it again"
            raise UserError(f"{name}: {problem}, {mend}")
    hr = found.pop(1, {})
    for image in names:
        yield Pair(name, image, hr.get(image), {scale: lr[image] for scale, lr in found.items()})
