"""AugKD, reproduced: knowledge distillation for image super-resolution.

What a training loop of one's own needs is imported from here. The rest of the package is the core
(networks, methods, degradations, measures, batches, the cohort loop) and ``augkd.study``, which
puts the paper to the test, and which the core never imports.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from augkd.data.sampler import make_batch
    from augkd.distill import METHODS, AugKD, Teacher
    from augkd.metrics.fidelity import psnr_y, ssim_y
    from augkd.models import create_model, load_checkpoint
    from augkd.models.upscale import upscale

__version__ = "0.2.0"
__all__ = ["METHODS", "AugKD", "Teacher", "__version__", "create_model", "load_checkpoint"]
__all__ += ["make_batch", "psnr_y", "ssim_y", "upscale"]

_HOMES = {
    "augkd.data.sampler": ("make_batch",),
    "augkd.distill": ("METHODS", "AugKD", "Teacher"),
    "augkd.metrics.fidelity": ("psnr_y", "ssim_y"),
    "augkd.models": ("create_model", "load_checkpoint"),
    "augkd.models.upscale": ("upscale",),
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for, so that command-line help need not load torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'augkd' has no attribute {name!r}")
