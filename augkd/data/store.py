"""Prepared images on disk: one flat array of bytes, mapped into memory, and an index of it."""

import csv
import os
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from augkd.errors import UserError

T = TypeVar("T")


def evenly(items: Sequence[T], count: int | None) -> list[T]:
    """So many of the items, spread evenly over them; all, if there are no more or for None."""
    count = min(count or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


class Prepared(NamedTuple):
    """One image: ``hr`` (3, H, W) uint8 and, for each scale, ``lr`` (3, H // s, W // s) uint8.

    ``hr`` is None for a photograph that is enlarged as it is (OST300, Table 5).
    """

    dataset: str
    name: str
    hr: Tensor | None
    lr: dict[int, Tensor]
    lr_source: str  # "bicubic", or "shipped" with the dataset


class Entry(NamedTuple):
    """Where an image lies: (3, height, width) bytes from ``offset`` on."""

    dataset: str
    image: str
    scale: int  # 1 is HR
    offset: int
    height: int
    width: int
    lr_source: str  # as of ``Prepared``; "" of HR


def write_store(folder: Path, images: Iterable[Prepared]) -> list[Entry]:
    """Writes images one after the other, in a folder beside that is renamed at the end.

    Returns the index, image by image.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    index, offset = [], 0
    try:
        with (partial / "pixels.u8").open("wb") as file:
            for image in images:
                high = {} if image.hr is None else {1: image.hr}
                for scale, pixels in (high | image.lr).items():
                    height, width = pixels.shape[-2:]
                    source = "" if scale == 1 else image.lr_source
                    index.append(Entry(*image[:2], scale, offset, height, width, source))
                    offset += file.write(pixels.contiguous().numpy().tobytes())
        with (partial / "index.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Entry._fields, *index])
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:  # an image that is refused leaves nothing behind
        shutil.rmtree(partial, ignore_errors=True)
    return index


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
            with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
                _, *rows = csv.reader(file)
        except FileNotFoundError:
            raise UserError(f"{folder} holds no prepared images: run the prepare stage") from None
        self.index = [Entry._make([*row[:2], *map(int, row[2:6]), row[6]]) for row in rows]
        empty = np.zeros(0, np.uint8)
        pixels = np.memmap(folder / "pixels.u8", np.uint8, "r") if self.index else empty
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.pixels = torch.from_numpy(pixels)
        self._entries = {entry[:3]: entry for entry in self.index}
        self.keys = list(dict.fromkeys(entry[:2] for entry in self.index))

    def image(self, dataset: str, name: str, scale: int) -> Tensor:
        """(3, H, W) uint8; scale 1 is the HR image."""
        offset, height, width = self._entries[dataset, name, scale][3:6]
        return self.pixels[offset : offset + 3 * height * width].view(3, height, width)

    def has(self, dataset: str, name: str, scale: int) -> bool:
        """Whether there is an image of that scale; 1 is HR."""
        return (dataset, name, scale) in self._entries

    def pair(self, dataset: str, name: str, scale: int) -> tuple[Tensor, Tensor]:
        """LR, and HR cut to scale times its size, of an image that has both."""
        lr = self.image(dataset, name, scale)
        height, width = (scale * side for side in lr.shape[-2:])
        return lr, self.image(dataset, name, 1)[:, :height, :width]
