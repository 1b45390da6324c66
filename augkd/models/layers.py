"""What more than one network is made of."""

import torch
from torch import Tensor, nn

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
