"""What a cohort sees at one step: everything random has been drawn by the sampler."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from augkd.augment import Invertible


@dataclass(frozen=True)
class Batch:
    """One step's images, RGB in [0, 1], for N patches of p x p LR pixels at scale s.

    Attributes:
        lr: (N, 3, p, p).
        hr: (N, 3, s*p, s*p).
        zoom_in: (K*N, 3, p, p), crops of ``hr`` (Section 3.3); crop k*N + i is of image i.
        zoom_out: (N, 3, p/s, p/s), ``lr`` reduced once more (Section 3.3).
        transform: the drawn F of Section 3.4, for K*N images.
        seed: the number from which a method that must draw (dropout, sampling) may seed itself.
    """

    lr: Tensor
    hr: Tensor
    zoom_in: Tensor
    zoom_out: Tensor
    transform: Invertible
    seed: int

    def to(self, device: torch.device) -> "Batch":
        moved = {
            f.name: value if f.name == "seed" else value.to(device)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return Batch(**moved)
