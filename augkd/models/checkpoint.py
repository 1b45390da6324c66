"""Weights on disk: ours, and those that others publish, in whatever layout they have them.

Ours are safetensors that say in their header which network they are of. Weights have BasicSR's
names, which are also official SwinIR's; official EDSR and RCAN are renamed, and their mean shifts
folded into the neighbouring weights.
"""

import json
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from io import BytesIO
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn

from augkd.errors import UserError, replacing
from augkd.models.network import RANGE, SRNetwork, rgb_mean

Weights = dict[str, Tensor]

_HEADER = "augkd"  # one entry only: safetensors writes several in random order
# of these words are the names that training programs and wrappers put before those of weights
_WORDS = "ema|swa|averaged|shadow|online|params|model|module|network|generator|weights|state_dict"
_NAME = re.compile(rf"(?i)(_?({_WORDS}|orig_mod|net|net_?g|g|state)([_-]|$))+")
_AVERAGE = re.compile(r"(?i)(.*[_-])?(ema|swa|averaged|shadow)([_-].*)?")  # before any other
# and beside them lie counters of averages and profilers, adversaries and losses
_COUNTERS = r"(.*\.)?(total_ops|total_params|n_averaged|num_updates)|initted|step|decay"
_BESIDE = re.compile(rf"(?i){_COUNTERS}|(.*[._])?(net_?d|discriminator|\w*loss)[._].*")

_STRANGERS = {  # how what is no weights begins, what it is, and the mend
    rb"\s*$": "is empty: get it again",
    rb"version https://\S+/spec/": "is a git-LFS pointer, not weights: run 'git lfs pull'",
    rb"[\s\xef\xbb\xbf\xff\xfe]*<": "is a web page: download the file that it is about",
    rb"": "is neither a safetensors nor a PyTorch file: get it again, or save it as one",
}


def save_checkpoint(path: Path, model: nn.Module | Weights, header: Mapping[str, Any] = {}) -> None:
    """Writes a network's weights, or tensors by name: the same make the same bytes.

    Beside them go ``header`` and, if the network is ours, what it is of.

    Raises:
        UserError: the place cannot be written to; an older file is left as it was.
    """
    description = dict(header)
    if isinstance(model, SRNetwork):
        description |= {"network": model.name, "scale": model.scale, "sizes": model.sizes}
        description |= {"quantised": model.quantised} if model.quantised else {}
    weights = model.state_dict() if isinstance(model, nn.Module) else model
    plain = torch.contiguous_format  # copies, since safetensors refuses weights that a network ties
    own = {key: value.detach().cpu().clone(memory_format=plain) for key, value in weights.items()}
    with replacing(path) as partial:
        save_file(own, partial, metadata={_HEADER: json.dumps(description, sort_keys=True)})


def read_header(path: str | Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote beside the weights: network, scale, sizes, and its header.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(Path(path))[1]


def load_checkpoint(path: str | Path, model: nn.Module) -> None:
    """Loads weights into ``model`` in place.

    The layout is found out: ours, EDSR-PyTorch, official RCAN and SwinIR, BasicSR; as safetensors
    or in PyTorch's own format, which is read as data only; averaged weights before others.

    Raises:
        UserError: the file is missing, unreadable, or of another network or size. The model is
            then unchanged.
    """
    path = Path(path)
    if not isinstance(model, SRNetwork):
        return fit_weights(path, read_weights(path), model)
    told, weights = describe(path)
    own = {"quantised": model.quantised} | model.sizes
    for key, value in {**told, **told["sizes"]}.items():
        if key in ("quantised", "res_scale") and value != own.get(key, value):  # no shape tells
            raise UserError(f"{path}: its {key} is {value}, not {own[key]}: use load_network")
    fit_weights(path, weights, model)


def describe(path: Path) -> tuple[dict[str, Any], Weights]:
    """Network, scale, sizes, quantisation, by the header or, but for an EDSR's residual scale, by
    names and shapes; and the weights under our names. Raises UserError if it is none of ours."""
    content, header = _read(path)
    weights = unwrapped(_weights(path, content))
    try:
        named = _ours(weights)
        seen = _told(named)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
        ours = ("conv_", "body.", "layers.", "upsample.", "mean_", "norm.", "patch_embed.norm.")
        odd = [key for key in weights if not key.startswith(ours)] or [*weights]
        few = f"not understood: {', '.join(odd[:4])}" + " …" * (len(odd) > 4)
        raise UserError(f"{path}: no EDSR, RCAN or SwinIR: {few}: save its weights alone") from None
    if not isinstance(said := header.get("sizes"), dict):
        return seen, named
    for key, value in seen["sizes"].items():  # before a network of other sizes takes all memory
        if said.get(key, value) != value:
            problem = f"its header says {key} {said[key]!r:.40}, its weights {value}: get it again"
            raise UserError(f"{path}: {problem}")
    return header, named


def _told(weights: Weights) -> dict[str, Any]:
    def count(parent: str) -> int:  # its children
        return len({key[len(parent) :].split(".")[0] for key in weights if key.startswith(parent)})

    width, first = len(weights["conv_first.weight"]), weights["upsample.0.weight"].shape
    scale = 4 if "upsample.2.weight" in weights else isqrt(first[0] // first[1])
    name, group, row = "edsr", "body.0.residual_group.", "layers.{}.residual_group.blocks."
    sizes: dict[str, Any] = {"channels": width, "blocks": count(group) or count("body.")}
    if count(group):
        hidden = len(weights[f"{group}0.rcab.3.attention.1.weight"])
        name, sizes["groups"], sizes["reduction"] = "rcan", count("body."), width // hidden
    elif rows := [row.format(i) for i in range(count("layers."))]:
        tables = [weights[f"{row}0.attn.relative_position_bias_table"].shape for row in rows]
        name, hidden = "swinir", len(weights[f"{rows[0]}0.mlp.fc1.weight"])
        sizes = {"embed_dim": width, "depths": [*map(count, rows)], "head_channels": first[1]}
        sizes |= {"num_heads": [heads for _, heads in tables], "mlp_ratio": hidden / width}
        sizes |= {"window_size": isqrt(tables[0][0]) // 2 + 1}
    return {"network": name, "scale": scale, "sizes": sizes}


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors or PyTorch file by name, on the CPU, freed of their nesting.

    Raises:
        UserError: the file is missing, damaged, or holds anything but finite tensors.
    """
    return _weights(path, _read(path)[0])


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    """What a file holds, and its header if it is ours.

    Told by content: PyTorch's files begin as a zip archive or a pickle, safetensors with the length
    of a JSON header in eight bytes, which may happen to begin so too, and then it.
    """
    try:
        if not path.is_file():  # but a device, which has no end, or nothing
            raise UserError(f"{path}: no such checkpoint")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: no such checkpoint to read ({error.strerror})") from None
    header, problem = {}, "damaged PyTorch file, or one of more than tensors: get it again"
    try:
        if data[8:9] == b"{":
            with safe_open(path, framework="pt") as file, suppress(ValueError):
                header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            return load(data), header if isinstance(header, dict) else {}
        if data[:2] == b"PK" or data[:1] == b"\x80":
            with warnings.catch_warnings(action="ignore"):  # of a path, torch would go by the name
                return torch.load(BytesIO(data), map_location="cpu", weights_only=True), {}
        problem = next(what for how, what in _STRANGERS.items() if re.match(how, data))
    except SafetensorError as error:
        problem = f"damaged safetensors file ({error}): get it again"
    except Exception as error:  # the reader of a damaged file fails in many ways
        if "GLOBAL" in str(error) or "TorchScript" in str(error):
            problem = "holds Python objects, which could run code: save its state_dict alone"
    raise UserError(f"{path}: {problem}")


def _weights(path: Path, content: Any) -> Weights:
    inner = content.items() if isinstance(content, dict) else ()
    nests = {str(key): value for key, value in inner if isinstance(value, dict) and value}
    for name in sorted(filter(_NAME.fullmatch, nests), key=lambda n: not _AVERAGE.fullmatch(n)):
        return _weights(path, nests[name])
    weights = {key: value for key, value in inner if not _BESIDE.fullmatch(str(key))}
    if not weights:
        raise UserError(f"{path}: holds no weights: expected tensors by name")
    for key, value in weights.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided
        # one number that is said to be many, by strides of 0, would take all memory
        plain = plain and value.nbytes <= value.untyped_storage().nbytes()
        if not (plain and isinstance(key, str)):
            mend = "expected a state_dict, alone or under a name such as params or state_dict"
            raise UserError(f"{path}: entry '{key}' is not a tensor: {mend}")
    check_weights(path, weights, {})
    return weights


def unwrapped(weights: Weights, own: Collection[str] = ()) -> Weights:
    """Without the names of wrappers that all keys begin with, until they are those of ``own``."""
    weights = {key.replace("._orig_mod.", "."): value for key, value in weights.items()}
    while weights.keys() != set(own):
        heads = {key[: key.find(".") + 1] for key in weights}
        head, *others = [head for head in heads if _AVERAGE.fullmatch(head[:-1])] or heads
        if others or not _NAME.fullmatch(head[:-1]):
            break
        weights = {key.removeprefix(head): v for key, v in weights.items() if key.startswith(head)}
    return weights


def check_weights(place: object, weights: Weights, own: Weights) -> None:
    """Raises UserError for what loads without a word and answers with black images: a tensor that
    is not finite, but for masks; or not floating, where ``own`` is or it is a weight or bias."""
    for key, value in weights.items():
        wanted = own[key].is_floating_point() if key in own else key.endswith(("weight", "bias"))
        if (wanted or value.is_complex()) and not value.is_floating_point():
            raise UserError(f"{place}: '{key}' holds {value.dtype}, not floating-point numbers")
        try:
            finite = bool(value.float().isfinite().all()) or key.endswith("mask")
        except RuntimeError:  # a device without memory, a type without arithmetic
            problem = f"holds no numbers that can be read ({value.dtype}, device {value.device})"
            raise UserError(f"{place}: '{key}' {problem}: save its state_dict anew") from None
        if not finite:
            raise UserError(f"{place}: '{key}' is not finite (NaN or infinity): get it again")


def fit_weights(path: Path, weights: Weights, model: nn.Module) -> None:
    """Loads a state dict that must match ``model`` key by key and shape by shape.

    Raises:
        UserError: it does not match; the model is then unchanged.
    """
    own, kind = model.state_dict(), type(model).__name__
    weights = unwrapped(weights, own)
    if isinstance(model, SRNetwork):  # BasicSR's files lack the means: constants of the code there
        weights = dict.fromkeys({"mean_in", "mean_out"} & own.keys(), rgb_mean()) | weights
    for key in [*own, *weights]:
        given, wanted = (tuple(part[key].shape) if key in part else None for part in (weights, own))
        if given != wanted:
            problem = f"'{key}' is {given or 'absent'}, expected {wanted or 'no such entry'}"
            if odd := [key for key in weights if key not in own]:
                problem += f"; not understood: {', '.join(odd[:4])}" + " …" * (len(odd) > 4)
            mend = "give the network, the sizes and the scale that it was trained with"
            raise UserError(f"{path}: not a checkpoint of this {kind}: {problem}: {mend}")
    check_weights(path, weights, own)
    model.load_state_dict(weights)


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
        table = _RCAN if any(".conv_du." in key for key in weights) else _EDSR
        for old in [*weights]:
            key = next((re.sub(*row, old, count=1) for row in table if re.match(row[0], old)), old)
            weights[key] = weights.pop(old)
        return _without_shifts(weights)
    derived = (".relative_position_index", ".attn_mask")  # SwinIR's, which follow from the sizes
    return {key: value for key, value in weights.items() if not key.endswith(derived)}


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
        names = ("sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias")
        a, before, b, after = (weights.pop(name).double().squeeze() for name in names)
        first = weights["conv_first.weight"]
        weights["conv_first.weight"] = torch.einsum("ockl,ci->oikl", first.double(), a).to(first)
        for key in ("conv_last.weight", "conv_last.bias"):
            last = weights[key]
            weights[key] = torch.einsum("oc,c...->o...", b, last.double()).to(last)
        # the file's shifts are those of images in [0, 255]
        weights["mean_in"] = _constant(-torch.linalg.solve(a, before / RANGE))
        weights["mean_out"] = _constant(after / RANGE)
    return weights


def _constant(mean: Tensor) -> Tensor:
    """The published mean itself where ``mean`` is that up to rounding, else what the file holds."""
    mean = mean.float().view(1, 3, 1, 1)
    return rgb_mean() if torch.allclose(mean, rgb_mean(), rtol=0, atol=1e-6) else mean
