"""RCAN (Zhang et al., ECCV 2018): the network of Tables 1, 3 and 4.

Names of parameters follow BasicSR's layout; ``load_checkpoint`` maps the official one to it.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from augkd.errors import UserError
from augkd.models.network import RANGE, Kept, SRNetwork, rgb_mean, upsampler


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
        gate: Tensor = self.attention(x)
        return x * gate


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
        residual: Tensor = self.rcab(x)
        return x + residual


class ResidualGroup(nn.Module):
    """x + conv(blocks(x))."""

    def __init__(self, channels: int, blocks: int, reduction: int) -> None:
        super().__init__()
        layers = (AttentionBlock(channels, reduction) for _ in range(blocks))
        self.residual_group = nn.Sequential(*layers)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv(self.residual_group(x))
        return x + residual


class RCAN(SRNetwork):
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

    name = "rcan"
    mean_in: Tensor
    mean_out: Tensor

    def __init__(self, channels: int, groups: int, blocks: int, reduction: int, scale: int) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise UserError(f"rcan: reduction {reduction} must be from 1 to channels ({channels})")
        self.channels = channels
        self.groups = groups
        self.scale = scale
        self.sizes = {
            "channels": channels,
            "groups": groups,
            "blocks": blocks,
            "reduction": reduction,
        }
        # weights like any other: official checkpoints hold means that training may have moved
        self.register_buffer("mean_in", rgb_mean())
        self.register_buffer("mean_out", rgb_mean())
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        layers = (ResidualGroup(channels, blocks, reduction) for _ in range(groups))
        self.body = nn.Sequential(*layers)
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = upsampler(channels, scale)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    @property
    def taps(self) -> tuple[str, ...]:
        groups = (f"group{i}" for i in range(self.groups))
        return ("first_conv", *groups, "conv_after_body", "after_long_skip")

    def features(self, x: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """As promised; features are on the network's inner scale, that of [0, 255] images."""
        kept = Kept(self, taps)
        first = kept("first_conv", self.conv_first((x - self.mean_in) * RANGE))
        y = first
        for i, group in enumerate(self.body):
            y = kept(f"group{i}", group(y))
        y = kept("conv_after_body", self.conv_after_body(y))
        y = kept("after_long_skip", y + first)
        return self.conv_last(self.upsample(y)) / RANGE + self.mean_out, kept
