"""What a network costs: the two columns of Table 1 that need no clock."""

import logging
import warnings

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from augkd.models.network import SRNetwork
from augkd.models.swinir import SwinIR


def parameters(model: nn.Module) -> int:
    """Number of learnable numbers; constants such as the RGB mean are not among them."""
    return sum(p.numel() for p in model.parameters())


def multiply_accumulates(model: SRNetwork, height: int, width: int) -> float:
    """10^9 multiply-accumulates (G) for one image (1, 3, height, width).

    The convention is fvcore's, which gives all six numbers of Table 1 (its "FLOPs", at 256 x 256):
    one for each multiply-add of a convolution, linear layer or matrix product; five for each
    element of a LayerNorm, one for each input element of an average pooling; nothing for biases,
    activations, softmax and additions.

    Every operation of these networks is either proportional to the pixels (of the image padded
    to whole windows) or constant, so two small images tell the count of any size exactly.
    """
    window = model.window if isinstance(model, SwinIR) else 1
    side = -(-8 // window) * window
    small, double = _count(model, side, side), _count(model, side, 2 * side)
    slope = (double - small) / side**2
    pixels = (-(-height // window) * window) * (-(-width // window) * window)
    return (small + slope * (pixels - side**2)) / 1e9


def _count(model: nn.Module, height: int, width: int) -> float:
    training, log = model.training, logging.getLogger("fvcore")
    level = log.level
    model.eval()
    log.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about sizes that become constants
            image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
            count = FlopCountAnalysis(model, image)
            count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            return float(count.total())
    finally:
        model.train(training)
        log.setLevel(level)
