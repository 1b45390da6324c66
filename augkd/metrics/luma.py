"""What the measures share: 8-bit luma, and the mean under a separable window."""

from collections.abc import Sequence

import torch
from torch import Tensor

_LUMA = (65.481, 128.553, 24.966)  # BT.601: Y = 16 + these times RGB in [0, 1]


def to_luma(image: Tensor) -> Tensor:
    """RGB (N, 3, H, W), uint8 or float in [0, 1], to luma (N, 1, H, W) in [16, 235], float64.

    Floats are rounded to 8 bits first; the luma itself is not rounded.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"expected RGB images (N, 3, H, W), not shape {tuple(image.shape)}")
    if image.dtype != torch.uint8:
        if not image.is_floating_point():
            raise ValueError(f"expected uint8 or floats in [0, 1], not {image.dtype}")
        image = image.double().mul_(255).round_().clamp_(0, 255)
    red, green, blue = (image[:, c : c + 1].double() for c in range(3))
    luma = torch.mul(red, _LUMA[0] / 255).add_(green, alpha=_LUMA[1] / 255)
    return luma.add_(blue, alpha=_LUMA[2] / 255).add_(16)


def cropped(image: Tensor, border: int) -> Tensor:
    """The image (…, H, W) without ``border`` pixels on each side."""
    height, width = image.shape[-2:]
    if border < 0 or min(height, width) <= 2 * border:
        raise ValueError(f"a border of {border} leaves nothing of {height} x {width} pixels")
    return image[..., border : height - border, border : width - border]


def window_mean(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Weighted mean of (…, H, W) under the outer product of ``taps``, where it fits."""
    for axis in (-2, -1):
        length = x.shape[axis] - len(taps) + 1
        total = x.narrow(axis, 0, length) * taps[0]
        for k, tap in enumerate(taps[1:], start=1):
            total.add_(x.narrow(axis, k, length), alpha=tap)
        x = total
    return x


def gaussian(size: int, sigma: float) -> list[float]:
    """Odd ``size`` samples of a Gaussian around 0, summing to 1."""
    position = torch.arange(size, dtype=torch.float64) - size // 2
    weight = torch.exp(-(position**2) / (2 * sigma**2))
    return (weight / weight.sum()).tolist()
