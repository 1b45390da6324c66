"""Our networks as the files that others publish: the official layouts, random weights and all."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from augkd.models import SRNetwork
from augkd.models.network import rgb_mean

_ENDS = [
    (r"conv_first\.", "head.0."),
    (r"upsample\.(\d+)\.", r"tail.0.\1."),
    (r"conv_last\.", "tail.1."),
]
_EDSR = [
    *_ENDS,
    (r"body\.(\d+)\.conv1\.", r"body.\1.body.0."),
    (r"body\.(\d+)\.conv2\.", r"body.\1.body.2."),
    (r"conv_after_body\.", "body.{blocks}."),
]
_IN_GROUP = r"body\.(\d+)\.residual_group\.(\d+)\.rcab\."
_RCAN = [
    *_ENDS,
    (_IN_GROUP + r"3\.attention\.1\.", r"body.\1.body.\2.body.3.conv_du.0."),
    (_IN_GROUP + r"3\.attention\.3\.", r"body.\1.body.\2.body.3.conv_du.2."),
    (_IN_GROUP + r"([02])\.", r"body.\1.body.\2.body.\3."),
    (r"body\.(\d+)\.conv\.", r"body.\1.body.{blocks}."),
    (r"conv_after_body\.", "body.{groups}."),
]


def official(model: SRNetwork) -> dict[str, Any]:
    """What the authors of the network would have saved: a state dict, SwinIR's under "params"."""
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    if model.name == "swinir":
        return {"params": weights}
    named: dict[str, Tensor] = {}
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        del weights["mean_in" if sign < 0 else "mean_out"]
        bias = sign * 255 * rgb_mean().flatten()
        named |= {f"{name}.weight": torch.eye(3)[..., None, None], f"{name}.bias": bias}
    table = _EDSR if model.name == "edsr" else _RCAN
    for key, value in weights.items():
        (row,) = (row for row in table if re.match(row[0], key))
        named[re.sub(*row, key, count=1).format(**model.sizes)] = value
    return named


def publish(model: SRNetwork, path: Path) -> None:
    torch.save(official(model), path)
