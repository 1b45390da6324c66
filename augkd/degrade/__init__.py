"""How low-resolution images are made."""

from augkd.degrade.bicubic import bicubic

__all__ = ["bicubic"]
