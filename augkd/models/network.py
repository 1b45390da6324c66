"""What more than one network is made of.

What every network here offers, and what distillation may ask of it.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from augkd.errors import UserError


class SRNetwork(nn.Module):
    """Maps (N, 3, h, w) in [0, 1] to (N, 3, scale*h, scale*w), not clamped.

    Attributes:
        name: what ``create_model`` calls it.
        scale: 2, 3 or 4.
        channels: width of the feature maps.
        sizes: every other argument that builds the same network again.
    """

    name: str
    scale: int
    channels: int
    sizes: dict[str, Any]

    @property
    @abstractmethod
    def taps(self) -> tuple[str, ...]:
        """Names of the points where ``features`` can read, in order of computation."""

    @abstractmethod
    def features(self, x: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the feature maps (N, channels, h, w) at the named points.

        Raises:
            UserError: the network has no such tap.
        """

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x, ())[0]


class Kept(dict[str, Tensor]):
    """The feature maps asked for, caught as they pass: ``y = kept("first_conv", conv(x))``."""

    def __init__(self, network: SRNetwork, taps: Sequence[str]) -> None:
        super().__init__()
        for tap in taps:
            if tap not in network.taps:
                raise UserError(
                    f"{network.name} has no tap '{tap}': it has {', '.join(network.taps)}"
                )
        self._wanted = frozenset(taps)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self._wanted:
            self[name] = value
        return value


RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as every public checkpoint has it
RANGE = 255.0  # EDSR and RCAN were published for [0, 255] images; the scaling is inside them


def rgb_mean() -> Tensor:
    """The mean as an image of one pixel, (1, 3, 1, 1)."""
    return torch.tensor(RGB_MEAN).view(1, 3, 1, 1)


def upsampler(channels: int, scale: int) -> nn.Sequential:
    """Convolution and pixel shuffle: one stage for x2 and x3, two x2 stages for x4."""
    factors = {2: [2], 3: [3], 4: [2, 2]}[scale]
    layers: list[nn.Module] = []
    for factor in factors:
        layers.append(nn.Conv2d(channels, channels * factor**2, 3, padding=1))
        layers.append(nn.PixelShuffle(factor))
    return nn.Sequential(*layers)
