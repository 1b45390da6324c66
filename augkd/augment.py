"""The augmentations of Sections 3.3 and 3.4: zooming, and transforms that can be undone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from augkd.degrade.bicubic import Edges, bicubic


def zoom_in(hr: Tensor, size: int, offsets: Tensor) -> Tensor:
    """Crops an LR-sized patch out of each HR patch (Section 3.3).

    Args:
        hr: (N, C, H, W).
        size: height and width of the crop.
        offsets: (K*N, 2) rows and columns of the top left corners; with K > 1, crop k*N + i
            comes from image i.

    Returns:
        (K*N, C, size, size).

    Raises:
        ValueError: a crop leaves its image, or the offsets are not K for each image.
    """
    n, _, height, width = hr.shape
    last = offsets.new_tensor([height - size, width - size])
    if offsets.ndim != 2 or offsets.shape[1] != 2 or len(offsets) % n:
        raise ValueError(f"zoom_in: expected offsets (K*{n}, 2), not {tuple(offsets.shape)}")
    if bool((offsets < 0).any() or (offsets > last).any()):
        raise ValueError(f"zoom_in: a {size} x {size} crop leaves its {height} x {width} image")
    corners = enumerate(offsets.tolist())
    return torch.stack([hr[i % n, :, r : r + size, c : c + size] for i, (r, c) in corners])


def zoom_out(lr: Tensor, scale: int, edges: Edges = "replicate") -> Tensor:
    """Reduces LR patches (N, C, h, w) once more by the degradation that made them (Section 3.3).

    Not rounded to 8 bits: (N, C, ceil(h/scale), ceil(w/scale)), a little outside [0, 1] at most.
    """
    return bicubic(lr, scale, edges)


# Each undoes itself, so that one function serves both directions.
_OPERATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: 1 - x,
    lambda x: x.flip(-2),
    lambda x: x.flip(-1),
    lambda x: x.transpose(-2, -1),
)


@dataclass(frozen=True)
class Invertible:
    """One F of Section 3.4 for each image of a batch: F^-1(F(x)) = x exactly, up to rounding.

    F inverts colours, flips rows, flips columns and transposes, in this order, each where its
    column of ``flags`` (N, 4) is set. Flips and transposition compose to every rotation by 90,
    180 and 270 degrees. F^-1 undoes them in the reverse order.
    """

    flags: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """F(x) for images (N, C, H, W) in [0, 1]; transposing some of a batch needs H = W."""
        return reduce(self._operate, range(4), x)

    def invert(self, y: Tensor) -> Tensor:
        """F^-1(y); y may be larger than F's input was (a super-resolved image)."""
        return reduce(self._operate, reversed(range(4)), y)

    def _operate(self, x: Tensor, operation: int) -> Tensor:
        flags = self.flags[:, operation]
        if len(flags) != len(x) or not x.is_floating_point():
            wanted = f"{len(flags)} images in [0, 1]"
            raise ValueError(f"Invertible: expected {wanted}, not {len(x)} of {x.dtype}")
        changed = _OPERATIONS[operation](x)
        if changed.shape == x.shape:
            return torch.where(flags.view(-1, 1, 1, 1), changed, x)
        if flags.any() and not flags.all():
            raise ValueError("Invertible: transposing part of a batch needs square images")
        return changed if flags.all() else x
