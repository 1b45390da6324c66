"""Outputs of public reference implementations, and the networks that must reproduce them.

A part is kept in tests/golden; with AUGKD_GOLDEN set, that folder's whole index is used.
"""

import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from augkd.models import NETWORKS, SRNetwork, create_model

# the reference's argument -> ours, where they differ
_NAMES = {"n_feats": "channels", "num_feat": "channels", "upscale": "scale"}
_NAMES |= {"n_resgroups": "groups", "num_group": "groups", "squeeze_factor": "reduction"}
_NAMES |= {"n_resblocks": "blocks", "num_block": "blocks"}


@dataclass(frozen=True)
class Case:
    """One reference network with random weights, its inputs, outputs and features."""

    path: Path
    model: str
    layout: str
    args: dict[str, Any]

    def __str__(self) -> str:
        return self.path.stem

    def create(self) -> SRNetwork:
        name = self.model.lower()
        sizes = {_NAMES.get(key, key): value for key, value in self.args.items()}
        known = inspect.signature(NETWORKS[name]).parameters
        return create_model(name, **{key: sizes[key] for key in known if key in sizes}).eval()

    def tensors(self) -> dict[str, Tensor]:
        return dict(load_file(self.path))

    def weights(self) -> dict[str, Any]:
        """What the reference's checkpoint file holds."""
        prefix = "weights.params." if self.layout == "basicsr" else "weights."
        every = self.tensors().items()
        weights = {k.removeprefix(prefix): v for k, v in every if k.startswith(prefix)}
        return {"params": weights} if self.layout == "basicsr" else weights

    def checkpoint(self, folder: Path) -> Path:
        """The checkpoint as its publisher would have saved it."""
        path = folder / f"{self.path.stem}.pt"
        torch.save(self.weights(), path)
        return path


def _cases() -> dict[str, Case]:
    own = Path(__file__).parent / "golden"
    folder = Path(os.environ.get("AUGKD_GOLDEN", own))
    index = folder / ("networks.json" if folder == own else "index.json")
    cases = [c for c in json.loads(index.read_text())["cases"] if c.get("kind") == "network"]
    keys = ("model", "layout", "args")
    return {Path(c["file"]).stem: Case(folder / c["file"], *(c[k] for k in keys)) for c in cases}


CASES = _cases()
