"""Public checkpoints' key layouts, mapped to ours (BasicSR's names): one function a layout."""

import re

import torch
from torch import Tensor

from augkd.models.layers import RANGE, rgb_mean

Weights = dict[str, Tensor]

# official name -> ours; the first pattern that matches the start of a key decides
_ENDS = [
    (r"head\.0\.", "conv_first."),
    (r"tail\.0\.(\d+)\.", r"upsample.\1."),
    (r"tail\.1\.", "conv_last."),
]
_EDSR = [
    *_ENDS,
    (r"body\.(\d+)\.body\.0\.", r"body.\1.conv1."),
    (r"body\.(\d+)\.body\.2\.", r"body.\1.conv2."),
    (r"body\.\d+\.(?=weight|bias)", "conv_after_body."),
]
_RCAN = [
    *_ENDS,
    (r"body\.(\d+)\.body\.(\d+)\.body\.(0|2)\.", r"body.\1.residual_group.\2.rcab.\3."),
    (
        r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.0\.",
        r"body.\1.residual_group.\2.rcab.3.attention.1.",
    ),
    (
        r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.2\.",
        r"body.\1.residual_group.\2.rcab.3.attention.3.",
    ),
    (r"body\.(\d+)\.body\.\d+\.(?=weight|bias)", r"body.\1.conv."),
    (r"body\.\d+\.(?=weight|bias)", "conv_after_body."),
]


def ours(weights: Weights) -> Weights:
    """The weights under our names, whichever of the known layouts they came in.

    Keys that no layout knows keep their names, for ``fit_weights`` to refuse.
    """
    if any(key.endswith("relative_position_bias_table") for key in weights):
        return from_swinir(weights)
    if "head.0.weight" in weights:
        gates = any(".conv_du." in key for key in weights)
        return fold_means(_renamed(weights, _RCAN if gates else _EDSR))
    return weights  # ours already, or BasicSR's, whose names ours are


def from_swinir(weights: Weights) -> Weights:
    """Official and BasicSR's SwinIR: our names, and buffers that follow from the sizes."""
    derived = (".relative_position_index", ".attn_mask")
    return {key: value for key, value in weights.items() if not key.endswith(derived)}


def fold_means(weights: Weights) -> Weights:
    """Official EDSR's and RCAN's mean shifts: 1 x 1 convolutions, as ``mean_in``, ``mean_out``.

    RCAN's code meant to freeze them and did not, so a file's may have left identity and mean.
    Whatever they hold is kept: with sub_mean(x) = A x + a before the first convolution C, and
    add_mean(y) = B y + b after the last, D,

        C(A x + a) = (C A)(x - m),  m = -A^-1 a    and    B D(y) + b = (B D)(y) + b,

    so A and B go into the neighbouring weights and m and b into the means. Zero padding comes
    after the shift on both sides of the first equation, so it holds at the border too.
    """
    weights = dict(weights)
    mean_in, mean_out = rgb_mean(), rgb_mean()
    if "sub_mean.weight" in weights:
        a, shift = _shift(weights, "sub_mean")
        first = weights["conv_first.weight"]
        weights["conv_first.weight"] = torch.einsum("ockl,ci->oikl", first.double(), a).to(first)
        mean_in = -torch.linalg.solve(a, shift)
    if "add_mean.weight" in weights:
        b, shift = _shift(weights, "add_mean")
        for key in ("conv_last.weight", "conv_last.bias"):
            last = weights[key]
            weights[key] = torch.einsum("oc,c...->o...", b, last.double()).to(last)
        mean_out = shift
    weights["mean_in"], weights["mean_out"] = _constant(mean_in), _constant(mean_out)
    return weights


def _shift(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """Matrix (3, 3) and shift (3,) in units of [0, 1], float64; both leave ``weights``."""
    matrix = weights.pop(f"{name}.weight").double().view(3, 3)
    return matrix, weights.pop(f"{name}.bias").double().view(3) / RANGE


def _constant(mean: Tensor) -> Tensor:
    """The published mean itself where ``mean`` is that up to rounding, else what the file holds."""
    mean = mean.float().view(1, 3, 1, 1)
    return rgb_mean() if torch.allclose(mean, rgb_mean(), rtol=0, atol=1e-6) else mean


def _renamed(weights: Weights, table: list[tuple[str, str]]) -> Weights:
    def rename(key: str) -> str:
        for pattern, replacement in table:
            renamed, hits = re.subn("^" + pattern, replacement, key)
            if hits:
                return renamed
        return key

    return {rename(key): value for key, value in weights.items()}
