"""From a dataset's fetched files to its images, pairs of HR and shipped LR, read where they lie.

Archives, read without trusting them: zip, tar and compressed tar.

An archive is refused as a whole, before anything is read from it, if any member would leave its
folder (absolute names, "..", drive letters), is not a plain file or folder (links, devices), or
unpacks to an absurd size. Names and sizes are judged from the archive's own list, and the list is
held to when members are read.
"""

import json
import lzma
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from torch import Tensor

from augkd.data.images import read_image
from augkd.errors import UserError, replacing
from augkd.study.acquire.registry import Registry, Source, load_registry

MEMBERS = 1_000_000
RATIO = 100  # unpacked to packed bytes; images hardly shrink, and bombs start at about 1000
SLACK = 64 << 20  # bytes that any archive may unpack to
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # zipfile: encrypted
    NotImplementedError,  # zipfile: a compression that it does not know
    ValueError,  # tarfile: a field that is not a number
    LookupError,  # zipfile: a name of no length
    struct.error,
)


class Archive:
    """The plain files of an archive, by their names ("/" between folders).

    Attributes:
        sizes: name to unpacked bytes, in the archive's order.
        in_place: whether members may be read in any order at little cost (zip and plain tar).

    Raises:
        UserError: the file is missing, damaged, no such archive, or refused (see above).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: dict[str, int] = {}
        self._members: dict[str, zipfile.ZipInfo | tarfile.TarInfo] = {}
        self._opened: zipfile.ZipFile | tarfile.TarFile | None = None
        self.in_place = True
        with self._complaints():
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def _open(self) -> None:
        packed, folders, total = self.path.stat().st_size, set[str](), 0
        with self.path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"PK"):  # a tar that ends with a zip inside would pass as one
            self._opened = zipfile.ZipFile(self.path)
        else:
            self._opened = tarfile.open(self.path)  # noqa: SIM115 (closed by close)
            self.in_place = head[257:262] == b"ustar"  # compressed ones show it only inside
        opened = self._opened
        members = opened.infolist() if isinstance(opened, zipfile.ZipFile) else opened
        for member in members:  # a compressed tar is unpacked by this loop: judge as it goes
            name, folder, size = self._judge(member)
            total += size
            if total > RATIO * packed + SLACK:
                self._refuse(f"unpacks to {total} bytes or more, over {RATIO} times its own size")
            if len(self.sizes) + len(folders) >= MEMBERS:
                self._refuse(f"has more than {MEMBERS} members")
            if name in self.sizes or (name in folders and not folder):
                self._refuse(f"has {name!r} twice")
            if folder:
                folders.add(name)
            else:
                self.sizes[name], self._members[name] = size, member
        if isinstance(opened, tarfile.TarFile) and not self.in_place:
            self._finish(opened, RATIO * packed + SLACK)
        for name in self.sizes:
            parents = name.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                if (parent := "/".join(parents[:depth])) in self.sizes:
                    self._refuse(f"has '{parent}' both as a file and as a folder")

    def _finish(self, opened: tarfile.TarFile, limit: int) -> None:
        """Reads what follows the last member, since the check sum of all stands at the end."""
        assert opened.fileobj is not None
        while opened.fileobj.read(1 << 20):
            if (limit := limit - (1 << 20)) < 0:
                self._refuse(f"unpacks to over {RATIO} times its own size")

    def _judge(self, member: zipfile.ZipInfo | tarfile.TarInfo) -> tuple[str, bool, int]:
        """The member's plain name, whether it is a folder, and its size, if it may be unpacked."""
        if isinstance(member, zipfile.ZipInfo):
            raw, size = member.orig_filename, member.file_size
            folder = raw.endswith("/")
            kind = stat.S_IFMT(member.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            if member.flag_bits & 1:
                self._refuse(f"has an encrypted member, {raw!r}")
        else:
            raw, folder, size = member.name, member.isdir(), member.size
            plain = member.isreg() or folder
        name = safe_name(raw)
        if name is None or not (name or folder):
            self._refuse(f"has a member that would leave its folder, {raw!r}")
        if not plain or size < 0:
            self._refuse(f"has a link, a device or worse, {raw!r}")
        return name, folder, 0 if folder else size

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(f"{self.path}: {why}: refused; fetch it again, or remove that by hand")

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """Damage of any kind as one line."""
        try:
            yield
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such archive: fetch it first") from None
        except IsADirectoryError:
            raise UserError(f"{self.path}: is a folder, expected an archive") from None
        except PermissionError:
            raise UserError(f"{self.path}: may not be read: change its permissions") from None
        except _DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.path}: a damaged archive ({reason}): remove it and fetch it again"
            ) from None

    def chunks(self, name: str) -> Iterator[bytes]:
        """A member's bytes, a piece at a time.

        Raises:
            UserError: there is no such member, or it is damaged.
        """
        if name not in self._members:
            raise UserError(f"{self.path}: has no '{name}': expected it in this archive")
        member, opened, left = self._members[name], self._opened, self.sizes[name]
        with self._complaints():
            if isinstance(member, zipfile.ZipInfo):
                assert isinstance(opened, zipfile.ZipFile)
                stream: IO[bytes] | None = opened.open(member)
            else:
                assert isinstance(opened, tarfile.TarFile)
                stream = opened.extractfile(member)
        assert stream is not None  # a plain file has bytes
        with stream:
            while True:
                with self._complaints():  # not while the caller has the piece
                    piece = stream.read(1 << 20)
                if not piece:
                    break
                left -= len(piece)
                yield piece
        if left:
            raise UserError(
                f"{self.path}: a damaged archive ('{name}' is not of the size that it says): "
                "remove it and fetch it again"
            )

    def unpack(self, name: str, target: Path) -> Path:
        """Writes a member to ``target``: all of it or nothing."""
        with replacing(target) as partial:
            self._copy(name, partial)
        return target

    def _copy(self, name: str, target: Path) -> None:
        with target.open("wb") as file:
            for piece in self.chunks(name):
                file.write(piece)

    def extract(self, folder: Path, names: Collection[str] | None = None) -> Path:
        """Unpacks all, or the named members, to ``folder``, made beside and renamed.

        A folder that was made of the same members of the same file is kept.

        Raises:
            UserError: a member is damaged, or the folder cannot be written.
        """
        state = self.path.stat()
        wanted = sorted(self.sizes if names is None else names)
        origin = json.dumps([self.path.name, state.st_size, state.st_mtime_ns, wanted])
        marker = ".unpacked_from"
        if (folder / marker).is_file() and (folder / marker).read_text() == origin:
            return folder
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            chosen = set(wanted)
            for name in (name for name in self.sizes if name in chosen):  # in the tar's order
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                self._copy(name, partial / name)
            (partial / marker).write_text(origin)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror or error}): free the space or "
                "choose another place"
            ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def safe_name(raw: str) -> str | None:
    """A member's name without "./" and closing "/", or None if it would leave its folder.

    Backslashes, a colon after one letter and control characters are refused with the rest: what
    one system reads as a name, another reads as a way out.
    """
    if raw.startswith("/") or "\\" in raw:
        return None
    if any(ord(character) < 32 or ord(character) == 127 for character in raw):
        return None
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if ".." in parts or re.match(r"[A-Za-z]:", "".join(parts[:1])):
        return None
    return "/".join(parts)


@dataclass(frozen=True)
class Place:
    """An image: a member of an opened archive, or a file under a folder it was unpacked to."""

    archive: Archive
    member: str
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.archive.path}: {self.member}"

    def read(self) -> Tensor:
        """(3, H, W) uint8 RGB.

        Raises:
            UserError: it is damaged, or not an 8-bit image.
        """
        if self.folder is not None:
            return read_image(self.folder / self.member)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(self.member).name
            self.archive.unpack(self.member, file)
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
    lr: dict[int, Place] = field(default_factory=dict)

    def read(self) -> tuple[Tensor | None, dict[int, Tensor]]:
        """HR (3, H, W) and, by scale s, the shipped LR, at most (3, H // s, W // s); uint8.

        Raises:
            UserError: an image is damaged, or LR is larger than 1/s of HR.
        """
        hr = self.hr.read() if self.hr else None
        lr = {scale: place.read() for scale, place in self.lr.items()}
        for scale, small in lr.items() if hr is not None else ():
            assert hr is not None
            if any(scale * a > b for a, b in zip(small.shape[1:], hr.shape[1:], strict=True)):
                raise UserError(
                    f"{self.lr[scale]}: is larger than 1/{scale} of {self.hr}: fetch them again"
                )
        return hr, lr


@contextmanager
def find_images(
    dataset: str, folder: Path, registry: Registry | None = None
) -> Iterator[list[Pair]]:
    """The images of a dataset whose files ``augkd.study.acquire.fetch`` put into ``folder``, by name.

    They are read straight out of zip and plain tar archives, which stay open within the ``with``;
    of a compressed tar, they are unpacked once, to NAME.DATASET beside it. Images of a dataset of
    several parts keep the names of their parts' datasets.

    Raises:
        UserError: no source's files are all there, an archive is refused, a pair is incomplete,
            or there are not as many images as the dataset has.
    """
    registry = registry or load_registry()
    entry = registry.dataset(dataset)
    with ExitStack() as opened:
        pairs: list[Pair] = []
        for part in entry.parts or (dataset,):
            pairs += _find(part, folder, registry, opened)
        yield pairs


def _find(name: str, folder: Path, registry: Registry, opened: ExitStack) -> list[Pair]:
    entry = registry.dataset(name)
    for source in entry.sources:
        if all((folder / file).is_file() for file in source.files):
            break
    else:
        wanted = " or ".join(" and ".join(source.files) for source in entry.sources)
        raise UserError(f"{name}: {folder} has no {wanted}: fetch it first")
    archives = [opened.enter_context(Archive(folder / file)) for file in source.files]
    pairs = _pairs(name, source, archives)
    if len(pairs) != entry.images:
        raise UserError(
            f"{name}: {len(pairs)} images in {', '.join(source.files)}, expected {entry.images}: "
            "remove the archive and fetch it again"
        )
    return pairs


def _pairs(dataset: str, source: Source, archives: list[Archive]) -> list[Pair]:
    templates = {**({1: source.hr} if source.hr else {}), **source.lr}
    found = {scale: _matches(dataset, text, archives) for scale, text in templates.items()}
    names = found[min(found)]  # HR's, or LR's where there is no HR
    for scale, matches in found.items():
        if odd := sorted(matches.keys() ^ names.keys()):
            raise UserError(
                f"{dataset}: '{odd[0]}' has no {'LR' if odd[0] in names else 'HR'} image at "
                f"x{scale} in {', '.join(source.files)}: remove the archive and fetch it again"
            )
    folders = {}
    for archive in archives:
        if not archive.in_place:
            wanted = [m for matches in found.values() for a, m in matches.values() if a is archive]
            beside = archive.path.with_name(f"{archive.path.name}.{dataset}")
            folders[archive] = archive.extract(beside, wanted)
    pairs = []
    for name in sorted(names):
        places = {
            scale: Place(archive, member, folders.get(archive))
            for scale, (archive, member) in ((s, found[s][name]) for s in sorted(found))
        }
        pairs.append(Pair(dataset, name, places.pop(1, None), places))
    return pairs


def _matches(
    dataset: str, template: str, archives: list[Archive]
) -> dict[str, tuple[Archive, str]]:
    """Image names to archive and member, of all members that fit a template of the registry."""
    # a name starts without a dot: not so "._0001.png", which macOS puts beside each file
    pattern = re.escape(template).replace(r"\*", "[^/]+").replace(r"\{name\}", "([^/.][^/]*)")
    fits = re.compile(f"(?:.*/)?{pattern}").fullmatch
    found: dict[str, tuple[Archive, str]] = {}
    for archive in archives:
        for member in archive.sizes:
            match = fits(member)
            if match is None:
                continue
            if match[1] in found:
                raise UserError(
                    f"{archive.path}: {member} is a second '{match[1]}' of {dataset}, expected "
                    "one: remove the archive and fetch it again"
                )
            found[match[1]] = archive, member
    return found
