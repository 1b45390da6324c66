"""RCAN (Zhang et al., ECCV 2018): the network of Tables 1, 3 and 4."""

from torch import Tensor, nn

from augkd.errors import UserError
from augkd.models.network import ResidualNetwork


class ChannelAttention(nn.Module):
    """Weighs each channel by a gate in (0, 1) that is computed from the channels' means."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """RCAB: x + attention(conv(relu(conv(x)))), without a residual scale."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.rcab = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelAttention(channels, reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rcab(x)  # type: ignore[no-any-return]


class ResidualGroup(nn.Module):
    """x + conv(blocks(x))."""

    def __init__(self, channels: int, blocks: int, reduction: int) -> None:
        super().__init__()
        layers = (AttentionBlock(channels, reduction) for _ in range(blocks))
        self.residual_group = nn.Sequential(*layers)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x))  # type: ignore[no-any-return]


class RCAN(ResidualNetwork):
    """Maps (N, 3, h, w) in [0, 1] to (N, 3, scale*h, scale*w), not clamped.

    Args:
        channels: width of every feature map.
        groups: number of residual groups.
        blocks: number of attention blocks in a group.
        reduction: how much narrower the gate's hidden layer is; at most ``channels``.
        scale: 2, 3 or 4.

    Raises:
        UserError: the reduction leaves the gate no channel.
    """

    name, stage = "rcan", "group"

    def __init__(self, channels: int, groups: int, blocks: int, reduction: int, scale: int) -> None:
        if not 1 <= reduction <= channels:
            raise UserError(f"rcan: reduction {reduction} must be from 1 to channels ({channels})")
        body = (ResidualGroup(channels, blocks, reduction) for _ in range(groups))
        super().__init__(body, scale, channels)
