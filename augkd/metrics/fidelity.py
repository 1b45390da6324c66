"""PSNR and SSIM on luma, as the paper reports them (Section 4.1).

The protocol is BasicSR's: round to 8 bits, crop the border, BT.601 studio-swing luma that is
*not* rounded again. Each of these choices moves the score more than most methods do.
"""

import torch
from torch import Tensor

from augkd.metrics.luma import cropped, gaussian, to_luma, window_mean

_WINDOW = gaussian(11, 1.5)


def _cropped_luma(image: Tensor, other: Tensor, border: int) -> tuple[Tensor, Tensor]:
    if image.shape != other.shape:
        raise ValueError(
            f"expected two batches of one shape, not {tuple(image.shape)} and {tuple(other.shape)}"
        )
    return to_luma(cropped(image, border)), to_luma(cropped(other, border))


def psnr_y(sr: Tensor, hr: Tensor, border: int) -> Tensor:
    """PSNR in dB of each image (N,), float64; infinite where the two are equal.

    Args:
        sr, hr: (N, 3, H, W), uint8 or float in [0, 1]; floats are rounded to 8 bits first.
        border: pixels cut from each side, by convention the scale.
    """
    a, b = _cropped_luma(sr, hr, border)
    mse = (a - b).square().mean((1, 2, 3))
    return 10 * torch.log10(255.0**2 / mse)


def ssim_y(sr: Tensor, hr: Tensor, border: int) -> Tensor:
    """SSIM (Wang et al., 2004) of each image (N,), float64; arguments as for ``psnr_y``."""
    a, b = _cropped_luma(sr, hr, border)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs 11 x 11 pixels inside the border, not {tuple(a.shape[-2:])}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = window_mean(a, _WINDOW), window_mean(b, _WINDOW)
    squares = mean_a**2 + mean_b**2
    product = mean_a * mean_b
    variances = window_mean(a * a + b * b, _WINDOW) - squares
    covariance = window_mean(a * b, _WINDOW) - product
    similarity = (2 * product + c1) * (2 * covariance + c2)
    return (similarity / ((squares + c1) * (variances + c2))).mean((1, 2, 3))
