"""What every network here offers, what distillation may ask of it, and what several share."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from augkd.errors import UserError

RANGE = 255.0  # EDSR and RCAN were published for images in [0, 255]


def exact(device: torch.device) -> AbstractContextManager[None]:
    """Inside, nothing is computed in bfloat16 that is given as float32."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # of "meta", on which steps are counted


class SRNetwork(nn.Module):
    """Maps (N, 3, h, w) in [0, 1] to (N, 3, scale*h, scale*w), not clamped."""

    name: str  # what ``create_model`` calls it
    scale: int  # 2, 3 or 4
    channels: int  # width of the feature maps
    stage: str  # what its body is a row of: "block", "group" or "rstb"
    stages: int  # how many of them
    sizes: dict[str, Any]  # every other argument of ``create_model``, which notes them here
    quantised: dict[str, Any] | None = None  # the arguments of ``quantize``, where it is so

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the points where ``features`` can read, in order of computation."""
        stages = (f"{self.stage}{i}" for i in range(self.stages))
        return ("first_conv", *stages, "conv_after_body", "after_long_skip")

    def features(self, x: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the feature maps (N, channels, h, w) at the named points.

        Raises:
            UserError: the network has no such tap.
        """
        y, kept = self.body_features(x, taps)
        return self.enlarge(y, *x.shape[2:]), kept

    def body_features(self, x: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``features``, but in place of the output what it would be made from."""
        kept: dict[str, Tensor] = {}
        for tap in set(taps).difference(self.taps):
            raise UserError(f"{self.name} has no tap '{tap}': it has {', '.join(self.taps)}")
        for tap, y in zip(self.taps, self.extract(x), strict=True):
            if tap in taps:
                fits = y.shape[2:] == x.shape[2:]
                kept[tap] = y if fits else y[..., : x.shape[2], : x.shape[3]]
        return y, kept

    def extract(self, x: Tensor) -> Iterator[Tensor]:
        """The maps at ``taps`` in their order, (N, channels, h, w) or larger at the end of axes."""
        raise NotImplementedError

    def enlarge(self, y: Tensor, height: int, width: int) -> Tensor:
        """The output, from the last map of ``extract`` of an image of that size."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x, ())[0]


class ResidualNetwork(SRNetwork):
    """All of EDSR and RCAN but the stages of the body, which they hand over, not yet built.

    Initial weights are drawn in the order of computation. Names of parameters are BasicSR's;
    ``load_checkpoint`` maps the official ones to them. Features are on the inner scale, that of
    images in [0, 255]. The means are weights like any other: official checkpoints hold some that
    training has moved.
    """

    mean_in: Tensor
    mean_out: Tensor

    def __init__(self, body: Iterable[nn.Module], scale: int, channels: int) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale
        self.register_buffer("mean_in", rgb_mean())
        self.register_buffer("mean_out", rgb_mean())
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*body)
        self.stages = len(self.body)
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = upsampler(channels, scale)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def extract(self, x: Tensor) -> Iterator[Tensor]:
        y = first = self.conv_first((x - self.mean_in) * RANGE)
        yield first
        for stage in self.body:
            y = stage(y)
            yield y
        y = self.conv_after_body(y)
        yield y
        yield y + first

    def enlarge(self, y: Tensor, height: int, width: int) -> Tensor:
        return self.conv_last(self.upsample(y)) / RANGE + self.mean_out  # type: ignore[no-any-return]


def rgb_mean() -> Tensor:
    """DIV2K's, as every public checkpoint has it, as an image of one pixel, (1, 3, 1, 1)."""
    return torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)


class SubPixelConv2d(nn.Conv2d):
    """A 3x3 convolution to factor ** 2 times the channels, and the pixel shuffle after it.

    Weights are those of the two layers. Its channels are computed in the order in which they come
    to lie beside each other, so that whole rows of them move: half the time, forth and back.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels, channels * factor**2, 3, padding=1)
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        (n, inner, h, w), r = input.shape, self.factor
        weight = self.weight.reshape(-1, r * r, inner, 3, 3).transpose(0, 1).flatten(0, 1)
        bias = self.bias.reshape(-1, r * r).T.flatten() if self.bias is not None else None
        y = conv2d(input, weight, bias, padding=1).movedim(1, -1)  # of r * r pixels each
        rows = y.reshape(n, h, w, r, -1).transpose(2, 3)
        return rows.reshape(n, r * h, r * w, -1).movedim(-1, 1)


def upsampler(channels: int, scale: int) -> nn.Sequential:
    """One stage for x2 and x3, two x2 stages for x4; of the layers that publishers count, the
    shuffles have no weights and no place."""
    factors = (2, 2) if scale == 4 else (scale,)
    stages = {str(2 * i): SubPixelConv2d(channels, factor) for i, factor in enumerate(factors)}
    return nn.Sequential(OrderedDict(stages))
