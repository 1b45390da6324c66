"""EDSR (Lim et al., CVPRW 2017): the network of Tables 1, 2, 6, 7, 8 and 9.

Names of parameters follow BasicSR's layout; ``load_checkpoint`` maps the official one to it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from augkd.models.network import RANGE, Kept, SRNetwork, rgb_mean, upsampler


class ResidualBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))): no batch normalisation."""

    def __init__(self, channels: int, res_scale: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(torch.relu(self.conv1(x)))
        return x + self.res_scale * residual


class EDSR(SRNetwork):
    """Maps (N, 3, h, w) in [0, 1] to (N, 3, scale*h, scale*w), not clamped.

    Args:
        channels: width of every residual block.
        blocks: number of residual blocks.
        res_scale: factor on each residual branch (0.1 for the 256-channel network).
        scale: 2, 3 or 4.
    """

    name = "edsr"
    mean_in: Tensor
    mean_out: Tensor

    def __init__(self, channels: int, blocks: int, res_scale: float, scale: int) -> None:
        super().__init__()
        self.channels = channels
        self.blocks = blocks
        self.scale = scale
        self.sizes = {"channels": channels, "blocks": blocks, "res_scale": res_scale}
        # weights like any other: official checkpoints hold means that training may have moved
        self.register_buffer("mean_in", rgb_mean())
        self.register_buffer("mean_out", rgb_mean())
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(channels, res_scale) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = upsampler(channels, scale)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    @property
    def taps(self) -> tuple[str, ...]:
        blocks = (f"block{i}" for i in range(self.blocks))
        return ("first_conv", *blocks, "conv_after_body", "after_long_skip")

    def features(self, x: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """As promised; features are on the network's inner scale, that of [0, 255] images."""
        kept = Kept(self, taps)
        first = kept("first_conv", self.conv_first((x - self.mean_in) * RANGE))
        y = first
        for i, block in enumerate(self.body):
            y = kept(f"block{i}", block(y))
        y = kept("conv_after_body", self.conv_after_body(y))
        y = kept("after_long_skip", y + first)
        return self.conv_last(self.upsample(y)) / RANGE + self.mean_out, kept
