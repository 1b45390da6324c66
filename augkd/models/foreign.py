"""Teachers from elsewhere: any network that spandrel loads, or that a function returns.

A foreign network has an output and no named features, so it is no ``SRNetwork``: methods that
need features ask ``isinstance(network, SRNetwork)`` and refuse it.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from augkd.errors import UserError
from augkd.models import load_network
from augkd.models.checkpoint import check_weights, fit_weights, read_weights, unwrapped


def load_teacher(spec: Mapping[str, Any], scale: int) -> nn.Module:
    """The network that ``spec`` names, in evaluation mode, on the CPU.

    Args:
        spec: one of
            ``{weights: file}``: one of our networks, from a file of ``save_checkpoint``;
            ``{spandrel: file}``: any single-image network that spandrel knows;
            ``{factory: "module:function", weights: file}``: what ``function(scale=scale)`` of an
            importable module returns, an ``nn.Module`` that maps (N, 3, h, w) in [0, 1] to
            (N, 3, scale*h, scale*w). The file must fit it key by key; without ``weights`` the
            function has to load them itself.
        scale: what the student will be trained for.

    Raises:
        UserError: the spec, the file or the network is not as above.
    """
    match spec:
        case {"weights": file, **others} if not others:
            network: nn.Module = load_network(file)
        case {"spandrel": file, **others} if not others:
            network = _from_spandrel(Path(file))
        case {"factory": name, **others} if others.keys() <= {"weights"}:
            network = _from_factory(str(name), scale)
            if others:
                path = Path(others["weights"])
                fit_weights(path, read_weights(path), network)
        case _:
            mend = "give weights, or spandrel, or factory and weights"
            raise UserError(f"teacher: {{{', '.join(sorted(spec))}}} is not understood: {mend}")
    named = "teacher: " + ", ".join(f"{key} {value}" for key, value in spec.items())
    check_weights(named, own := network.eval().state_dict(), own)
    # an image to try it on, whose sides suit networks that want whole windows of 8 or 16
    image = torch.linspace(0, 1, 3 * 16 * 32).view(1, 3, 16, 32)
    with _naming(f"{named}: fails on an image (1, 3, 16, 32)"), torch.no_grad():
        output = network(image)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (expected := (1, 3, 16 * scale, 32 * scale)):
        problem = f"makes {shape} of an image (1, 3, 16, 32), expected {expected}"
        raise UserError(f"{named}: {problem} for scale {scale}")
    return network


class SpandrelNetwork(nn.Module):
    """A network behind spandrel's uniform call, which pads as it needs and clamps to [0, 1]."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.network: nn.Module = descriptor.model
        self._descriptor = descriptor

    def forward(self, x: Tensor) -> Tensor:
        # spandrel calls in inference mode; a loss can only be taken against an ordinary tensor
        return self._descriptor(x).clone()  # type: ignore[no-any-return]


def _from_spandrel(path: Path) -> nn.Module:
    """The file is read here, as data only; spandrel gets its tensors and finds the architecture."""
    with _naming(f"{path}: needs spandrel (pip install 'augkd[spandrel]')"):
        import spandrel
    weights = read_weights(path)
    load = spandrel.ModelLoader().load_from_state_dict
    with _naming(f"{path}: spandrel knows no network with these weights, or cannot load them"):
        try:
            descriptor = load(dict(weights))
        except spandrel.UnsupportedModelError:
            descriptor = load(unwrapped(weights))
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise UserError(f"{path}: not an image-to-image network, says spandrel")
    check_weights(path, weights, descriptor.model.state_dict())
    return SpandrelNetwork(descriptor)


def _from_factory(name: str, scale: int) -> nn.Module:
    module, _, function = name.partition(":")
    mend = "expected module:function, installed or in a folder on PYTHONPATH"
    with _naming(f"teacher: factory '{name}' cannot be imported ({mend})"):
        make = getattr(importlib.import_module(module), function)
    with _naming(f"teacher: {name}(scale={scale}) failed"):
        network = make(scale=scale)
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise UserError(f"teacher: {name}(scale={scale}) returned {kind}, not an nn.Module")
    return network


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """One line for whatever goes wrong in somebody else's code."""
    try:
        yield
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise UserError(f"{what}: {type(error).__name__}: {said}") from None
