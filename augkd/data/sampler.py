"""Draws a cohort's batches. Everything random about training images is drawn here.

What a cohort sees at one step: everything random has been drawn by the sampler.

Training images on the device: where a GPU has room, batches are cut there and nothing waits.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augkd.augment import Invertible, step_generator, zoom_in, zoom_out
from augkd.data.store import ImageStore, evenly
from augkd.degrade.bicubic import Edges
from augkd.errors import UserError


@dataclass(frozen=True)
class Batch:
    """One step's images, RGB in [0, 1], for N patches of p x p LR pixels at scale s.

    Attributes:
        lr: (N, 3, p, p).
        hr: (N, 3, s*p, s*p).
        zoom_in: (K*N, 3, p, p), crops of ``hr`` (Section 3.3); crop k*N + i is of image i.
        zoom_out: (N, 3, p/s, p/s), ``lr`` reduced once more (Section 3.3).
        transform: the drawn F of Section 3.4, for K*N images.
        uniform: (K*N, 4), what ``transform`` was drawn from: of another probability p, F is
            ``Invertible(uniform < p)``. None where no such control is trained.
        zoom_cell: as ``zoom_in``, but one cell of the scale x scale grid for the whole batch, as
            the predecessor's released code crops. Likewise None.
        seed: the number from which a method that must draw (dropout, sampling) may seed itself.
    """

    lr: Tensor
    hr: Tensor
    zoom_in: Tensor
    zoom_out: Tensor
    transform: Invertible
    seed: int
    uniform: Tensor | None = None
    zoom_cell: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        moved = {
            f.name: value if f.name == "seed" else value.to(device)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return Batch(**moved)


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


class PatchSampler:
    """Batches as a function of (seed, step): a resumed run draws what the first would have.

    Patches are drawn uniformly over all positions of all images, as BasicSR's equal sub-images
    do, then flipped and transposed with LR and HR alike (Appendix A.1), each with p = 0.5.

    Args:
        store: prepared training images.
        patch: side of the LR patch, divisible by the scale.
        crops: K, zoom-in crops an image.
        probability: of each operation of F (Section 3.4).
        images: how many of the images are used, spread evenly over them; None is all.
        datasets: whose images are used; None is all of the store's.
        degradation: "bicubic" takes the stored LR images; "bsrgan" makes the LR patches from the
            HR patches, each with a degradation drawn for it (Table 5).
        device: of the batches.
        on_device: "auto" keeps the images on a GPU where they fit, "never" does not. Batches are
            the same.
    """

    def __init__(
        self,
        store: ImageStore,
        *,
        scale: int,
        patch: int,
        batch: int,
        seed: int,
        edges: Edges = "replicate",
        crops: int = 1,
        probability: float = 0.3,
        images: int | None = None,
        datasets: Collection[str] | None = None,
        degradation: Literal["bicubic", "bsrgan"] = "bicubic",
        device: torch.device | None = None,
        on_device: Literal["auto", "never"] = "auto",
    ) -> None:
        if patch % scale:
            raise UserError(
                f"patch {patch} is not divisible by the scale {scale}: correct the budget's patch"
            )
        if crops > scale**2:
            raise UserError(
                f"augment.crops {crops} is more than the {scale**2} cells of a patch: use fewer"
            )
        self.scale, self.patch, self.batch, self.seed = scale, patch, batch, seed
        self.edges, self.crops, self.probability = edges, crops, probability
        self.degradation = degradation
        self.device = device or torch.device("cpu")
        index = store.index
        if datasets is not None:
            index = index[index.dataset.isin(list(datasets))]
        lr, hr = (
            index[index.scale == s][["offset", "height", "width"]].to_numpy(np.int64)
            for s in (scale, 1)
        )
        names = index[index.scale == scale]["image"].to_numpy()
        if not len(names):
            raise UserError(
                f"no training images at x{scale} of {', '.join(datasets or ['any dataset'])}: "
                "correct the budget's images, and run the prepare stage"
            )
        if images:
            chosen = evenly(range(len(names)), images)
            lr, hr, names = lr[chosen], hr[chosen], names[chosen]
        for name, (_, height, width) in zip(names, lr, strict=True):
            if min(height, width) < patch:
                raise UserError(
                    f"{name}: its x{scale} LR image ({width} x {height}) is smaller than a patch "
                    f"({patch} x {patch}): make the budget's patch smaller or remove the image"
                )
        positions = (lr[:, 1] - patch + 1) * (lr[:, 2] - patch + 1)
        self._share = positions / positions.sum()
        held = place(store.pixels, lr, hr, self.device, on_device)
        self.pixels, self._lr, self._hr = held.pixels, held.lr, held.hr

    def draw(self, step: int) -> Batch:
        """The batch of a step, on the sampler's device."""
        n, scale, patch = self.batch, self.scale, self.patch
        generator = step_generator(self.seed, step)
        image = generator.choice(len(self._lr), n, p=self._share)
        row = generator.integers(0, self._lr[image, 1] - patch + 1)
        column = generator.integers(0, self._lr[image, 2] - patch + 1)
        flags = generator.random((n, 4)) < 0.5
        flags[:, 0] = False  # paired augmentation has no colour inversion
        offsets = generator.integers(0, (scale - 1) * patch + 1, (self.crops * n, 2))
        uniform = generator.random((self.crops * n, 4))
        seed = int(generator.integers(2**31))
        cells = generator.choice(scale**2, self.crops, replace=False)
        corners = np.stack([cells // scale, cells % scale], 1).repeat(n, 0) * patch

        device = self.device
        paired = Invertible(torch.from_numpy(flags)).to(device)
        hr = paired.apply(self._cut(self._hr[image], scale * row, scale * column, scale * patch))
        if self.degradation == "bicubic":
            lr = paired.apply(self._cut(self._lr[image], row, column, patch))
        else:
            from augkd.degrade.bsrgan import Degradation  # here: other cohorts do not rest on it

            lr = torch.stack([Degradation.draw(scale, generator).apply(one) for one in hr.cpu()])
            lr = lr.to(device)
        return Batch(
            lr=lr,
            hr=hr,
            zoom_in=zoom_in(hr, patch, torch.from_numpy(offsets)),
            zoom_out=zoom_out(lr, scale, self.edges),
            transform=Invertible(torch.from_numpy(uniform < self.probability)).to(device),
            seed=seed,
            uniform=torch.from_numpy(uniform).to(device),
            zoom_cell=zoom_in(hr, patch, torch.from_numpy(corners)),
        )

    def _cut(self, place: np.ndarray, row: np.ndarray, column: np.ndarray, size: int) -> Tensor:
        """Patches (N, 3, size, size) in [0, 1] out of the flat pixels, in one gather."""
        device = self.pixels.device
        offset, height, width = (torch.from_numpy(place[:, i]).view(-1, 1, 1, 1) for i in range(3))
        corner = offset + torch.from_numpy(row).view(-1, 1, 1, 1) * width
        corner = corner + torch.from_numpy(column).view(-1, 1, 1, 1)
        side = torch.arange(size, device=device)
        index = (
            corner.to(device)
            + torch.arange(3, device=device).view(1, 3, 1, 1) * (height * width).to(device)
            + side.view(1, 1, -1, 1) * width.to(device)
            + side
        )
        return self.pixels[index].to(self.device).float().div_(255)
