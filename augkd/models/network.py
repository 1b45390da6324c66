"""What every network here offers, and what distillation may ask of it."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class SRNetwork(nn.Module):
    """Maps (N, 3, h, w) in [0, 1] to (N, 3, scale*h, scale*w), not clamped.

    Attributes:
        scale: 2, 3 or 4.
        channels: width of the feature maps.
    """

    scale: int
    channels: int

    @property
    @abstractmethod
    def taps(self) -> tuple[str, ...]:
        """Names of the points where ``features`` can read, in order of computation."""

    @abstractmethod
    def features(self, x: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the feature maps (N, channels, h, w) at the named points."""

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x, ())[0]
