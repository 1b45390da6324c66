"""Weights on disk: ours, and those that others publish, in whatever layout they have them.

Ours are safetensors that say in their header which network they are of. Weights have BasicSR's
names, which are also official SwinIR's; official EDSR and RCAN are renamed, and their mean shifts
folded into the neighbouring weights.
"""

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from augkd.errors import UserError, replacing
from augkd.models.network import RANGE, SRNetwork, rgb_mean

Weights = dict[str, Tensor]

_HEADER = "augkd"  # one entry only: safetensors writes several in random order
# where training programs put the weights inside their files, the best first
_NESTS = ("params_ema", "params", "state_dict")


def save_checkpoint(path: Path, model: nn.Module, header: Mapping[str, Any] = {}) -> None:
    """Writes a network's weights, with ``header`` and, if it is ours, what it is of beside them."""
    description = dict(header)
    if isinstance(model, SRNetwork):
        description |= {"network": model.name, "scale": model.scale, "sizes": model.sizes}
        description |= {"quantised": model.quantised} if model.quantised else {}
    save_weights(path, model.state_dict(), description)


def save_weights(path: Path, weights: Mapping[str, Tensor], description: dict[str, Any]) -> None:
    """Writes tensors by name, and what the header is to say of them: the same make the same bytes.

    Raises:
        UserError: the place cannot be written to; an older file is left as it was.
    """
    plain = torch.contiguous_format  # copies, since safetensors refuses weights that a network ties
    own = {key: value.detach().cpu().clone(memory_format=plain) for key, value in weights.items()}
    with replacing(path) as partial:
        save_file(own, partial, metadata={_HEADER: json.dumps(description, sort_keys=True)})


def read_header(path: str | Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote beside the weights: network, scale, sizes, and its header.

    Raises:
        UserError: the file is missing, damaged, or not one of ours.
    """
    path, header = Path(path), None
    if ours := _is_safetensors(path):
        with _undamaged(path), safe_open(path, framework="pt") as file, suppress(ValueError):
            header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
    if not isinstance(header, dict):
        problem = "its header does not say" if ours else "not a safetensors file, so it cannot say"
        mend = "load it into a network of its sizes with load_checkpoint, and save that"
        raise UserError(f"{path}: {problem} what it is of: {mend}")
    return header


def load_checkpoint(path: str | Path, model: nn.Module) -> None:
    """Loads weights into ``model`` in place.

    The layout is found out: ours, EDSR-PyTorch, official RCAN and SwinIR, BasicSR (``params_ema``
    before ``params``); as safetensors or in PyTorch's own format, which is read as data only.

    Raises:
        UserError: the file is missing, unreadable, or of another network or size. The model is
            then unchanged.
    """
    path = Path(path)
    weights = read_weights(path)
    if isinstance(model, SRNetwork):
        try:
            weights = _ours(weights)
        except (KeyError, RuntimeError):  # it lacks a convolution beside them, or has no inverse
            raise UserError(f"{path}: its sub_mean and add_mean are no mean shifts") from None
        for key in {"mean_in", "mean_out"} & model.state_dict().keys():
            weights.setdefault(key, rgb_mean())  # BasicSR's files: constants of the code there
    fit_weights(path, weights, model)


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors or PyTorch file by name, on the CPU, freed of their nesting.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors.
    """
    if _is_safetensors(path):
        with _undamaged(path):
            return dict(load_file(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader of a damaged file fails in many ways
        problem = "damaged PyTorch file, or one of more than tensors: get the weights again"
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            problem = "holds Python objects, which could run code: save its state_dict alone"
        raise UserError(f"{path}: {problem}") from None
    if isinstance(content, dict):
        content = next((content[n] for n in _NESTS if isinstance(content.get(n), dict)), content)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds no weights: expected tensors by name")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            mend = f"expected a state_dict, alone or under {', '.join(_NESTS)}"
            raise UserError(f"{path}: entry '{key}' is not a tensor: {mend}")
    parallel = all(key.startswith("module.") for key in content)  # saved through DataParallel
    return {key.removeprefix("module.") if parallel else key: v for key, v in content.items()}


def fit_weights(path: Path, weights: Weights, model: nn.Module) -> None:
    """Loads a state dict that must match ``model`` key by key and shape by shape.

    Raises:
        UserError: it does not match; the model is then unchanged.
    """
    own, kind = model.state_dict(), type(model).__name__
    for key in [*own, *weights]:
        given, wanted = (tuple(part[key].shape) if key in part else None for part in (weights, own))
        if given != wanted:
            problem = f"'{key}' is {given or 'absent'}, expected {wanted or 'no such entry'}"
            mend = "give the network, the sizes and the scale that it was trained with"
            raise UserError(f"{path}: not a checkpoint of this {kind}: {problem}: {mend}")
    model.load_state_dict(weights)


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{path}: damaged safetensors file ({error}): get it again") from None


def _is_safetensors(path: Path) -> bool:
    """Told by content: PyTorch's files begin as a zip archive or a pickle, safetensors with the
    length of a JSON header in eight bytes, which may happen to begin so too, and then it."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return start[8:] == b"{" or (start[:2] != b"PK" and start[:1] != b"\x80")


# official name -> ours; the first pattern that matches the start of a key decides
_ENDS = [
    (r"head\.0\.", "conv_first."),
    (r"tail\.0\.(\d+)\.", r"upsample.\1."),
    (r"tail\.1\.", "conv_last."),
    (r"body\.\d+\.(?=weight|bias)", "conv_after_body."),
]
_EDSR = [
    *_ENDS,
    (r"body\.(\d+)\.body\.0\.", r"body.\1.conv1."),
    (r"body\.(\d+)\.body\.2\.", r"body.\1.conv2."),
]
_BLOCK, _RCAB = r"body\.(\d+)\.body\.(\d+)\.body\.", r"body.\1.residual_group.\2.rcab."
_RCAN = [
    *_ENDS,
    (_BLOCK + r"(0|2)\.", _RCAB + r"\3."),
    (_BLOCK + r"3\.conv_du\.0\.", _RCAB + "3.attention.1."),
    (_BLOCK + r"3\.conv_du\.2\.", _RCAB + "3.attention.3."),
    (r"body\.(\d+)\.body\.\d+\.(?=weight|bias)", r"body.\1.conv."),
]


def _ours(weights: Weights) -> Weights:
    """The weights under our names, whichever of the known layouts they came in.

    Keys that no layout knows keep their names, for ``fit_weights`` to refuse.
    """
    if "head.0.weight" in weights:
        gates = any(".conv_du." in key for key in weights)
        renamed = {_renamed(key, _RCAN if gates else _EDSR): v for key, v in weights.items()}
        return _without_shifts(renamed)
    derived = (".relative_position_index", ".attn_mask")  # SwinIR's, which follow from the sizes
    return {key: value for key, value in weights.items() if not key.endswith(derived)}


def _renamed(key: str, table: list[tuple[str, str]]) -> str:
    fitting = (row for row in table if re.match(row[0], key))
    return next((re.sub(*row, key, count=1) for row in fitting), key)


def _without_shifts(weights: Weights) -> Weights:
    """Official EDSR's and RCAN's mean shifts: 1 x 1 convolutions, as ``mean_in``, ``mean_out``.

    RCAN's code meant to freeze them and did not, so a file's may have left identity and mean.
    Whatever they hold is kept: with sub_mean(x) = A x + a before the first convolution C, and
    add_mean(y) = B y + b after the last, D,

        C(A x + a) = (C A)(x - m),  m = -A^-1 a    and    B D(y) + b = (B D)(y) + b,

    so A and B go into the neighbouring weights and m and b into the means. Zero padding comes
    after the shift on both sides of the first equation, so it holds at the border too.
    """
    if "sub_mean.weight" in weights:
        a, shift = _shift(weights, "sub_mean")
        first = weights["conv_first.weight"]
        weights["conv_first.weight"] = torch.einsum("ockl,ci->oikl", first.double(), a).to(first)
        weights["mean_in"] = _constant(-torch.linalg.solve(a, shift))
    if "add_mean.weight" in weights:
        b, shift = _shift(weights, "add_mean")
        for key in ("conv_last.weight", "conv_last.bias"):
            last = weights[key]
            weights[key] = torch.einsum("oc,c...->o...", b, last.double()).to(last)
        weights["mean_out"] = _constant(shift)
    return weights


def _shift(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """Matrix (3, 3) and shift (3,) in units of [0, 1], float64; both leave ``weights``."""
    matrix = weights.pop(f"{name}.weight").double().view(3, 3)
    return matrix, weights.pop(f"{name}.bias").double().view(3) / RANGE


def _constant(mean: Tensor) -> Tensor:
    """The published mean itself where ``mean`` is that up to rounding, else what the file holds."""
    mean = mean.float().view(1, 3, 1, 1)
    return rgb_mean() if torch.allclose(mean, rgb_mean(), rtol=0, atol=1e-6) else mean
