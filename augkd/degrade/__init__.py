"""How low-resolution images are made."""

from augkd.degrade.bicubic import bicubic
from augkd.degrade.bsrgan import Degradation

__all__ = ["Degradation", "bicubic"]
