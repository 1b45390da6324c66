"""The frozen teacher of a cohort: computed once a batch, shared by every student."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from augkd.data.sampler import Batch

Terms = dict[str, Tensor]
"""Named, weighted loss terms, each a scalar: what a method returns."""

Updates = Terms | Iterator[Terms]
"""One optimiser step on the sum of the terms, or one step for each group of an iterator."""


class Teacher:
    """Answers for one batch at a time; ``see`` starts the next one and forgets the last.

    Inputs are named by the fields of ``Batch``: "lr", "zoom_in", "zoom_out". Outputs and
    features carry no gradient. The network is in evaluation mode, so that drop-path is off. It
    may be any image-to-image network; features are had of an ``SRNetwork`` alone.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)
        self._wanted: dict[str, set[str]] = {}
        self._answers: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}

    def see(self, batch: Batch) -> "Teacher":
        self._batch = batch
        self._answers.clear()
        return self

    def output(self, name: str) -> Tensor:
        """T of the batch's image ``name``."""
        if name not in self._answers:
            self._compute(name)
        return self._answers[name][0]

    def features(self, name: str, taps: Sequence[str]) -> dict[str, Tensor]:
        """T's features of the batch's image ``name`` at the given taps.

        Taps asked for once are computed with the output from then on, in one forward pass.

        Raises:
            UserError: the network has no such tap.
        """
        wanted = self._wanted.setdefault(name, set())
        if not wanted.issuperset(taps) or name not in self._answers:
            wanted.update(taps)
            self._compute(name)
        return {tap: self._answers[name][1][tap] for tap in taps}

    @torch.no_grad()
    def _compute(self, name: str) -> None:
        image = getattr(self._batch, name)
        if taps := sorted(self._wanted.get(name, ())):
            network: Any = self.network  # one with features, or it would not have been asked
            self._answers[name] = network.features(image, taps)
        else:
            self._answers[name] = self.network(image), {}
