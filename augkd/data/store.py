"""Prepared images on disk: one flat array of bytes, mapped into memory, and an index of it."""

import os
import shutil
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from augkd.errors import UserError

T = TypeVar("T")


def evenly(items: Sequence[T], count: int | None) -> list[T]:
    """So many of the items, spread evenly over them; all, if there are no more or for None."""
    count = min(count or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


@dataclass(frozen=True)
class Prepared:
    """One image: ``hr`` (3, H, W) uint8 and, for each scale, ``lr`` (3, H // s, W // s) uint8.

    ``hr`` is None for a photograph that is enlarged as it is (OST300, Table 5).
    """

    dataset: str
    name: str
    hr: Tensor | None
    lr: dict[int, Tensor]
    lr_source: str  # "bicubic", or "shipped" with the dataset


def write_store(folder: Path, images: Iterable[Prepared]) -> pd.DataFrame:
    """Writes images one after the other, in a folder beside that is renamed at the end.

    Returns the index: dataset, image, scale (1 is HR), offset, height, width, lr_source.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows, offset = [], 0
    try:
        with (partial / "pixels.u8").open("wb") as file:
            for image in images:
                for scale, pixels in _by_scale(image):
                    height, width = pixels.shape[-2:]
                    source = "" if scale == 1 else image.lr_source
                    rows.append(
                        (image.dataset, image.name, scale, offset, height, width, source),
                    )
                    offset += file.write(pixels.contiguous().numpy().tobytes())
    except BaseException:  # an image that is refused leaves nothing behind
        shutil.rmtree(partial, ignore_errors=True)
        raise
    columns = ["dataset", "image", "scale", "offset", "height", "width", "lr_source"]
    index = pd.DataFrame(rows, columns=columns)
    index.to_csv(partial / "index.csv", index=False)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return index


def _by_scale(image: Prepared) -> list[tuple[int, Tensor]]:
    high = [] if image.hr is None else [(1, image.hr)]
    return high + list(image.lr.items())


class ImageStore:
    """Opens what ``write_store`` wrote, without reading it: pages are loaded when touched.

    Attributes:
        index: as ``write_store`` returns it.
        pixels: all of the file, uint8, flat. Never write to it: the mapping is read-only, since
            Linux counts one that may be written to as memory that must be had, and so refuses
            files larger than the machine's.
        keys: (dataset, image) of every image, in order.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = pd.read_csv(folder / "index.csv", dtype={"image": str}, keep_default_na=False)
        except FileNotFoundError:
            raise UserError(f"{folder} holds no prepared images: run the prepare stage") from None
        self.index = index
        empty = np.zeros(0, np.uint8)
        pixels = np.memmap(folder / "pixels.u8", np.uint8, "r") if len(index) else empty
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.pixels = torch.from_numpy(pixels)
        places = index[["offset", "height", "width"]].to_numpy(dtype=np.int64).tolist()
        names: list[tuple[str, str, int]] = list(
            zip(index["dataset"], index["image"], index["scale"], strict=True)
        )
        self._places: dict[tuple[str, str, int], list[int]] = dict(zip(names, places, strict=True))
        self.keys = list(dict.fromkeys((dataset, image) for dataset, image, _ in names))

    def image(self, dataset: str, name: str, scale: int) -> Tensor:
        """(3, H, W) uint8; scale 1 is the HR image."""
        offset, height, width = self._places[dataset, name, scale]
        return self.pixels[offset : offset + 3 * height * width].view(3, height, width)

    def has(self, dataset: str, name: str, scale: int) -> bool:
        """Whether there is an image of that scale; 1 is HR."""
        return (dataset, name, scale) in self._places

    def pair(self, dataset: str, name: str, scale: int) -> tuple[Tensor, Tensor]:
        """LR, and HR cut to scale times its size, of an image that has both."""
        lr = self.image(dataset, name, scale)
        height, width = (scale * side for side in lr.shape[-2:])
        return lr, self.image(dataset, name, 1)[:, :height, :width]
