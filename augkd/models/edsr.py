"""EDSR (Lim et al., CVPRW 2017): the network of Tables 1, 2, 6, 7, 8 and 9."""

import torch
from torch import Tensor, nn

from augkd.models.network import ResidualNetwork


class ResidualBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))): no batch normalisation."""

    def __init__(self, channels: int, res_scale: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.conv2(torch.relu(self.conv1(x))), alpha=self.res_scale)


class EDSR(ResidualNetwork):
    """Maps (N, 3, h, w) in [0, 1] to (N, 3, scale*h, scale*w), not clamped.

    Args:
        channels: width of every residual block.
        blocks: number of residual blocks.
        res_scale: factor on each residual branch (0.1 for the 256-channel network).
        scale: 2, 3 or 4.
    """

    name, stage = "edsr", "block"

    def __init__(self, channels: int, blocks: int, res_scale: float, scale: int) -> None:
        body = (ResidualBlock(channels, res_scale) for _ in range(blocks))
        super().__init__(body, scale, channels)
