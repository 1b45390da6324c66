"""The networks of Table 1: ``create_model`` builds them, ``load_checkpoint`` fills them.

Here belongs what maps an image to a larger one: a file for each network and one for what they
share, their weights on disk, networks from elsewhere, quantisation, and the enlarging of whole
images. How networks learn does not: that is ``augkd.distill`` and ``augkd.train``.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from augkd.errors import UserError
from augkd.models.checkpoint import describe, fit_weights, load_checkpoint, save_checkpoint
from augkd.models.edsr import EDSR
from augkd.models.network import SRNetwork
from augkd.models.rcan import RCAN
from augkd.models.swinir import SwinIR

__all__ = ["NETWORKS", "SIZES", "SRNetwork", "create_model"]
__all__ += ["load_checkpoint", "load_network", "save_checkpoint"]

NETWORKS: dict[str, Callable[..., SRNetwork]] = {"edsr": EDSR, "rcan": RCAN, "swinir": SwinIR}

# Table 1. The paper does not give the student's residual scale. The released predecessor's
# option files set 0.1 for both roles, and the teachers' public checkpoints need 0.1.
# The table's "blocks" of SwinIR are RSTBs, of six layers each: only so do its numbers come out.
_SWINIR = {"window_size": 8, "mlp_ratio": 2}
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "edsr": {
        "teacher": {"channels": 256, "blocks": 32, "res_scale": 0.1},
        "student": {"channels": 64, "blocks": 32, "res_scale": 0.1},
    },
    "rcan": {
        "teacher": {"channels": 64, "groups": 10, "blocks": 20, "reduction": 16},
        "student": {"channels": 64, "groups": 10, "blocks": 6, "reduction": 16},
    },
    "swinir": {
        "teacher": {"embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6, **_SWINIR},
        "student": {"embed_dim": 60, "depths": (6,) * 4, "num_heads": (6,) * 4, **_SWINIR},
    },
}


def create_model(name: str, role: str | None = None, scale: int = 4, **size: Any) -> SRNetwork:
    """Builds a network with fresh weights.

    Args:
        name: "edsr", "rcan" or "swinir".
        role: "teacher" or "student", for the sizes of Table 1; without it give every size.
        scale: 2, 3 or 4.
        size: overrides of the role's sizes. EDSR: channels, blocks, res_scale; RCAN: channels,
            groups, blocks, reduction; SwinIR: embed_dim, depths, num_heads, window_size,
            mlp_ratio and, where it is not to be 0.1, drop_path.

    Raises:
        UserError: unknown name, role, scale or size.
    """
    if name not in NETWORKS:
        raise UserError(f"network '{name}' is unknown: choose one of {', '.join(NETWORKS)}")
    if scale not in (2, 3, 4):
        raise UserError(f"scale {scale!r} is not supported: choose 2, 3 or 4")
    if role is not None and role not in SIZES[name]:
        raise UserError(f"role '{role}' is unknown: choose teacher or student")
    parameters = inspect.signature(NETWORKS[name]).parameters
    known = {key: parameter.default for key, parameter in parameters.items() if key != "scale"}
    for key in size.keys() - known.keys():
        raise UserError(f"{name} has no size '{key}': it has {', '.join(known)}")
    sizes = {**known, **(SIZES[name][role] if role else {}), **size}
    if missing := [key for key, value in sizes.items() if value is inspect.Parameter.empty]:
        raise UserError(f"{name} without a role needs {', '.join(missing)}: give them or a role")
    network = NETWORKS[name](scale=scale, **sizes)
    network.sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
    return network


def load_network(
    path: str | Path, role: str | None = None, given: Mapping[str, Any] | None = None
) -> SRNetwork:
    """Rebuilds one of our networks, weights included, from its file alone, ours or a public one.

    ``role`` and ``given`` are arguments of ``create_model``, where they are known: they must be the
    file's. With ``given``, the residual scale of a public EDSR is assumed, and said on stderr.

    Raises:
        UserError: the file is missing, damaged, or of another network or size.
    """
    told, weights = describe(path := Path(path))
    try:
        sizes = {"name": told["network"], "scale": told["scale"]} | told["sizes"]
        wanted = SIZES.get(sizes["name"], {}).get(role or "", {}) | dict(given or {})
        untold = sizes["name"] == "edsr" and "res_scale" not in {**sizes, **(given or {})}
        if untold and given is not None:  # as published
            wanted.setdefault("res_scale", 0.1 if sizes["channels"] >= 256 else 1.0)
        model = create_model(role=role, **wanted | sizes)
        own = {"name": model.name, "scale": model.scale} | model.sizes
        for key in (key for key, value in wanted.items() if own[key] != value):
            raise UserError(f"its {key} is {own[key]}, not {wanted[key]}")
        if how := told.get("quantised"):
            from augkd.models.quantize import quantize  # here, since others do not rest on it

            model = quantize(model, **how)
    except Exception as error:  # what makes no network fails in many ways
        raise UserError(f"{path}: not such a network ({error}): give what it is of") from None
    fit_weights(path, weights, model)
    if untold:
        said = f"no file of an EDSR tells its residual scale: assumed {wanted['res_scale']}"
        print(f"augkd: {path}: {said}, else give --size res_scale=…", file=sys.stderr)
    return model
