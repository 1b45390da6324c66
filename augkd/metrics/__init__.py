"""Measures of image quality: of a batch on any device, one value an image.

Here belongs what grades an image. What is made of many grades, means and intervals, does not.
"""

from augkd.metrics.fidelity import psnr_y, ssim_y, to_luma
from augkd.metrics.niqe import niqe

__all__ = ["niqe", "psnr_y", "ssim_y", "to_luma"]
