"""Batches: what a method sees at one step. All that is random about their images is drawn here."""

from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from augkd.augment import Invertible, zoom_in, zoom_out
from augkd.data.store import ImageStore, evenly
from augkd.degrade.bicubic import Edges
from augkd.errors import UserError


@dataclass(frozen=True)
class Batch:
    """One step's images, RGB in [0, 1], for N patches of p x p LR pixels at scale s.

    The last two are for controls, and None where none is trained.
    """

    lr: Tensor  # (N, 3, p, p)
    hr: Tensor  # (N, 3, s*p, s*p)
    zoom_in: Tensor  # (K*N, 3, p, p), crops of hr (Section 3.3); crop k*N + i is of image i
    zoom_out: Tensor  # (N, 3, p/s, p/s), lr reduced once more (Section 3.3)
    transform: Invertible  # the drawn F of Section 3.4, for K*N images
    seed: int  # from which a method that must draw (dropout, sampling) may seed itself
    # (K*N, 4), what F was drawn from: that of another probability p is Invertible(uniform < p)
    uniform: Tensor | None = None
    # as zoom_in, but one cell of the s x s grid for all images, as the predecessor's code crops
    zoom_cell: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with ``change`` made to every tensor, the flags of F among them."""
        own = vars(self).items()
        changed: dict[str, Any] = {name: change(v) for name, v in own if isinstance(v, Tensor)}
        return replace(self, **changed, transform=Invertible(change(self.transform.flags)))


def make_batch(
    lr: Tensor,
    hr: Tensor,
    scale: int,
    generator: Generator,
    *,
    crops: int = 1,
    probability: float = 0.3,
    edges: Edges = "replicate",
) -> Batch:
    """All that a method needs, from a pair of one's own: draws what Sections 3.3 and 3.4 draw.

    Args:
        lr: (N, 3, p, p) float in [0, 1] on any device, p divisible by the scale.
        hr: (N, 3, scale*p, scale*p), likewise.
        generator: of numpy; the batch is a function of its state and of the images.
        crops: K, zoom-in crops an image, at most scale ** 2.
        probability: of each operation of F.
        edges: as ``lr`` was made, of which zooming out is the same reduction: see ``bicubic``.

    Raises:
        ValueError: images of another shape, type or range, or another argument out of range.
    """
    patch = lr.shape[-1] if lr.ndim else 0
    if lr.ndim != 4 or lr.shape[1:] != (3, patch, patch) or not lr.numel():
        raise ValueError(f"make_batch: expected lr (N, 3, p, p), not {tuple(lr.shape)}")
    if scale < 2 or patch % scale:
        raise ValueError(f"make_batch: p = {patch} is not divisible by scale {scale} (2 or more)")
    if hr.shape != (expected := (len(lr), 3, scale * patch, scale * patch)):
        raise ValueError(f"make_batch: expected hr {expected}, not {tuple(hr.shape)}")
    for name, images in (("lr", lr), ("hr", hr)):
        low, high = (float(end) for end in images.aminmax())
        # interpolated images may be a little outside
        if not images.is_floating_point() or not -0.5 < low <= high < 1.5:
            given = f"{images.dtype}, {low:.3g} to {high:.3g}"
            raise ValueError(f"make_batch: expected {name} as floats in [0, 1], not {given}")
    if not 1 <= crops <= scale**2:
        raise ValueError(f"make_batch: expected 1 to {scale**2} crops, not {crops}")
    if not 0 <= probability <= 1:
        raise ValueError(f"make_batch: expected a probability from 0 to 1, not {probability}")
    return _complete(hr, lambda: lr, scale, generator, crops, probability, edges)


def _complete(
    hr: Tensor,
    lr: Callable[[], Tensor],
    scale: int,
    generator: Generator,
    crops: int,
    probability: float,
    edges: Edges,
) -> Batch:
    """The batch of a pair; ``lr`` is called last, since its degradation may be drawn too."""
    n, patch = len(hr), hr.shape[-1] // scale
    offsets = generator.integers(0, (scale - 1) * patch + 1, (crops * n, 2))
    uniform = torch.from_numpy(generator.random((crops * n, 4))).to(hr.device)
    seed = int(generator.integers(2**31))
    cells = generator.choice(scale**2, crops, replace=False)
    corners = np.repeat(patch * np.stack([cells // scale, cells % scale], 1), n, axis=0)
    crop, cell = (zoom_in(hr, patch, torch.from_numpy(at)) for at in (offsets, corners))
    low, transform = lr(), Invertible(uniform < probability)
    return Batch(low, hr, crop, zoom_out(low, scale, edges), transform, seed, uniform, cell)


@dataclass
class PatchSampler:
    """Batches as a function of (seed, step): a resumed run draws what the first would have.

    Patches are drawn uniformly over all positions of all images, as BasicSR's equal sub-images
    do, then flipped and transposed with LR and HR alike (Appendix A.1), each with p = 0.5.

    Args:
        store: prepared training images.
        patch: side of the LR patch, divisible by the scale.
        crops, probability, edges: as of ``make_batch``.
        images: how many of the images are used, spread evenly over them; None is all.
        datasets: whose images are used; None is all of the store's.
        degradation: "bicubic" takes the stored LR images; "bsrgan" makes the LR patches from the
            HR patches, each with a degradation drawn for it (Table 5).
        device: of the batches.

    Raises:
        UserError: no such images, or sizes that do not go together.
    """

    store: ImageStore
    _: KW_ONLY
    scale: int
    patch: int
    batch: int
    seed: int
    edges: Edges = "replicate"
    crops: int = 1
    probability: float = 0.3
    images: int | None = None
    datasets: Collection[str] | None = None
    degradation: Literal["bicubic", "bsrgan"] = "bicubic"
    device: torch.device = field(default=torch.device("cpu"))

    def __post_init__(self) -> None:
        scale, patch = self.scale, self.patch
        if patch % scale:
            raise UserError(f"patch {patch} is not divisible by the scale {scale}: correct it")
        if (crops := self.crops) > scale**2:
            raise UserError(f"augment.crops {crops} is more than the {scale**2} cells of a patch")
        sets = self.datasets
        chosen = [e for e in self.store.index if sets is None or e.dataset in sets]
        low, high = (evenly([e for e in chosen if e.scale == s], self.images) for s in (scale, 1))
        if not low:
            names = ", ".join(sets or ["any dataset"])
            mend = "correct the budget's images, and run the prepare stage"
            raise UserError(f"no training images at x{scale} of {names}: {mend}")
        for e in low:
            if min(e.height, e.width) < patch:
                small = f"its x{scale} LR image ({e.width} x {e.height}) is smaller than a patch"
                raise UserError(f"{e.image}: {small} ({patch}): use smaller ones or remove it")
        self._pixels = self.store.pixels.numpy()
        # (2, n, 3): offset, height and width of each LR and each HR image
        self._places = np.array([[e[3:6] for e in some] for some in (low, high)], np.int64)
        positions = np.prod(self._places[0, :, 1:] - patch + 1, 1)
        self._share = positions / positions.sum()

    def draw(self, step: int, seed: int = 0) -> Batch:
        """The batch of a step, on the sampler's device; each of the study's seeds has its own."""
        n, scale, patch = self.batch, self.scale, self.patch
        generator = np.random.default_rng([self.seed, seed, step])  # so nothing has to be saved
        low, high = self._places[:, generator.choice(len(self._share), n, p=self._share)]
        at = generator.integers(0, low[:, 1:] - patch + 1)
        flips = generator.random((n, 3)) < 0.5  # rows, columns, then the two exchanged
        hr = self._cut(high, scale * at, flips, scale * patch)

        def lr() -> Tensor:
            if self.degradation == "bicubic":
                return self._cut(low, at, flips, patch)
            from augkd.degrade.bsrgan import Degradation  # here: other cohorts do not rest on it

            made = [Degradation.draw(scale, generator).apply(one) for one in hr.cpu()]
            return torch.stack(made).to(self.device)

        return _complete(hr, lr, scale, generator, self.crops, self.probability, self.edges)

    def _cut(self, places: np.ndarray, at: np.ndarray, flips: np.ndarray, size: int) -> Tensor:
        """Patches (N, 3, size, size) in [0, 1] of images at ``places``, begun ``at`` (N, 2)."""
        patches = np.empty((len(places), 3, size, size), np.uint8)
        where = zip(patches, places.tolist(), at.tolist(), flips.tolist(), strict=True)
        for patch, (offset, height, width), (row, column), (rows, columns, exchanged) in where:
            image = self._pixels[offset : offset + 3 * height * width].reshape(3, height, width)
            view = image[:, row : row + size, column : column + size]
            view = view[:, :: -1 if rows else 1, :: -1 if columns else 1]
            patch[:] = view.swapaxes(1, 2) if exchanged else view
        return torch.from_numpy(patches).to(self.device).float().div_(255)
