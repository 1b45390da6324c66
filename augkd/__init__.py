"""AugKD, reproduced: knowledge distillation for image super-resolution, put to the test."""

__version__ = "0.1.0"
