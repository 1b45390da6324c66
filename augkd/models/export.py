"""A network as a file that runs without this package: ONNX, or a program of ``torch.export``.

Both map ``lr`` (N, 3, h, w) of any size, in [0, 1], to ``sr`` (N, 3, scale*h, scale*w), unclamped.
"""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from augkd import __version__
from augkd.errors import UserError, replacing
from augkd.models.network import SRNetwork
from augkd.models.swinir import SwinIR, mirrored

OPSET = 20
DIMS = {i: torch.export.Dim(name) for i, name in ((0, "batch"), (2, "height"), (3, "width"))}
SIZES = ((9, 15), (31, 23), (17, 41))  # that a file is tried on; no window divides them
TOLERANCE = 1e-4  # of values in [0, 1]


class _OfAnySize(nn.Module):
    """A SwinIR that is padded and cropped without a branch or a bound, which a trace would fix."""

    def __init__(self, network: SwinIR) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Tensor) -> Tensor:
        size, window = lr.shape[2:], self.network.window
        rows, columns = (mirrored(side, window, lr.device) for side in size)
        sr: Tensor = self.network(lr[:, :, rows[:, None], columns])
        rows, columns = (torch.arange(self.network.scale * side) for side in size)
        return sr[:, :, rows[:, None], columns]


def export(network: SRNetwork, path: Path, facts: Mapping[str, Any] = {}) -> float:
    """Writes a network by the suffix of ``path``: .onnx, or .pt2 for ``torch.export.load``.

    ``facts`` join the file's metadata, which a .pt2 has in its extra file augkd.json. Returns the
    largest difference from the network, which is left on the CPU, on images of ``SIZES``.

    Raises:
        UserError: another suffix, a quantised network to ONNX, a file that answers otherwise than
            the network, a place that cannot be written to; nothing is written then.
    """
    write = {".onnx": _write_onnx, ".pt2": _write_program}.get(path.suffix.lower())
    if write is None:
        raise UserError(f"{path}: expected a name that ends in .onnx or .pt2: give it one of them")
    if write is _write_onnx and network.quantised:
        problem = "is quantised, and another runtime's rounding puts some values on other levels"
        raise UserError(f"{path}: the network {problem}: export it to .pt2")
    network.cpu().eval()
    whole = _OfAnySize(network) if isinstance(network, SwinIR) else network
    known = {"network": network.name, "scale": network.scale, "sizes": network.sizes}
    known |= {"quantised": network.quantised, "values": "[0, 1]", "augkd": __version__, **facts}
    with replacing(path) as partial, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        program = torch.export.export(whole, (torch.zeros(2, 3, 19, 26),), dynamic_shapes=(DIMS,))
        for part in program.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # it has paths of this machine
        answer = write(program, partial, known)
        images = [torch.rand(1, 3, *s, generator=torch.Generator().manual_seed(0)) for s in SIZES]
        off = float(torch.stack([(answer(lr) - network(lr)).abs().max() for lr in images]).max())
        if not off <= TOLERANCE:  # nor if it is no number
            raise UserError(f"{path}: {off:.2g} away from the network: check that it is finite")
    return off


def _write_onnx(program: Any, path: Path, known: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    import onnxscript  # noqa: F401  (torch's exporter needs it, and says so in many lines)

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = {"input_names": ["lr"], "output_names": ["sr"], "dynamic_shapes": (DIMS,)}
    made = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=OPSET, **names)
    for key, value in {**known, "opset": OPSET}.items():
        made.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    made.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda lr: torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])


def _write_program(program: Any, path: Path, known: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    with path.open("w+b") as file:
        torch.export.save(program, file, extra_files={"augkd.json": json.dumps(known)})
        file.seek(0)
        return torch.export.load(file).module()  # type: ignore[no-any-return]
