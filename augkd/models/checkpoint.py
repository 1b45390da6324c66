"""Weights on disk. Ours are safetensors, with the network and its sizes in the header."""

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from augkd.errors import UserError


def save_checkpoint(path: Path, model: nn.Module, header: dict[str, str] | None = None) -> None:
    """Writes the weights beside ``path``, then renames: never a half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    weights = {k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(weights, partial, metadata=header)
    os.replace(partial, path)


def load_checkpoint(path: str | Path, model: nn.Module) -> None:
    """Loads weights into ``model`` in place.

    Raises:
        UserError: the file is missing, unreadable, or of another network or size.
    """
    path = Path(path)
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    fit_weights(path, weights, model)


def fit_weights(path: Path, weights: dict[str, Tensor], model: nn.Module) -> None:
    """Loads a state dict that must match ``model`` key by key and shape by shape."""
    wanted = model.state_dict()
    name = type(model).__name__
    for key in wanted:
        if key not in weights:
            raise UserError(f"{path}: not a checkpoint of this {name}: it lacks '{key}'")
        if weights[key].shape != wanted[key].shape:
            raise UserError(
                f"{path}: not a checkpoint of this {name}: '{key}' is "
                f"{tuple(weights[key].shape)}, expected {tuple(wanted[key].shape)}; "
                "give the sizes and the scale that it was trained with"
            )
    extra = sorted(set(weights) - set(wanted))
    if extra:
        raise UserError(f"{path}: not a checkpoint of this {name}: '{extra[0]}' has no place in it")
    model.load_state_dict(weights)
