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
        uniform: (K*N, 4), what ``transform`` was drawn from: of another probability p, F is
            ``Invertible(uniform < p)``. None where no such control is trained.
        zoom_cell: as ``zoom_in``, but one cell of the scale x scale grid for the whole batch, as
            the predecessor's released code crops. Likewise None.
        seed: the number from which a method that must draw (dropout, sampling) may seed itself.
    """

    lr: Tensor
    hr: Tensor
    zoom_in: Tensor
    zoom_out: Tensor
    transform: Invertible
    seed: int
    uniform: Tensor | None = None
    zoom_cell: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        moved = {
            f.name: value if f.name == "seed" else value.to(device)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return Batch(**moved)
