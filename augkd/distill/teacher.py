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
        return self._answer(name, ())[0]

    def features(self, name: str, taps: Sequence[str]) -> dict[str, Tensor]:
        """T's features of the batch's image ``name`` at the given taps.

        Taps asked for once are computed with the output from then on, in one forward pass.

        Raises:
            UserError: the network has no such tap.
        """
        maps = self._answer(name, taps)[1]
        return {tap: maps[tap] for tap in taps}

    @torch.no_grad()
    def _answer(self, name: str, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = self._wanted.setdefault(name, set())
        if name not in self._answers or not wanted.issuperset(taps):
            wanted.update(taps)
            network: Any = self.network  # one with features, where any is wanted
            image, known = getattr(self._batch, name), sorted(wanted)
            self._answers[name] = network.features(image, known) if known else (network(image), {})
        return self._answers[name]
