"""Training images on the device: where a GPU has room, batches are cut there and nothing waits."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHARE = 0.5  # of the free memory that images may take: networks and their gradients need the rest

Places = NDArray[np.int64]
"""(n, 3): offset into the flat pixels, height and width of each image, (3, height, width) uint8."""


@dataclass(frozen=True)
class Pixels:
    """Flat uint8 ``pixels``, and where the LR and HR images lie in them."""

    pixels: Tensor
    lr: Places
    hr: Places


def place(pixels: Tensor, lr: Places, hr: Places, device: torch.device, where: str) -> Pixels:
    """The images on ``device`` where they fit there, else where they are.

    Args:
        pixels: flat uint8, mapped from a file, of which ``lr`` and ``hr`` may be a small part.
        where: "auto" moves them to a GPU if they fit into ``SHARE`` of its free memory, "never"
            does not. On a CPU they stay mapped: the system keeps what is read in memory, and
            gives it up when it is needed.
    """
    if where == "never" or device.type == "cpu" or size(lr, hr) > SHARE * _free(device):
        return Pixels(pixels, lr, hr)
    return pack(pixels, lr, hr, device)


def pack(pixels: Tensor, lr: Places, hr: Places, device: torch.device) -> Pixels:
    """A copy on ``device`` of these images alone, one after the other, and where they are there."""
    packed = torch.empty(size(lr, hr), dtype=torch.uint8, device=device)
    moved, at = [], 0
    for places in (lr, hr):
        new = places.copy()
        for row, (offset, height, width) in enumerate(places.tolist()):
            count = 3 * height * width
            packed[at : at + count] = pixels[offset : offset + count]
            new[row, 0] = at
            at += count
        moved.append(new)
    return Pixels(packed, *moved)


def size(lr: Places, hr: Places) -> int:
    """Bytes of all the images."""
    return int(sum(3 * (p[:, 1] * p[:, 2]).sum() for p in (lr, hr)))


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])
