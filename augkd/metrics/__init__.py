"""Measures of image quality, batched, on any device."""

from augkd.metrics.fidelity import psnr_y, ssim_y, to_luma
from augkd.metrics.niqe import niqe

__all__ = ["niqe", "psnr_y", "ssim_y", "to_luma"]
