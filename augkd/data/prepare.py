"""From photographs and benchmark folders to prepared images."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from augkd.config import Study
from augkd.data.photographs import Photograph, Split, photographs
from augkd.data.store import Prepared, write_store
from augkd.degrade.bicubic import Edges, bicubic
from augkd.errors import UserError
from augkd.images import list_images, read_image

SCALES = (2, 3, 4)
DATASETS: dict[Split, str] = {"train": "train", "test": "photographs"}


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
        if min(hr.shape[-2:]) < smallest:
            height, width = hr.shape[-2:]
            raise UserError(
                f"photograph {photograph.name} ({width} x {height}) is smaller than a patch of "
                f"{smallest} x {smallest}: make the budget's patches smaller (teach.patch, "
                "distil.patch) or leave it out of the list"
            )
        lr = {scale: degrade(hr, scale, edges) for scale in SCALES}
        yield Prepared(DATASETS[split], photograph.name, hr, lr, "bicubic")


def prepare_benchmarks(folder: Path, edges: Edges) -> Iterator[Prepared]:
    """Every dataset of ``folder`` that has an HR folder, with its own LR images if shipped.

    Layout: SET/HR/name.png, SET/LR_bicubic/X4/namex4.png.
    """
    for hr_folder in sorted(folder.glob("*/HR")):
        dataset = hr_folder.parent
        for file in list_images(hr_folder):
            hr, lr, source = read_image(file), {}, "bicubic"
            for scale in SCALES:
                shipped = dataset / "LR_bicubic" / f"X{scale}" / f"{file.stem}x{scale}.png"
                if not shipped.is_file():
                    lr[scale] = degrade(hr, scale, edges)
                    continue
                lr[scale], source = read_image(shipped), "shipped"
                if any(
                    scale * small > large
                    for small, large in zip(lr[scale].shape[1:], hr.shape[1:], strict=True)
                ):
                    raise UserError(
                        f"{shipped} is larger than 1/{scale} of {file}: replace the pair, or "
                        "remove the LR image to have it made"
                    )
            yield Prepared(dataset.name, file.stem, hr, lr, source)


def prepare_study(study: Study) -> None:
    """Writes a budget's train, test and benchmarks: stores that are mapped, not loaded."""
    out, data, images = study.folder("prepare"), study.params.data, study.budget.images
    smallest = max(SCALES) * max(study.budget.teach.patch, study.budget.distil.patch)
    counts: dict[Split, int | None] = {"train": images.train, "test": images.test}
    for split, first in counts.items():
        chosen = photographs(split, first)
        write_store(out / split, prepare_photographs(split, chosen, data.edges, smallest))
    folder = study.root / data.benchmarks if data.benchmarks else None
    found = prepare_benchmarks(folder, data.edges) if folder else iter(())
    write_store(out / "benchmarks", found)
