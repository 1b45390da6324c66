"""From photographs, benchmark folders and fetched datasets to prepared images.

``photographs.csv`` beside this file lists, by name and SHA-256, the photographs of installed
packages that the study trains and tests on with no download. Two images of mvtb-data that
are also in the benchmarks (58060 of B100, lena of Set14) are not in it, nor are its drawings,
calibration targets and noisy aerial pictures. The campus pictures overlap, so all of them train.
"""

import csv
import hashlib
import importlib.util
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from augkd.data.images import list_images, read_image
from augkd.data.store import Prepared, write_store
from augkd.degrade.bicubic import Edges, bicubic
from augkd.errors import UserError
from augkd.study.acquire.archives import find_images
from augkd.study.acquire.registry import Registry, load_registry
from augkd.study.params import Study

SCALES = (2, 3, 4)
DATASETS = {"train": "train", "test": "photographs"}  # as scores name them, by split
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


def _filled(dataset: str, name: str, hr: Tensor, lr: dict[int, Tensor], edges: Edges) -> Prepared:
    """An image and its LR images: those shipped with it, and those of other scales made here."""
    made = {scale: degrade(hr, scale, edges) for scale in SCALES if scale not in lr}
    source = " and ".join(["shipped"] * bool(lr) + ["bicubic"] * bool(made))
    return Prepared(dataset, name, hr, dict(sorted((lr | made).items())), source)


def prepare_photographs(split: str, study: Study) -> Iterator[Prepared]:
    """Reads and degrades the photographs that the budget takes of a split."""
    budget = study.budget
    smallest = max(SCALES) * max(budget.teach.patch, budget.distil.patch)  # side of a patch's HR
    for photograph in photographs(split, getattr(budget.images, split)):
        hr = photograph.read()
        _, height, width = hr.shape
        if min(height, width) < smallest:
            what = f"photograph {photograph.name} ({width} x {height}) is smaller than a patch"
            mend = "make the budget's smaller (teach.patch, distil.patch) or take it off the list"
            raise UserError(f"{what} of {smallest} x {smallest}: {mend}")
        yield _filled(DATASETS[split], photograph.name, hr, {}, study.params.data.edges)


def prepare_datasets(
    names: Iterable[str], folder: Path, registry: Registry, edges: Edges, real: bool = False
) -> Iterator[Prepared]:
    """Datasets whose files were fetched into ``folder``, with what is shipped of LR images.

    Those of ``real`` ones are photographs of their own: none is made, and HR may be absent.
    """
    for dataset in names:
        with find_images(dataset, folder, registry) as pairs:
            for pair in pairs:
                hr, lr = pair.read()
                if real:
                    yield Prepared(pair.dataset, pair.name, hr, dict(sorted(lr.items())), "shipped")
                elif hr is None:
                    raise UserError(f"{dataset}: has no HR images: name it under real instead")
                else:
                    yield _filled(pair.dataset, pair.name, hr, lr, edges)


def prepare_benchmarks(folder: Path, edges: Edges, but: Collection[str]) -> Iterator[Prepared]:
    """Every dataset of ``folder`` that has an HR folder, with its own LR images if shipped.

    Layout: SET/HR/name.png, SET/LR_bicubic/X4/namex4.png. Datasets named in ``but`` are left out.
    """
    folders = [hr for hr in sorted(folder.glob("*/HR")) if hr.parent.name not in but]
    for file in chain.from_iterable(map(list_images, folders)):
        dataset, hr = file.parents[1], read_image(file)
        shipped = {}
        for scale in SCALES:
            place = dataset / "LR_bicubic" / f"X{scale}" / f"{file.stem}x{scale}.png"
            if place.is_file():
                shipped[scale] = read_image(place)
                if any(scale * shipped[scale].shape[side] > hr.shape[side] for side in (1, 2)):
                    what = f"{place} is larger than 1/{scale} of {file}"
                    raise UserError(f"{what}: replace the pair, or remove it to have it made")
        yield _filled(dataset.name, file.stem, hr, shipped, edges)


def prepare_study(study: Study) -> None:
    """Writes a budget's train, test and benchmarks: stores that are mapped, not loaded.

    Where the budget names datasets, train holds those of both training sets and test those that
    are watched in training.
    """
    if study.only_shows("prepare"):
        return
    data, sets = study.params.data, study.budget.images.datasets
    found: dict[str, Iterable[Prepared]]
    if sets:
        place, listed = study.root / study.budget.origin, load_registry(study.root / data.registry)
        of = partial(prepare_datasets, folder=place, registry=listed, edges=data.edges)
        found = {
            "train": of(dict.fromkeys(sets.train + sets.expanded)),
            "test": of(sets.watch),
            "benchmarks": chain(of(sets.test), of(sets.real, real=True)),
        }
    else:
        found = {split: prepare_photographs(split, study) for split in ("train", "test")}
    if data.benchmarks:
        taken = sets.test + sets.real if sets else ()
        own = prepare_benchmarks(study.root / data.benchmarks, data.edges, taken)
        found["benchmarks"] = chain(found.get("benchmarks", ()), own)
    for part in ("train", "test", "benchmarks"):
        write_store(study.folder("prepare") / part, found.get(part, ()))
