"""What every network here offers, and what distillation may ask of it."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

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
