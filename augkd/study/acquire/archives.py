"""From a dataset's fetched archives to its images: pairs of HR and shipped LR, read where they lie.

Archives (zip, tar, tar.gz) are not trusted. One is refused as a whole, before anything is read
from it, if a member would leave its folder, is no plain file or folder, or if all unpack to an
absurd size, by the archive's own list, to which reading members then holds it. This is stricter
than tarfile's ``data`` filter, which mends absolute names and lets links within the folder pass.
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
Packed = zipfile.ZipFile | tarfile.TarFile
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
        """HR (3, H, W) and, by scale s, the shipped LR, at most (3, H // s, W // s); uint8.

        Raises UserError: an image is damaged, or LR is larger than 1/s of HR.
        """
        hr = self.hr.image() if self.hr else None
        lr = {scale: member.image() for scale, member in self.lr.items()}
        for scale, small in lr.items():
            if hr is not None and any(scale * small.shape[k] > hr.shape[k] for k in (1, 2)):
                raise UserError(
                    f"{self.lr[scale]}: is larger than 1/{scale} of {self.hr}: fetch them again"
                )
        return hr, lr


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, Member]]:
    """The members of an archive by name ("/" between folders), in its order.

    A tar.gz is unpacked once, to the tar NAME.unpacked beside it, whose members can be read in any
    order at little cost.

    Raises UserError: the file is missing, damaged, no such archive, or refused (see above).
    """
    with ExitStack() as opened:
        with _complaints(path):
            limit = RATIO * path.stat().st_size + SLACK
            with path.open("rb") as file:
                head = file.read(2)
            if head == b"PK":  # by zipfile's own test a tar that ends with a zip would be one
                archive: Packed = zipfile.ZipFile(path)
            else:
                tar = _gunzip(path, limit) if head == b"\x1f\x8b" else path
                archive = tarfile.open(tar, "r:")  # noqa: SIM115
            opened.enter_context(archive)
            members, total = {}, 0
            for raw, size, plain, opens in _listed(archive):
                name, total = posixpath.normpath(raw), total + size
                problems = {
                    "would leave its folder": _WAYS_OUT.search(name),
                    "is a link or a device": not plain or size < 0,
                    f"unpacks, with those before it, to over {RATIO} times all": total > limit,
                }
                if found := [problem for problem, there in problems.items() if there]:
                    raise UserError(f"{path}: {raw!r} {found[0]}: refused; get another archive")
                members[name] = Member(path, name, opens)
        yield members


def _listed(archive: Packed) -> Iterator[tuple[str, int, bool, partial[Any]]]:
    """Of each member: name, bytes, whether it is a plain file or folder, what opens it."""
    if isinstance(archive, tarfile.TarFile):
        for entry in archive:
            plain = entry.isreg() or entry.isdir()
            yield entry.name, entry.size, plain, partial(archive.extractfile, entry)
    else:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where no Unix has written it
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            yield info.filename, info.file_size, plain, partial(archive.open, info)


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
    except UserError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: cannot be unpacked ({reason}): if it is damaged, remove it and fetch it again"
        ) from None


@contextmanager
def find_images(dataset: str, folder: Path, registry: Registry) -> Iterator[list[Pair]]:
    """The images of a dataset whose files ``fetch`` put into ``folder``, by name.

    The archives stay open within the ``with``. Images of a dataset of several parts keep the names
    of their parts' datasets.

    Raises UserError: no source's files are all there, an archive is refused, a pair is incomplete,
    or there are not as many images as the dataset has.
    """
    parts = registry.dataset(dataset).parts or (dataset,)
    with ExitStack() as opened:
        yield [pair for part in parts for pair in _find(part, registry, folder, opened)]


def _find(name: str, registry: Registry, folder: Path, opened: ExitStack) -> list[Pair]:
    dataset = registry.dataset(name)
    sources = [s for s in dataset.sources if all((folder / file).is_file() for file in s.files)]
    if not sources:
        wanted = " or ".join(" and ".join(source.files) for source in dataset.sources)
        raise UserError(f"{name}: {folder} has no {wanted}: fetch it first")
    archives = [opened.enter_context(open_archive(folder / file)) for file in sources[0].files]
    members = [member for archive in archives for member in archive.values()]
    templates = {1: sources[0].hr, **sources[0].lr}
    found = {scale: _matches(text, members) for scale, text in templates.items() if text}
    names = sorted(found[min(found)])
    for scale, images in found.items():
        if sorted(images) != names or len(names) != dataset.images:
            what = f"LR images at x{scale}" if scale > 1 else "HR images"
            raise UserError(
                f"{name}: {len(images)} {what} in {', '.join(sources[0].files)}, expected the same "
                f"{dataset.images} at each scale: remove the archive and fetch it again"
            )
    hr = found.pop(1, {})
    return [Pair(name, n, hr.get(n), {scale: lr[n] for scale, lr in found.items()}) for n in names]


def _matches(template: str, members: list[Member]) -> dict[str, Member]:
    """By image name, the members that fit a template of the registry."""
    # a name starts without a dot: not so "._0001.png", which macOS puts beside each file
    pattern = re.escape(template).replace(r"\*", "[^/]+").replace(r"\{name\}", "([^/.][^/]*)")
    fits = ((re.fullmatch(f"(?:.*/)?{pattern}", member.name), member) for member in members)
    return {match[1]: member for match, member in fits if match}
