"""PSNR and SSIM on luma, as the paper reports them (Section 4.1).

The protocol is BasicSR's: round to 8 bits, crop the border, BT.601 studio-swing luma that is
*not* rounded again. Each of these choices moves the score more than most methods do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_LUMA = (65.481, 128.553, 24.966)  # BT.601: Y = 16 + these times RGB in [0, 1]


def to_luma(image: Tensor) -> Tensor:
    """RGB (N, 3, H, W), uint8 or float in [0, 1], to luma (N, 1, H, W) in [16, 235], float64.

    Floats are rounded to 8 bits first; the luma itself is not rounded.
    """
    eight_bit, floats = image.dtype == torch.uint8, image.is_floating_point()
    if image.ndim != 4 or image.shape[1] != 3 or not (eight_bit or floats):
        given = f"{image.dtype} of shape {tuple(image.shape)}"
        raise ValueError(f"expected RGB (N, 3, H, W), uint8 or float in [0, 1], not {given}")
    if floats:
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


_WINDOW = gaussian(11, 1.5)


class Reference:
    """What others are graded against: its luma, and what SSIM needs of it, computed once.

    Images and border are as for ``psnr_y``.
    """

    def __init__(self, image: Tensor, border: int) -> None:
        self.shape, self.border = image.shape, border
        self.luma = to_luma(cropped(image, border))
        self._moments: tuple[Tensor, Tensor] | None = None

    def see(self, image: Tensor) -> Tensor:
        """The luma of an image that is to be graded, for ``psnr`` and ``ssim``."""
        if image.shape != self.shape:
            shapes = f"{tuple(image.shape)} and {tuple(self.shape)}"
            raise ValueError(f"expected two batches of one shape, not {shapes}")
        return to_luma(cropped(image, self.border))

    def psnr(self, luma: Tensor) -> Tensor:
        """PSNR in dB of each image (N,), float64; infinite where the two are equal."""
        return 10 * torch.log10(255.0**2 / (luma - self.luma).square_().mean((1, 2, 3)))

    def ssim(self, luma: Tensor) -> Tensor:
        """SSIM (Wang et al., 2004) of each image (N,), float64."""
        a, b = luma, self.luma
        if min(size := tuple(a.shape[-2:])) < 11:
            raise ValueError(f"SSIM needs 11 x 11 pixels inside the border, not {size}")
        if self._moments is None:
            self._moments = window_mean(b, _WINDOW), window_mean(b * b, _WINDOW)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        mean_a, (mean_b, square_b) = window_mean(a, _WINDOW), self._moments
        squares = mean_a**2 + mean_b**2
        product = mean_a * mean_b
        variances = window_mean(a * a, _WINDOW).add_(square_b).sub_(squares)
        covariance = window_mean(a * b, _WINDOW).sub_(product)
        similarity = product.mul_(2).add_(c1).mul_(covariance.mul_(2).add_(c2))
        return similarity.div_(squares.add_(c1).mul_(variances.add_(c2))).mean((1, 2, 3))


def psnr_y(sr: Tensor, hr: Tensor, border: int) -> Tensor:
    """PSNR in dB of each image (N,), float64; infinite where the two are equal.

    Args:
        sr, hr: (N, 3, H, W), uint8 or float in [0, 1]; floats are rounded to 8 bits first.
        border: pixels cut from each side, by convention the scale.

    Raises:
        ValueError: the two differ in shape, are no RGB images, or lie within the border.
    """
    reference = Reference(hr, border)
    return reference.psnr(reference.see(sr))


def ssim_y(sr: Tensor, hr: Tensor, border: int) -> Tensor:
    """SSIM (Wang et al., 2004) of each image (N,), float64; arguments as for ``psnr_y``."""
    reference = Reference(hr, border)
    return reference.ssim(reference.see(sr))
