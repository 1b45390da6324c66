"""From a dataset's fetched files to its images, pairs of HR and shipped LR, read where they lie."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from augkd.data.archives import Archive
from augkd.data.registry import Registry, Source, load_registry
from augkd.errors import UserError
from augkd.images import read_image


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
    """The images of a dataset whose files ``augkd.data.fetch`` put into ``folder``, by name.

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
