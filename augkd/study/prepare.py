"""From photographs, benchmark folders and fetched datasets to prepared images.

``photographs.csv`` beside this file lists, by name and SHA-256, the photographs of installed
packages that the study trains and tests on with no download. Two images of mvtb-data that
are also in the benchmarks (58060 of B100, lena of Set14) are not in it, nor are its drawings,
calibration targets and noisy aerial pictures. The campus pictures overlap, so all of them train.
"""

import csv
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from augkd.data.images import list_images, read_image
from augkd.data.store import Prepared, write_store
from augkd.degrade.bicubic import Edges, bicubic
from augkd.errors import UserError
from augkd.study.acquire.archives import Member, Pair, find_images
from augkd.study.acquire.registry import load_registry
from augkd.study.params import Study

SCALES = (2, 3, 4)
LIST = Path(__file__).with_name("photographs.csv")


class Photograph(NamedTuple):
    """One line of the list. ``shrink`` 2 halves a noisy 8-megapixel original."""

    name: str
    split: str
    package: str
    path: str
    shrink: int
    sha256: str

    def locate(self) -> Path:
        """Where the file is installed. UserError: it is not, or it is not the listed one."""
        spec = importlib.util.find_spec(self.package)  # finds without importing
        file = Path(spec.origin if spec and spec.origin else self.package).parent / self.path
        found = file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest()
        if found == self.sha256:
            return file
        problem = f"has changed (not the SHA-256 of {LIST.name})" if found else "is missing"
        what = f"photograph {self.name}: {file} of package {self.package} {problem}"
        raise UserError(f"{what}; install the locked version: pip install -r requirements.lock")

    def read(self) -> Tensor:
        """(3, H, W) uint8 RGB."""
        image = read_image(self.locate())
        return image if self.shrink == 1 else bicubic(image, self.shrink)


def photographs(split: str, first: int | None = None) -> list[Photograph]:
    """The photographs of a split ("train" or "test"), in order; the first ones, if so many."""
    with LIST.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split][:first]
    return [Photograph(**row | {"shrink": int(row["shrink"])}) for row in rows]  # type: ignore[arg-type]


def degrade(hr: Tensor, scale: int, edges: Edges) -> Tensor:
    """LR of an 8-bit HR image whose sides are first cut to multiples of the scale."""
    height, width = (side // scale * scale for side in hr.shape[-2:])
    return bicubic(hr[:, :height, :width], scale, edges)


def prepare_photographs(study: Study, split: str) -> Iterator[Prepared]:
    """Reads and degrades the photographs that the budget takes of a split."""
    dataset = "train" if split == "train" else "photographs"  # as scores name it
    for photograph in photographs(split, getattr(study.budget.images, split)):
        hr = photograph.read()
        lr = {scale: degrade(hr, scale, study.params.data.edges) for scale in SCALES}
        yield Prepared(dataset, photograph.name, hr, lr, "bicubic")


def prepare_pairs(study: Study, pairs: Iterable[Pair]) -> Iterator[Prepared]:
    """Images with their shipped LR images, and those of other scales made here; not so of the
    budget's real datasets, which are left as they are, and whose HR may be absent."""
    sets, edges = study.budget.images.datasets, study.params.data.edges
    for pair in pairs:
        (hr, lr), made = pair.read(), {}
        if not sets or pair.dataset not in sets.real:
            if hr is None:
                raise UserError(f"{pair.dataset}: has no HR images: name it under real instead")
            made = {scale: degrade(hr, scale, edges) for scale in SCALES if scale not in lr}
        source = " and ".join(["shipped"] * bool(lr) + ["bicubic"] * bool(made))
        yield Prepared(pair.dataset, pair.name, hr, dict(sorted((lr | made).items())), source)


def find_datasets(study: Study, names: Iterable[str]) -> Iterator[Pair]:
    """The images of datasets that were fetched."""
    registry = load_registry(study.root / study.params.data.registry)
    for name in names:
        with find_images(name, study.root / study.budget.origin, registry) as pairs:
            yield from pairs


def find_benchmarks(study: Study) -> Iterator[Pair]:
    """Those of every set in the folder of benchmarks that has HR, but for sets that were fetched.

    Layout: SET/HR/name.png, SET/LR_bicubic/X4/namex4.png.
    """
    folder, sets = study.params.data.benchmarks, study.budget.images.datasets
    fetched = sets.test + sets.real if sets else ()
    every = (study.root / folder).glob("*/HR") if folder else ()
    own = sorted(hr for hr in every if hr.parent.name not in fetched)
    for file in chain.from_iterable(map(list_images, own)):
        of = file.parents[1]
        files = {s: of / f"LR_bicubic/X{s}/{file.stem}x{s}.png" for s in SCALES} | {1: file}
        there = {scale: place for scale, place in files.items() if place.is_file()}
        found = {s: Member(of, place.name, partial(place.open, "rb")) for s, place in there.items()}
        yield Pair(of.name, file.stem, found.pop(1), found)


def prepare_study(study: Study) -> None:
    """Writes a budget's train, test and benchmarks: stores that are mapped, not loaded.

    Where the budget names datasets, train holds those of both training sets and test those that
    are watched in training.
    """
    if study.only_shows("prepare"):
        return
    own = prepare_pairs(study, find_benchmarks(study))
    if sets := study.budget.images.datasets:
        named = sets.train + sets.expanded, sets.watch, sets.test + sets.real
        parts = [prepare_pairs(study, find_datasets(study, dict.fromkeys(n))) for n in named]
        parts[2] = chain(parts[2], own)
    else:
        parts = [*(prepare_photographs(study, split) for split in ("train", "test")), own]
    for part, images in zip(("train", "test", "benchmarks"), parts, strict=True):
        write_store(study.folder("prepare") / part, images)
