"""Super-resolution of one image of any size, whole or in tiles that change nothing.

A tile is enlarged together with a halo of its neighbours, which is then cut away. Where the halo
covers all that an output pixel can see, tiling is exact up to rounding:

- EDSR is convolutions alone, so its reach is counted.
- SwinIR attends inside windows, shifted by half in every other layer, so what is missing beyond a
  cut spreads window by window. Its reach is counted too, and every cut is on the window grid.
- RCAN pools each feature map over the whole image: every output pixel sees every input pixel, so
  no halo is enough. It runs whole, unless the caller accepts that a tile pools over itself alone.

Geometric self-ensemble (Timofte et al., CVPR 2016), the level of Table 12's EDSR teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from augkd.models import SRNetwork
from augkd.models.edsr import EDSR
from augkd.models.swinir import SwinIR


class SelfEnsemble(nn.Module):
    """Mean of a network's outputs over the eight flips and transpositions, each undone.

    Maps what the network maps, images of any shape: a transposed rectangle is its own forward
    pass. Eight times the cost, no more memory.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for transposed in (False, True):
            for flips in ((), (-2,), (-1,), (-2, -1)):
                image = x.transpose(-2, -1) if transposed else x
                y = self.network(image.flip(flips)).flip(flips)
                outputs.append(y.transpose(-2, -1) if transposed else y)
        return torch.stack(outputs).mean(0)


WORKING_SET = 2**31  # bytes that a pass may take before tiles are cut
OWN_STATISTICS_HALO = 32  # pixels; hides seams of the convolutions where exactness is not to be had
_LOCAL = {"Conv2d", "PixelShuffle", "Linear", "LayerNorm", "LeakyReLU", "DropPath"}


@dataclass(frozen=True)
class Reach:
    """What an output pixel can see: ``halo`` input pixels to each side of a tile whose edges lie
    on multiples of ``grid``."""

    halo: int
    grid: int = 1


def reach(network: nn.Module) -> Reach | None:
    """The reach of a network in input pixels; None where it is the whole image or not known."""
    # A layer put in later, such as a quantiser with statistics over the image, may see it whole.
    if any(not list(m.children()) and type(m).__name__ not in _LOCAL for m in network.modules()):
        return None
    if isinstance(network, EDSR):
        # conv_first, two convolutions a block, conv_after_body; then the first convolution of the
        # upsampler, and one pixel for all that follow it at a higher resolution
        return Reach(1 + 2 * network.blocks + 1 + 2)
    if isinstance(network, SwinIR):
        return Reach(_window_reach(network.sizes["depths"], network.window), network.window)
    return None


def _window_reach(depths: Sequence[int], window: int) -> int:
    """How many pixels beside a cut differ at SwinIR's output from those of the uncut image.

    A convolution spreads the damage by a pixel, a layer to the end of the window that it has
    entered. Cuts lie on the grid, so windows end ``shift`` pixels after a cut and as many before.
    """
    damage = 1  # conv_first
    for depth in depths:
        for layer in range(depth):
            shift = layer % 2 * (window // 2)
            damage += max((shift - damage) % window, (-shift - damage) % window)
        damage += 1  # the RSTB's convolution
    return damage + 4  # conv_after_body, conv_before_upsample, and two as in EDSR


@dataclass(frozen=True)
class Span:
    """Along one axis: read from ``before`` to ``after``, keep from ``start`` to ``stop``."""

    before: int
    start: int
    stop: int
    after: int


def spans(length: int, tile: int, halo: int, grid: int = 1) -> list[Span]:
    """Cuts an axis into tiles that read ``halo`` pixels more on each side, within the axis.

    Tile and halo are rounded up to the grid. An axis that is no longer than what an inner tile
    reads stays whole, so a halo as large as the image means no tiling at all.
    """
    tile, halo = (-(-size // grid) * grid for size in (tile, halo))
    if length <= tile + 2 * halo:
        return [Span(0, 0, length, length)]
    return [
        Span(max(0, start - halo), start, stop, min(length, stop + halo))
        for start in range(0, length, tile)
        for stop in [min(length, start + tile)]
    ]


class Tiled(nn.Module):
    """A network that enlarges its input tile by tile: (N, 3, h, w) to (N, 3, scale*h, scale*w).

    The input may lie on another device than the network; the output lies where the input does.

    Args:
        network: the network to run, of any kind.
        tile: side of a tile in input pixels, without its halo.
        halo: pixels read around a tile; None for the network's own reach, which changes nothing.
            Less than the reach leaves seams.
    """

    def __init__(self, network: SRNetwork, tile: int, halo: int | None = None) -> None:
        super().__init__()
        exact = reach(network)
        if halo is None:
            if exact is None:
                raise ValueError(
                    f"{type(network).__name__} sees the whole image, so no halo is exact: give one"
                )
            halo = exact.halo
        if tile < 1 or halo < 0:
            raise ValueError(f"expected tile >= 1 and halo >= 0, not {tile} and {halo}")
        self.network = network
        self.tile, self.halo, self.grid = tile, halo, exact.grid if exact else 1

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        device, s = next(self.network.parameters()).device, self.network.scale
        out = x.new_empty((*x.shape[:2], s * height, s * width))
        for row in spans(height, self.tile, self.halo, self.grid):
            for column in spans(width, self.tile, self.halo, self.grid):
                part = x[..., row.before : row.after, column.before : column.after]
                large = self.network(part.to(device))
                out[..., s * row.start : s * row.stop, s * column.start : s * column.stop] = large[
                    ...,
                    s * (row.start - row.before) : s * (row.stop - row.before),
                    s * (column.start - column.before) : s * (column.stop - column.before),
                ]
        return out


def working_set(network: SRNetwork, height: int, width: int) -> int:
    """Bytes that one pass takes, about: the upsampler's largest map, before and after shuffling."""
    return 2 * 4 * max(network.channels, 64) * network.scale**2 * height * width


def fitting_tile(network: SRNetwork, height: int, width: int) -> int | None:
    """A tile whose pass fits ``WORKING_SET``, at least 128; None where the whole image fits."""
    if working_set(network, height, width) <= WORKING_SET:
        return None
    exact = reach(network)
    side = isqrt(WORKING_SET // working_set(network, 1, 1))
    return max(128, side - 2 * (exact.halo if exact else OWN_STATISTICS_HALO))


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
        tile, halo: as for ``Tiled``; no tile: the whole image at once.
        self_ensemble: mean over the eight flips and transpositions, at eight times the cost. The
            whole image is turned before it is cut, so tiles change nothing here either.

    Returns:
        float32 on the device of ``lr``, neither rounded nor clamped.
    """
    image = lr.float() / 255 if lr.dtype == torch.uint8 else lr.float()
    enlarge: nn.Module = network
    if tile is not None:
        enlarge = Tiled(network, tile, halo)
    else:
        image = image.to(next(network.parameters()).device)
    if self_ensemble:
        enlarge = SelfEnsemble(enlarge)
    sr: Tensor = enlarge(image[None])[0]
    return sr.to(lr.device)
