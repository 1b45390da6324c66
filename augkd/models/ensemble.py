"""Geometric self-ensemble (Timofte et al., CVPR 2016), the level of Table 12's EDSR teacher."""

import torch
from torch import Tensor, nn


class SelfEnsemble(nn.Module):
    """Mean of a network's outputs over the eight flips and transpositions, each undone.

    Maps what the network maps, images of any shape: a transposed rectangle is its own forward
    pass. Eight times the cost, no more memory.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for transposed in (False, True):
            for flips in ((), (-2,), (-1,), (-2, -1)):
                image = x.transpose(-2, -1) if transposed else x
                y = self.network(image.flip(flips)).flip(flips)
                outputs.append(y.transpose(-2, -1) if transposed else y)
        return torch.stack(outputs).mean(0)
