"""PSNR and SSIM on luma, as the paper reports them (Section 4.1).

The protocol is BasicSR's: round to 8 bits, crop the border, BT.601 studio-swing luma that is
*not* rounded again. Each of these choices moves the score more than most methods do.
"""

import torch
from torch import Tensor

from augkd.metrics.luma import cropped, gaussian, to_luma, window_mean

_WINDOW = gaussian(11, 1.5)


class Reference:
    """What others are graded against: its luma, and what SSIM needs of it, computed once.

    Args:
        image: (N, 3, H, W), uint8 or float in [0, 1]; floats are rounded to 8 bits first.
        border: pixels cut from each side, by convention the scale.
    """

    def __init__(self, image: Tensor, border: int) -> None:
        self.shape, self.border = image.shape, border
        self.luma = to_luma(cropped(image, border))
        self._window: tuple[Tensor, Tensor] | None = None

    def see(self, image: Tensor) -> Tensor:
        """The luma of an image that is to be graded, for ``psnr`` and ``ssim``."""
        if image.shape != self.shape:
            raise ValueError(
                f"expected two batches of one shape, not {tuple(image.shape)} and "
                f"{tuple(self.shape)}"
            )
        return to_luma(cropped(image, self.border))

    def psnr(self, luma: Tensor) -> Tensor:
        """PSNR in dB of each image (N,), float64; infinite where the two are equal."""
        return 10 * torch.log10(255.0**2 / (luma - self.luma).square_().mean((1, 2, 3)))

    def ssim(self, luma: Tensor) -> Tensor:
        """SSIM (Wang et al., 2004) of each image (N,), float64."""
        a, b = luma, self.luma
        if min(a.shape[-2:]) < 11:
            raise ValueError(
                f"SSIM needs 11 x 11 pixels inside the border, not {tuple(a.shape[-2:])}"
            )
        if self._window is None:
            self._window = window_mean(b, _WINDOW), window_mean(b * b, _WINDOW)
        mean_b, square_b = self._window
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        mean_a = window_mean(a, _WINDOW)
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
    """
    reference = Reference(hr, border)
    return reference.psnr(reference.see(sr))


def ssim_y(sr: Tensor, hr: Tensor, border: int) -> Tensor:
    """SSIM (Wang et al., 2004) of each image (N,), float64; arguments as for ``psnr_y``."""
    reference = Reference(hr, border)
    return reference.ssim(reference.see(sr))
