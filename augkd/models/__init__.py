"""The networks of Table 1: ``create_model`` builds them, ``load_checkpoint`` fills them."""

from collections.abc import Callable
from typing import Any

from augkd.errors import UserError
from augkd.models.checkpoint import load_checkpoint, save_checkpoint
from augkd.models.edsr import EDSR
from augkd.models.network import SRNetwork

__all__ = ["SIZES", "SRNetwork", "create_model", "load_checkpoint", "save_checkpoint"]


NETWORKS: dict[str, Callable[..., SRNetwork]] = {"edsr": EDSR}

# Table 1. The paper does not give the student's residual scale. The released predecessor's
# option files set 0.1 for both roles, and the teachers' public checkpoints need 0.1.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "edsr": {
        "teacher": {"channels": 256, "blocks": 32, "res_scale": 0.1},
        "student": {"channels": 64, "blocks": 32, "res_scale": 0.1},
    },
}


def create_model(name: str, role: str | None = None, scale: int = 4, **size: Any) -> SRNetwork:
    """Builds a network with fresh weights.

    Args:
        name: "edsr".
        role: "teacher" or "student", for the sizes of Table 1; without it give every size.
        scale: 2, 3 or 4.
        size: overrides of the role's sizes (EDSR: channels, blocks, res_scale).

    Raises:
        UserError: unknown name, role, scale or size.
    """
    if name not in NETWORKS:
        raise UserError(f"network '{name}' is unknown: choose one of {', '.join(NETWORKS)}")
    if scale not in (2, 3, 4):
        raise UserError(f"scale {scale!r} is not supported: choose 2, 3 or 4")
    if role is not None and role not in SIZES[name]:
        raise UserError(f"role '{role}' is unknown: choose teacher or student")
    known = SIZES[name]["student"]
    for key in size:
        if key not in known:
            raise UserError(f"{name} has no size '{key}': it has {', '.join(known)}")
    sizes = {**(SIZES[name][role] if role else {}), **size}
    missing = [key for key in known if key not in sizes]
    if missing:
        raise UserError(f"{name} without a role needs {', '.join(missing)}: give them or a role")
    return NETWORKS[name](scale=scale, **sizes)
