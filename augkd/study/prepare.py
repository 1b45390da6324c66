"""From photographs, benchmark folders and fetched datasets to prepared images.

``photographs.csv`` beside this file lists, by name and SHA-256, the photographs of installed
packages that the study trains and tests on with no download. Two images of mvtb-data that
are also in the benchmarks (58060 of B100, lena of Set14) are not in it, nor are its drawings,
calibration targets and noisy aerial pictures. The campus pictures overlap, so all of them train.
"""

import csv
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from augkd.data.images import SUFFIXES, list_images, read_image
from augkd.data.store import Prepared, write_store
from augkd.degrade.bicubic import Edges, bicubic
from augkd.errors import UserError
from augkd.study.acquire.archives import Member, Pair, find_images
from augkd.study.acquire.registry import load_registry
from augkd.study.params import Study

SCALES = (2, 3, 4)
_PLACE = re.compile("hr/[^/]+|lr_bicubic/x([2-9])/[^/]+", re.IGNORECASE)  # in a benchmark's folder
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
    return bicubic(hr[:, :height, :width], scale, edges) if height and width else hr[:, :0, :0]


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

    Layout: SET/HR/name.png, SET/LR_bicubic/X4/namex4.png (case and kind are free, x4 can be left
    out). UserError: an image is not of it, and would be made anew as if it were not there.
    """
    folder, sets = study.params.data.benchmarks, study.budget.images.datasets
    fetched = sets.test + sets.real if sets else ()
    every = (study.root / folder).glob("*/HR")
    for of in sorted(hr.parent for hr in every if hr.parent.name not in fetched):
        if of.name in ("train", "photographs", "mean", *(sets.names() if sets else ())):
            raise UserError(f"{of}: the study calls images of its own so: rename the folder")
        found = dict[str, dict[int, Member]]()
        for file in list_images(of / "HR") + sorted(of.glob("[LlXx]*/**/[!.]*")):
            place = _PLACE.fullmatch(inside := file.relative_to(of).as_posix())
            scale, name = int(place[1] or 1) if place else 0, file.stem
            if scale > 1 and name not in found:
                name = re.sub(f"x{scale}$", "", name, flags=re.IGNORECASE)
            named, image = scale == 1 or name in found, file.suffix.lower() in SUFFIXES
            known = named and image and file.is_file() and scale in (1, *SCALES)  # but no pipe
            if known and scale not in found.setdefault(name, {}):
                found[name][scale] = Member(of, inside, partial(file.open, "rb"))
            elif (named or image) and scale < 5:
                mend = "name it LR_bicubic/X4/NAMEx4.png, one for each HR/NAME, or remove it"
                raise UserError(f"{file}: is not understood: {mend}")
        for name, members in found.items():
            yield Pair(of.name, name, members.pop(1), members)


def usable(study: Study, part: str, images: Iterable[Prepared]) -> Iterator[Prepared]:
    """The images of a part. UserError: a later stage could not use one, perhaps days later."""
    least, sets = {2: 8, 3: 6, 4: 5}, study.budget.images.datasets  # LR sides that SSIM needs
    if part == "train":
        teachers = map(study.teacher, study.params.teachers)
        patches = [study.schedule(teacher).patch for teacher in teachers if teacher.trained]
        patches += [study.schedule(study.cohort(name)).patch for name in study.trained()]
        patches.append(36 if sets else 8)  # for Figures 1 and 4, and for SSIM
        least = dict.fromkeys(SCALES, max(patches))
    elif part == "test" and sets:
        least = dict.fromkeys(SCALES, 64)  # of their centres the curves are drawn
    for image in images:
        where = f"{image.dataset}: image {image.name!r}"
        if any(not x.isprintable() or x != x.strip() or "$" in x for x in image[:2]):
            raise UserError(f"{where}: no page can show that name: rename it")
        for scale, low in image.lr.items():
            size, need = low.shape[1:], 192 // scale if image.hr is None else least[scale]  # NIQE
            if min(size) < need:
                small = f"{size[1]} x {size[0]} pixels at 1/{scale}, less than {need}"
                raise UserError(f"{where} is {small}: remove it, or take a larger one")
        inner = (next(iter(image.lr.values())) if image.hr is None else image.hr)[:, 4:-4, 4:-4]
        if bool((inner == inner[:, :1, :1]).all()):
            raise UserError(f"{where}: is of one colour, and so has no finite PSNR: remove it")
        yield image


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
        write_store(study.folder("prepare") / part, usable(study, part, images))
