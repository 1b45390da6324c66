"""Draws a cohort's batches. Everything random about training images is drawn here."""

from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from augkd.augment import Invertible, step_generator, zoom_in, zoom_out
from augkd.data.batch import Batch
from augkd.data.store import ImageStore
from augkd.degrade.bicubic import Edges
from augkd.errors import UserError


class PatchSampler:
    """Batches as a function of (seed, step): a resumed run draws what the first would have.

    Patches are drawn uniformly over all positions of all images, as BasicSR's equal sub-images
    do, then flipped and transposed with LR and HR alike (Appendix A.1), each with p = 0.5.

    Args:
        store: prepared training images; their pixels are moved to ``device``.
        patch: side of the LR patch, divisible by the scale.
        crops: K, zoom-in crops an image.
        zoom: "random" offsets for each crop (the paper), or one "cell" of the scale x scale
            grid for the whole batch (the predecessor's released code).
        probability: of each operation of F (Section 3.4).
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
        zoom: Literal["random", "cell"] = "random",
        probability: float = 0.3,
        device: torch.device | None = None,
    ) -> None:
        if patch % scale:
            raise UserError(
                f"patch {patch} is not divisible by the scale {scale}: correct the budget's patch"
            )
        if zoom == "cell" and crops > scale**2:
            raise UserError(
                f"augment.crops {crops} is more than the {scale**2} cells of a patch: use fewer"
            )
        self.scale, self.patch, self.batch, self.seed = scale, patch, batch, seed
        self.edges, self.crops, self.zoom, self.probability = edges, crops, zoom, probability
        self.pixels = store.pixels.to(device or "cpu")
        index = store.index
        self._lr = index[index.scale == scale][["offset", "height", "width"]].to_numpy()
        self._hr = index[index.scale == 1][["offset", "height", "width"]].to_numpy()
        names = index[index.scale == scale]["image"].to_list()
        for name, (_, height, width) in zip(names, self._lr, strict=True):
            if min(height, width) < patch:
                raise UserError(
                    f"{name}: its x{scale} LR image ({width} x {height}) is smaller than a patch "
                    f"({patch} x {patch}): make the budget's patch smaller or remove the image"
                )
        positions = (self._lr[:, 1] - patch + 1) * (self._lr[:, 2] - patch + 1)
        self._share = positions / positions.sum()

    def draw(self, step: int) -> Batch:
        """The batch of a step, on the device of the pixels."""
        n, scale, patch = self.batch, self.scale, self.patch
        generator = step_generator(self.seed, step)
        image = generator.choice(len(self._lr), n, p=self._share)
        row = generator.integers(0, self._lr[image, 1] - patch + 1)
        column = generator.integers(0, self._lr[image, 2] - patch + 1)
        flags = generator.random((n, 4)) < 0.5
        flags[:, 0] = False  # paired augmentation has no colour inversion
        offsets = self._zoom_offsets(generator)
        transform = Invertible.draw(self.crops * n, generator, self.probability)
        seed = int(generator.integers(2**31))

        device = self.pixels.device
        paired = Invertible(torch.from_numpy(flags)).to(device)
        lr = paired.apply(self._cut(self._lr[image], row, column, patch))
        hr = paired.apply(self._cut(self._hr[image], scale * row, scale * column, scale * patch))
        return Batch(
            lr=lr,
            hr=hr,
            zoom_in=zoom_in(hr, patch, offsets),
            zoom_out=zoom_out(lr, scale, self.edges),
            transform=transform.to(device),
            seed=seed,
        )

    def _zoom_offsets(self, generator: Generator) -> Tensor:
        count = self.crops * self.batch
        if self.zoom == "random":
            offsets = generator.integers(0, (self.scale - 1) * self.patch + 1, (count, 2))
        else:
            cells = generator.choice(self.scale**2, self.crops, replace=False)
            corner = np.stack([cells // self.scale, cells % self.scale], 1) * self.patch
            offsets = corner.repeat(self.batch, 0)
        return torch.from_numpy(offsets)

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
        return self.pixels[index].float().div_(255)
