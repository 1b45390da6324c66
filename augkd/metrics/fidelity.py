"""PSNR and SSIM on luma, as the paper reports them (Section 4.1).

The protocol is BasicSR's: round to 8 bits, crop the border, BT.601 studio-swing luma that is
*not* rounded again. Each of these choices moves the score more than most methods do.
"""

import torch
from torch import Tensor

_LUMA = (65.481, 128.553, 24.966)  # BT.601: Y = 16 + these times RGB in [0, 1]


def to_luma(image: Tensor) -> Tensor:
    """RGB (N, 3, H, W), uint8 or float in [0, 1], to luma (N, 1, H, W) in [16, 235], float64."""
    if image.dtype != torch.uint8:
        image = (image.double() * 255).round().clamp(0, 255)
    weight = torch.tensor(_LUMA, dtype=torch.float64, device=image.device).view(1, 3, 1, 1)
    return (image.double() * weight).sum(1, keepdim=True) / 255 + 16


def _cropped_luma(image: Tensor, other: Tensor, border: int) -> tuple[Tensor, Tensor]:
    if image.shape != other.shape or image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            "expected two (N, 3, H, W) batches of one shape, not "
            f"{tuple(image.shape)} and {tuple(other.shape)}"
        )
    height, width = image.shape[-2:]
    window = (..., slice(border, height - border), slice(border, width - border))
    return to_luma(image[window]), to_luma(other[window])


def psnr_y(sr: Tensor, hr: Tensor, border: int) -> Tensor:
    """PSNR in dB of each image (N,), float64; infinite where the two are equal.

    Args:
        sr, hr: (N, 3, H, W), uint8 or float in [0, 1]; floats are rounded to 8 bits first.
        border: pixels cut from each side, by convention the scale.
    """
    a, b = _cropped_luma(sr, hr, border)
    mse = (a - b).square().mean((1, 2, 3))
    return 10 * torch.log10(255.0**2 / mse)


def _window_mean(x: Tensor) -> Tensor:
    """Mean under the 11 x 11 Gaussian window of sigma 1.5, where it fits."""
    position = torch.arange(11, dtype=x.dtype, device=x.device) - 5
    gauss = torch.exp(-(position**2) / (2 * 1.5**2))
    gauss = gauss / gauss.sum()
    for axis in (-2, -1):
        length = x.shape[axis] - 10
        x = sum(gauss[k] * x.narrow(axis, k, length) for k in range(11))  # type: ignore[assignment]
    return x


def ssim_y(sr: Tensor, hr: Tensor, border: int) -> Tensor:
    """SSIM (Wang et al., 2004) of each image (N,), float64; arguments as for ``psnr_y``."""
    a, b = _cropped_luma(sr, hr, border)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs 11 x 11 pixels inside the border, not {tuple(a.shape[-2:])}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = _window_mean(a * a) - mean_a**2
    var_b = _window_mean(b * b) - mean_b**2
    cov = _window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean((1, 2, 3))
