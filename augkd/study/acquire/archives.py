"""From a dataset's fetched archives to its images: pairs of HR and shipped LR, read where they lie.

Archives (zip, tar, compressed tar) are not trusted. One is refused as a whole, before anything is
read from it, if a member would leave its folder, is no plain file or folder, or unpacks to an
absurd size, by the archive's own list, to which reading members then holds it. This is stricter
than tarfile's ``data`` filter, which mends absolute names and lets links within the folder pass.
"""

import json
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, NoReturn

from torch import Tensor

from augkd.data.images import read_image
from augkd.errors import UserError, replacing
from augkd.study.acquire.registry import Registry, load_registry

MEMBERS = 1_000_000
RATIO = 100  # unpacked to packed bytes; images hardly shrink, and bombs start at about 1000
SLACK = 64 << 20  # bytes that any archive may unpack to


class Archive(ExitStack):
    """The plain files of an archive, open within ``with``.

    Attributes:
        members: what opens each, by its name ("/" between folders), in the archive's order.
        in_place: whether they may be read in any order at little cost: not of a compressed tar.
        unpacked: the folder that ``extract`` made, if it did.

    Raises:
        UserError: the file is missing, damaged, no such archive, or refused (see above).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.in_place = path, True
        self.members: dict[str, Callable[[], IO[bytes] | None]] = {}
        self.unpacked: Path | None = None
        with self._complaints():
            try:
                self._list()
            except BaseException:
                self.close()
                raise

    def _list(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(512)
        folders, total, limit = {""}, 0, RATIO * self.path.stat().st_size + SLACK
        zipped = head.startswith(b"PK")  # a tar that ends with a zip inside would pass as one
        self.in_place = zipped or head[257:262] == b"ustar"  # compressed ones show it only inside
        opened = zipfile.ZipFile(self.path) if zipped else tarfile.open(self.path)  # noqa: SIM115
        self.callback(opened.close)
        for raw, size, folder, plain, opens in _members(
            opened
        ):  # a compressed tar is unpacked here
            name, total = safe_name(raw), total + size
            if name is None or not (name or folder):
                self._refuse(f"has a member that would leave its folder, {raw!r}")
            if not plain or size < 0:
                self._refuse(f"has a link, a device or an encrypted file, {raw!r}")
            if total > limit:
                self._refuse(f"unpacks to {total} bytes or more, over {RATIO} times its own size")
            if len(self.members) + len(folders) > MEMBERS:
                self._refuse(f"has more than {MEMBERS} members")
            if name in self.members or (name in folders and not folder):
                self._refuse(f"has {name!r} twice")
            if folder:
                folders.add(name)
            else:
                self.members[name] = opens
        if isinstance(opened, tarfile.TarFile) and opened.fileobj and not self.in_place:
            while opened.fileobj.read(1 << 20):  # the check sum of all stands at the end
                if (total := total + (1 << 20)) > limit:
                    self._refuse(f"unpacks to over {RATIO} times its own size")
        for name in self.members:
            for parent in PurePosixPath(name).parents:
                if str(parent) in self.members:
                    self._refuse(f"has '{parent}' both as a file and as a folder")

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(f"{self.path}: {why}: refused; fetch it again, or remove that by hand")

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """Damage of any kind as one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # the libraries raise a dozen kinds on damaged bytes
            reason = getattr(error, "strerror", "") or str(error) or type(error).__name__
            raise UserError(
                f"{self.path}: a damaged archive ({' '.join(reason.split())}): remove it and "
                "fetch it again"
            ) from None

    def read(self, name: str) -> bytes:
        """A member. Raises UserError if there is none of that name, or it is damaged."""
        if name not in self.members:
            raise UserError(f"{self.path}: has no '{name}': expected it in this archive")
        with self._complaints():
            stream = self.members[name]()
            assert stream is not None  # a plain file has bytes
            with stream:
                return stream.read()

    def unpack(self, name: str, target: Path) -> Path:
        """Writes a member to ``target``: all of it or nothing."""
        data = self.read(name)
        with replacing(target) as beside:
            beside.write_bytes(data)
        return target

    def extract(self, folder: Path, names: Collection[str]) -> None:
        """Unpacks members to ``folder``, unless they lie there from the same file."""
        state, marker = self.path.stat(), folder / ".unpacked_from"
        origin = json.dumps([self.path.name, state.st_size, state.st_mtime_ns, sorted(names)])
        if not marker.is_file() or marker.read_text() != origin:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                for name in filter(set(names).__contains__, self.members):  # in the tar's order
                    self.unpack(name, folder / name)
                with replacing(marker) as beside:
                    beside.write_text(origin)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        self.unpacked = folder


def _members(
    opened: zipfile.ZipFile | tarfile.TarFile,
) -> Iterator[tuple[str, int, bool, bool, Callable[[], IO[bytes] | None]]]:
    """Of each member: name, bytes, if it is a folder, if it may be unpacked, what opens it."""
    if isinstance(opened, zipfile.ZipFile):
        for entry in opened.infolist():
            raw, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not entry.flag_bits & 1  # a secret
            yield raw, entry.file_size, raw.endswith("/"), plain, partial(opened.open, entry)
    else:
        for member in opened:
            folder, opens = member.isdir(), partial(opened.extractfile, member)
            yield member.name, member.size, folder, folder or member.isreg(), opens


def safe_name(raw: str) -> str | None:
    """A member's name without "./" and closing "/", or None if it would leave its folder.

    Backslashes, a colon after one letter and control characters are refused with the rest: what
    one system reads as a name, another reads as a way out.
    """
    name = "/".join(part for part in raw.split("/") if part not in ("", "."))
    ways_out = r"[\\\x00-\x1f\x7f]|^[A-Za-z]:|(^|/)\.\.(/|$)"
    return None if raw.startswith("/") or re.search(ways_out, name) else name


@dataclass(frozen=True)
class Place:
    """An image that is a member of an opened archive."""

    archive: Archive
    member: str

    def __str__(self) -> str:
        return f"{self.archive.path}: {self.member}"

    def read(self) -> Tensor:
        """(3, H, W) uint8 RGB. Raises UserError: it is damaged, or not an 8-bit image."""
        if self.archive.unpacked:
            return read_image(self.archive.unpacked / self.member)
        with TemporaryDirectory() as folder:
            file = self.archive.unpack(self.member, Path(folder) / Path(self.member).name)
            try:
                return read_image(file)
            except UserError as error:
                raise UserError(str(error).replace(str(file), str(self))) from None


@dataclass(frozen=True)
class Pair:
    """One image of a dataset: ``hr`` is None where it has none, ``lr`` has what is shipped."""

    dataset: str
    name: str
    hr: Place | None
    lr: dict[int, Place]

    def read(self) -> tuple[Tensor | None, dict[int, Tensor]]:
        """HR (3, H, W) and, by scale s, the shipped LR, at most (3, H // s, W // s); uint8.

        Raises:
            UserError: an image is damaged, or LR is larger than 1/s of HR.
        """
        hr = self.hr.read() if self.hr else None
        lr = {scale: place.read() for scale, place in self.lr.items()}
        for scale, small in lr.items():
            sides = zip(small.shape[1:], hr.shape[1:] if hr is not None else (), strict=False)
            if any(scale * a > b for a, b in sides):
                raise UserError(
                    f"{self.lr[scale]}: is larger than 1/{scale} of {self.hr}: fetch them again"
                )
        return hr, lr


@contextmanager
def find_images(
    dataset: str, folder: Path, registry: Registry | None = None
) -> Iterator[list[Pair]]:
    """The images of a dataset whose files ``fetch`` put into ``folder``, by name.

    They are read straight out of zip and plain tar archives, which stay open within the ``with``;
    of a compressed tar, they are unpacked once, to NAME.DATASET beside it. Images of a dataset of
    several parts keep the names of their parts' datasets.

    Raises:
        UserError: no source's files are all there, an archive is refused, a pair is incomplete,
            or there are not as many images as the dataset has.
    """
    registry = registry or load_registry()
    parts = registry.dataset(dataset).parts or (dataset,)
    with ExitStack() as opened:
        yield [pair for part in parts for pair in _find(part, folder, registry, opened)]


def _find(dataset: str, folder: Path, registry: Registry, opened: ExitStack) -> list[Pair]:
    entry = registry.dataset(dataset)
    for source in entry.sources:
        if all((folder / file).is_file() for file in source.files):
            break
    else:
        wanted = " or ".join(" and ".join(source.files) for source in entry.sources)
        raise UserError(f"{dataset}: {folder} has no {wanted}: fetch it first")
    archives = [opened.enter_context(Archive(folder / file)) for file in source.files]
    templates = {1: source.hr, **source.lr} if source.hr else source.lr
    found = {s: _matches(dataset, text, archives) for s, text in sorted(templates.items())}
    names, mend = next(iter(found.values())), "remove the archive and fetch it again"  # HR's if any
    for scale, places in found.items():
        if odd := sorted(places.keys() ^ names.keys()):
            raise UserError(
                f"{dataset}: '{odd[0]}' has no {'LR' if odd[0] in names else 'HR'} image at "
                f"x{scale} in {', '.join(source.files)}: {mend}"
            )
    if len(names) != entry.images:
        raise UserError(
            f"{dataset}: {len(names)} images in {', '.join(source.files)}, expected "
            f"{entry.images}: {mend}"
        )
    for archive in archives:
        if not archive.in_place:
            everywhere = [place for images in found.values() for place in images.values()]
            own = [place.member for place in everywhere if place.archive is archive]
            archive.extract(archive.path.with_name(f"{archive.path.name}.{dataset}"), own)
    hr = found.pop(1, {})
    return [
        Pair(dataset, name, hr.get(name), {scale: lr[name] for scale, lr in found.items()})
        for name in sorted(names)
    ]


def _matches(dataset: str, template: str, archives: list[Archive]) -> dict[str, Place]:
    """By image name, the members that fit a template of the registry."""
    # a name starts without a dot: not so "._0001.png", which macOS puts beside each file
    pattern = re.escape(template).replace(r"\*", "[^/]+").replace(r"\{name\}", "([^/.][^/]*)")
    found: dict[str, Place] = {}
    for place in (Place(archive, member) for archive in archives for member in archive.members):
        if match := re.fullmatch(f"(?:.*/)?{pattern}", place.member):
            if match[1] in found:
                raise UserError(
                    f"{place.archive.path}: {place.member} is a second '{match[1]}' of {dataset}, "
                    "expected one: remove the archive and fetch it again"
                )
            found[match[1]] = place
    return found
