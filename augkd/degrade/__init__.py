"""How low-resolution images are made of high-resolution ones.

Here belongs what the paper's images went through before a network saw them: MATLAB's bicubic, and
BSRGAN's random degradation. Augmentations of training images are in ``augkd.augment``.
"""

from augkd.degrade.bicubic import bicubic
from augkd.degrade.bsrgan import Degradation

__all__ = ["Degradation", "bicubic"]
