"""Measures of image quality, batched, on any device."""

from augkd.metrics.fidelity import psnr_y, ssim_y
from augkd.metrics.luma import to_luma

__all__ = ["psnr_y", "ssim_y", "to_luma"]
