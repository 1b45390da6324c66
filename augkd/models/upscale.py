"""Super-resolution of one image of any size, whole or in tiles that change nothing.

A tile is enlarged together with a halo of its neighbours, which is then cut away. Where the halo
covers all that an output pixel can see, tiling is exact up to rounding:

- EDSR is convolutions alone, so its reach is counted.
- SwinIR attends inside windows, shifted by half in every other layer, so what is missing beyond a
  cut spreads window by window. Its reach is counted too, and every cut is on the window grid.
- RCAN pools each feature map over the whole image: every output pixel sees every input pixel, so
  no halo is enough. It runs whole, unless the caller accepts that a tile pools over itself alone.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from math import isqrt

import torch
from torch import Tensor, nn

from augkd.models import SRNetwork
from augkd.models.edsr import EDSR
from augkd.models.swinir import SwinIR

WORKING_SET = 2**31  # bytes that a pass may take before tiles are cut
REUSED = 2**27  # and on a CPU: memory for larger feature maps is had afresh, page by page
OWN_STATISTICS_HALO = 32  # pixels; hides seams of the convolutions where exactness is not to be had
_LOCAL = {"Conv2d", "SubPixelConv2d", "Linear", "LayerNorm", "LeakyReLU", "GELU", "DropPath"}


@torch.inference_mode()
def upscale(
    network: SRNetwork,
    lr: Tensor,
    tile: int | None = None,
    halo: int | None = None,
    self_ensemble: bool = False,
) -> Tensor:
    """Enlarges one image (3, h, w), uint8 or float in [0, 1], to (3, scale*h, scale*w).

    Args:
        network: in evaluation mode, on any device.
        tile: side of a tile in input pixels, without its halo; None: the whole image at once.
        halo: pixels read around a tile; None for the network's own reach, which changes nothing.
            Less than the reach leaves seams.
        self_ensemble: mean over the eight flips and transpositions, at eight times the cost. The
            whole image is turned before it is cut, so tiles change nothing here either.

    Returns:
        float32 on the device of ``lr``, neither rounded nor clamped.
    """
    image = lr.float() / 255 if lr.dtype == torch.uint8 else lr.float()
    enlarge: Callable[[Tensor], Tensor] = network
    if tile is None:
        image = image.to(next(network.parameters()).device)
    else:
        enlarge = partial(_tiled, network, tile=tile, halo=halo)
    sr = (SelfEnsemble(enlarge) if self_ensemble else enlarge)(image[None])
    return sr[0].to(lr.device)


class SelfEnsemble(nn.Module):
    """Mean of a network's outputs over the eight flips and transpositions, each undone.

    Geometric self-ensemble (Timofte et al., CVPR 2016), the level of Table 12's EDSR teacher.
    Eight times the cost, no more memory: each turned image is a forward pass of its own.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for image, transposed in ((x, False), (x.transpose(-2, -1), True)):
            for flips in ((), (-2,), (-1,), (-2, -1)):
                y = self.network(image.flip(flips)).flip(flips)
                outputs.append(y.transpose(-2, -1) if transposed else y)
        return torch.stack(outputs).mean(0)


def _tiled(network: SRNetwork, x: Tensor, tile: int, halo: int | None) -> Tensor:
    """(N, 3, h, w) to (N, 3, scale*h, scale*w), on the device of ``x``, not the network's."""
    exact, grid = reach(network) or (None, 1)
    halo = exact if halo is None else halo
    if halo is None:
        raise ValueError(f"{network.name} sees the whole image, so no halo is exact: give one")
    if tile < 1 or halo < 0:
        raise ValueError(f"expected tile >= 1 and halo >= 0, not {tile} and {halo}")
    device, s = next(network.parameters()).device, network.scale
    x = x.to(memory_format=torch.channels_last) if device.type == "cpu" else x  # as in training
    tile, halo = (-(-size // grid) * grid for size in (tile, halo))
    out = x.new_empty((*x.shape[:2], s * x.shape[-2], s * x.shape[-1]))
    for (top, bottom), (left, right) in product(*(cuts(n, tile, halo) for n in x.shape[-2:])):
        above, before = max(0, top - halo), max(0, left - halo)
        large = network(x[..., above : bottom + halo, before : right + halo].to(device))
        large = large[..., s * (top - above) :, s * (left - before) :]
        kept = out[..., s * top : s * bottom, s * left : s * right]
        kept.copy_(large[..., : kept.shape[-2], : kept.shape[-1]])
    return out


def cuts(length: int, tile: int, halo: int) -> list[tuple[int, int]]:
    """Start and end of each tile along an axis.

    An axis that is no longer than what an inner tile reads stays whole, so a halo as large as the
    image means no tiling at all.
    """
    step = tile if length > tile + 2 * halo else length
    return list(pairwise([*range(0, length, step), length]))


def reach(network: nn.Module) -> tuple[int, int] | None:
    """What an output pixel can see: halo and grid; None where it is all, or not known.

    It sees ``halo`` input pixels to each side of a tile whose edges lie on multiples of ``grid``.
    """
    # A layer put in later, such as a quantiser with statistics over the image, may see it whole.
    if any(not list(m.children()) and type(m).__name__ not in _LOCAL for m in network.modules()):
        return None
    if isinstance(network, EDSR):
        # conv_first, two convolutions a block, conv_after_body; then the first convolution of the
        # upsampler, and one pixel for all that follow it at a higher resolution
        return 1 + 2 * network.stages + 1 + 2, 1
    if isinstance(network, SwinIR):
        # How many pixels beside a cut differ from those of the uncut image: a convolution spreads
        # the damage by a pixel, a layer to the end of the window that it has entered. Cuts lie on
        # the grid, so windows end ``shift`` pixels after a cut and as many before.
        damage, window = 1, network.window  # by conv_first
        for depth in network.sizes["depths"]:
            for layer in range(depth):
                shift = layer % 2 * (window // 2)
                damage += max((shift - damage) % window, (-shift - damage) % window)
            damage += 1  # the RSTB's convolution
        # conv_after_body, conv_before_upsample, and two as in EDSR
        return damage + 4, window
    return None


def working_set(network: SRNetwork, height: int, width: int) -> int:
    """Bytes that one pass takes, about: the upsampler's largest map, before and after shuffling."""
    return 2 * 4 * max(network.channels, 64) * network.scale**2 * height * width


def fitting_tile(network: SRNetwork, height: int, width: int) -> int | None:
    """A tile whose pass fits ``WORKING_SET``, on a CPU ``REUSED``; None where the whole image fits.

    At least 128, and on a CPU twelve halos, lest much be computed twice.
    """
    cpu = next(network.parameters()).is_cpu
    if working_set(network, height, width) <= (REUSED if cpu else WORKING_SET):
        return None
    halo, _ = reach(network) or (OWN_STATISTICS_HALO, 1)
    quick, most = (isqrt(n // working_set(network, 1, 1)) - 2 * halo for n in (REUSED, WORKING_SET))
    return max(128, min(most, max(quick, 12 * halo)) if cpu else most)
