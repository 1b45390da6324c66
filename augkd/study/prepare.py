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
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from torch import Tensor

from augkd.data.images import list_images, read_image
from augkd.data.store import Prepared, write_store
from augkd.degrade.bicubic import Edges, bicubic
from augkd.errors import UserError
from augkd.study.acquire.archives import find_images
from augkd.study.acquire.registry import Registry, load_registry
from augkd.study.params import Study

Split = Literal["train", "test"]
SCALES = (2, 3, 4)
DATASETS: dict[Split, str] = {"train": "train", "test": "photographs"}
LIST = Path(__file__).with_name("photographs.csv")
DISTRIBUTIONS = {"mvtbdata": "mvtb-data", "skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Photograph:
    """One line of the list. ``shrink`` 2 halves a noisy 8-megapixel original."""

    name: str
    split: Split
    package: str
    path: str
    shrink: int
    sha256: str

    def locate(self) -> Path:
        """Where the file is installed.

        Raises:
            UserError: the package or the file is missing, or its content is not the listed one.
        """
        spec = importlib.util.find_spec(self.package)  # finds without importing
        file = Path(spec.origin).parent / self.path if spec and spec.origin else None
        if file is None:
            problem = f"package {DISTRIBUTIONS[self.package]} is not installed"
        elif not file.is_file():
            problem = f"{file} is missing"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != self.sha256:
            problem = f"{file} has changed (its SHA-256 is not the one in {LIST.name})"
        else:
            return file
        raise UserError(
            f"photograph {self.name}: {problem}; install the locked version: pip install -r "
            f"requirements.lock ({self.package})"
        )

    def read(self) -> Tensor:
        """(3, H, W) uint8 RGB."""
        image = read_image(self.locate())
        return image if self.shrink == 1 else bicubic(image, self.shrink)


def photographs(split: Split, first: int | None = None) -> Iterator[Photograph]:
    """The listed photographs of a split, in order; only the first ones if a number is given."""
    with LIST.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    for row in rows[:first]:
        yield Photograph(**{**row, "shrink": int(row["shrink"])})  # type: ignore[arg-type]


def degrade(hr: Tensor, scale: int, edges: Edges) -> Tensor:
    """LR of an 8-bit HR image whose sides are first cut to multiples of the scale."""
    height, width = (side // scale * scale for side in hr.shape[-2:])
    return bicubic(hr[:, :height, :width], scale, edges)


def prepare_photographs(
    split: Split, chosen: Iterable[Photograph], edges: Edges, smallest: int
) -> Iterator[Prepared]:
    """Reads and degrades photographs; ``smallest`` is the HR side that a patch needs."""
    for photograph in chosen:
        hr = photograph.read()
        height, width = hr.shape[-2:]
        if min(height, width) < smallest:
            raise UserError(
                f"photograph {photograph.name} ({width} x {height}) is smaller than a patch of "
                f"{smallest} x {smallest}: make the budget's patches smaller (teach.patch, "
                "distil.patch) or leave it out of the list"
            )
        lr = {scale: degrade(hr, scale, edges) for scale in SCALES}
        yield Prepared(DATASETS[split], photograph.name, hr, lr, "bicubic")


def prepare_datasets(
    names: Iterable[str], folder: Path, registry: Registry, edges: Edges, real: bool = False
) -> Iterator[Prepared]:
    """Datasets whose files were fetched into ``folder``.

    LR images are those shipped with them. Of scales that are not shipped they are made here, but
    for ``real`` ones: their LR images are photographs of their own, and HR may be absent.
    """
    for dataset in names:
        with find_images(dataset, folder, registry) as pairs:
            for pair in pairs:
                hr, lr = pair.read()
                made = {}
                if not real:
                    if hr is None:
                        raise UserError(f"{dataset}: has no HR images: name it under real instead")
                    made = {s: degrade(hr, s, edges) for s in SCALES if s not in lr}
                source = " and ".join(["shipped"] * bool(lr) + ["bicubic"] * bool(made))
                both = dict(sorted((lr | made).items()))
                yield Prepared(pair.dataset, pair.name, hr, both, source)


def prepare_benchmarks(folder: Path, edges: Edges, but: Collection[str] = ()) -> Iterator[Prepared]:
    """Every dataset of ``folder`` that has an HR folder, with its own LR images if shipped.

    Layout: SET/HR/name.png, SET/LR_bicubic/X4/namex4.png. Datasets named in ``but`` are left out.
    """
    for hr_folder in sorted(folder.glob("*/HR")):
        dataset = hr_folder.parent
        if dataset.name in but:
            continue
        for file in list_images(hr_folder):
            hr, lr, source = read_image(file), {}, "bicubic"
            for scale in SCALES:
                shipped = dataset / "LR_bicubic" / f"X{scale}" / f"{file.stem}x{scale}.png"
                if not shipped.is_file():
                    lr[scale] = degrade(hr, scale, edges)
                    continue
                lr[scale], source = read_image(shipped), "shipped"
                if any(scale * lr[scale].shape[side] > hr.shape[side] for side in (1, 2)):
                    raise UserError(
                        f"{shipped} is larger than 1/{scale} of {file}: replace the pair, or "
                        "remove the LR image to have it made"
                    )
            yield Prepared(dataset.name, file.stem, hr, lr, source)


def prepare_study(study: Study) -> None:
    """Writes a budget's train, test and benchmarks: stores that are mapped, not loaded.

    Where the budget names datasets, train holds those of both training sets and test those that
    are watched in training.
    """
    if study.only_shows("prepare"):
        return
    images, data = study.budget.images, study.params.data
    edges, datasets = data.edges, images.datasets
    found: dict[str, Iterable[Prepared]]
    if datasets:
        place = study.root / study.budget.origin
        registry = load_registry(study.root / data.registry)
        train = dict.fromkeys((*datasets.train, *datasets.expanded))
        found = {
            "train": prepare_datasets(train, place, registry, edges),
            "test": prepare_datasets(datasets.watch, place, registry, edges),
            "benchmarks": chain(
                prepare_datasets(datasets.test, place, registry, edges),
                prepare_datasets(datasets.real, place, registry, edges, real=True),
            ),
        }
    else:
        smallest = max(SCALES) * max(study.budget.teach.patch, study.budget.distil.patch)
        counts: dict[Split, int | None] = {"train": images.train, "test": images.test}
        found = {
            split: prepare_photographs(split, photographs(split, first), edges, smallest)
            for split, first in counts.items()
        }
    if data.benchmarks:
        taken = (*datasets.test, *datasets.real) if datasets else ()
        others = prepare_benchmarks(study.root / data.benchmarks, edges, but=taken)
        found["benchmarks"] = chain(found.get("benchmarks", ()), others)
    for part in ("train", "test", "benchmarks"):
        write_store(study.folder("prepare") / part, found.get(part, ()))
