"""MATLAB's ``imresize(…, 'bicubic')``, the degradation of every benchmark in the paper.

Two details decide whether a low-resolution image equals the published one bit for bit: MATLAB
resizes 8-bit images one axis at a time and rounds to 8 bits after each, and its border either
repeats the edge pixel ("replicate", the benchmark sets) or mirrors the image ("symmetric",
today's MATLAB and BasicSR).
"""

from functools import lru_cache
from math import ceil
from typing import Literal

import torch
from torch import Tensor

Edges = Literal["replicate", "symmetric"]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5."""
    x = x.abs()
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, inner, torch.where(x <= 2, outer, torch.zeros_like(x)))


@lru_cache(maxsize=512)
def _contributions(size: int, scale: int, up: bool, edges: Edges) -> tuple[Tensor, Tensor]:
    """Which input samples feed each output sample, and how strongly: two (taps, out) tensors."""
    factor = float(scale) if up else 1 / scale
    out = ceil(size * scale) if up else ceil(size / scale)
    stretch = 1.0 if up else float(scale)  # antialiasing: the kernel widens when reducing
    width = 4 * stretch
    centre = torch.arange(1, out + 1, dtype=torch.float64) / factor + 0.5 * (1 - 1 / factor)
    left = torch.floor(centre - width / 2)
    taps = torch.arange(ceil(width) + 2, dtype=torch.float64)[:, None]
    index = left + taps  # counted from 1, as MATLAB does
    weight = _cubic((centre - index) / stretch)
    weight = weight / weight.sum(0, keepdim=True)
    index = index.long() - 1
    if edges == "replicate":
        index = index.clamp(0, size - 1)
    else:
        index = index.remainder(2 * size)
        index = torch.where(index < size, index, 2 * size - 1 - index)
    used = (weight != 0).any(1)
    return index[used], weight[used]


def _resize_axis(x: Tensor, axis: int, scale: int, up: bool, edges: Edges) -> Tensor:
    index, weight = _contributions(x.shape[axis], scale, up, edges)
    index, weight = index.to(x.device), weight.to(x)
    shape = [1] * x.ndim
    shape[axis] = -1
    total: Tensor | None = None
    for tap in range(index.shape[0]):
        term = x.index_select(axis, index[tap]) * weight[tap].view(shape)
        total = term if total is None else total.add_(term)
    assert total is not None
    return total


def bicubic(image: Tensor, scale: int, edges: Edges = "replicate", up: bool = False) -> Tensor:
    """Resizes the last two axes to 1/scale, or by scale with ``up=True``.

    Args:
        image: (…, H, W), uint8 or floating point, on any device.
        scale: a positive integer.
        edges: how the border is extended.
        up: enlarge instead of reduce.

    Returns:
        (…, ceil(H/scale), ceil(W/scale)) or (…, scale*H, scale*W), of the same dtype. uint8 is
        rounded after each axis, bit for bit as MATLAB does; floats are neither rounded nor
        clamped, so they can leave [0, 1].
    """
    if scale < 1:
        raise ValueError(f"bicubic: scale must be a positive integer, not {scale}")
    if image.dtype != torch.uint8:
        rows = _resize_axis(image, image.ndim - 2, scale, up, edges)
        return _resize_axis(rows, image.ndim - 1, scale, up, edges)
    for axis in (image.ndim - 2, image.ndim - 1):
        exact = _resize_axis(image.double(), axis, scale, up, edges)
        # MATLAB rounds halves away from zero; the values are positive after clamping
        image = exact.clamp_(0, 255).add_(0.5).floor_().to(torch.uint8)
    return image
