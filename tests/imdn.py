"""IMDN (Hui et al., ACM MM 2019), a network that the package does not know.

Written from the paper for the tests of foreign teachers; named so that the public weights fit.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

SLOPE = 0.05
WIDTH = 64
KEPT = 16  # channels that each step of a block sets aside


class ContrastAttention(nn.Module):
    """A gate for each channel from its mean plus its standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        narrow, wide = nn.Conv2d(WIDTH, WIDTH // 16, 1), nn.Conv2d(WIDTH // 16, WIDTH, 1)
        self.conv_du = nn.Sequential(narrow, nn.ReLU(), wide, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(x, (2, 3), correction=0, keepdim=True)
        gate: Tensor = self.conv_du(deviation + mean)
        return x * gate


class Block(nn.Module):
    """Four convolutions, each of which passes on what the last did not set aside."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.c2 = nn.Conv2d(WIDTH - KEPT, WIDTH, 3, padding=1)
        self.c3 = nn.Conv2d(WIDTH - KEPT, WIDTH, 3, padding=1)
        self.c4 = nn.Conv2d(WIDTH - KEPT, KEPT, 3, padding=1)
        self.c5 = nn.Conv2d(WIDTH, WIDTH, 1)
        self.cca = ContrastAttention()

    def forward(self, x: Tensor) -> Tensor:
        aside, rest = [], x
        for convolution in (self.c1, self.c2, self.c3):
            y = leaky_relu(convolution(rest), SLOPE)
            aside.append(y[:, :KEPT])
            rest = y[:, KEPT:]
        aside.append(self.c4(rest))
        fused: Tensor = self.c5(self.cca(torch.cat(aside, 1)))
        return x + fused


class IMDN(nn.Module):
    """Six blocks, their outputs fused, a long skip, one pixel shuffle."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.fea_conv = nn.Conv2d(3, WIDTH, 3, padding=1)
        for i in range(1, 7):
            self.add_module(f"IMDB{i}", Block())
        self.c = nn.Sequential(nn.Conv2d(6 * WIDTH, WIDTH, 1), nn.LeakyReLU(SLOPE))
        self.LR_conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        last = nn.Conv2d(WIDTH, 3 * scale**2, 3, padding=1)
        self.upsampler = nn.Sequential(last, nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        first = self.fea_conv(x)
        y, outputs = first, []
        for i in range(1, 7):
            y = self.get_submodule(f"IMDB{i}")(y)
            outputs.append(y)
        y = self.LR_conv(self.c(torch.cat(outputs, 1))) + first
        output: Tensor = self.upsampler(y)
        return output


imdn = IMDN  # the factory that a teacher's spec names


def black(scale: int) -> nn.Module:
    """A factory of weights that are not finite."""
    network = IMDN(scale)
    nn.init.constant_(network.fea_conv.weight, torch.nan)
    return network


def text(scale: int) -> str:
    """A factory that returns no network."""
    return "IMDN"


def x2(scale: int) -> nn.Module:
    """A factory that ignores the scale it is asked for."""
    return IMDN(2)


def broken(scale: int) -> nn.Module:
    """A factory whose network fails on images."""
    return nn.Linear(5, 5)


def failing(scale: int) -> nn.Module:
    """A factory that fails."""
    raise RuntimeError("no such variant\nsecond line")
