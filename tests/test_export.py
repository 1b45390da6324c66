"""Networks as files without augkd: they answer as torch does, at every size, or are not written."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from augkd.data.images import read_image, write_image
from augkd.errors import UserError
from augkd.models import create_model, load_network, save_checkpoint
from augkd.models.export import export
from augkd.models.network import SRNetwork
from augkd.models.quantize import quantize
from tests.study_copy import ROOT
from tests.test_cli import run

# one pixel, one window, whole windows, and sizes that no window divides
BATCHES = [(1, 3, 1, 1), (1, 3, 3, 9), (2, 3, 4, 4), (1, 3, 8, 12), (3, 3, 17, 10)]
SWINIR = {"scale": 2, "embed_dim": 4, "head_channels": 4, "depths": (2,), "num_heads": (2,)}
SIZES: dict[str, dict[str, Any]] = {
    "edsr": {"scale": 4, "channels": 4, "blocks": 1, "res_scale": 1.0},
    "rcan": {"scale": 3, "channels": 4, "groups": 1, "blocks": 1, "reduction": 2},
    "swinir": {**SWINIR, "window_size": 4, "mlp_ratio": 2},
}


def make(name: str, bits: int = 0) -> SRNetwork:
    torch.manual_seed(0)
    network = create_model(name, **SIZES[name])
    return (quantize(network, bits, step="behind") if bits else network).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "bits", "suffix"),
    [("rcan", 0, ".onnx"), ("swinir", 0, ".onnx"), ("swinir", 0, ".pt2"), ("edsr", 3, ".pt2")],
)
def test_a_file_answers_as_the_network(name: str, bits: int, suffix: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime") if suffix == ".onnx" else None
    path, network = tmp_path / "new" / f"network{suffix}", make(name, bits)
    save_checkpoint(tmp_path / "weights", network)  # which say themselves how they are quantised
    exact = 1e-4 if runtime else 0
    assert export(load_network(tmp_path / "weights"), path, {"scores": {"Set5": 30.5}}) <= exact
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert str(ROOT).encode() not in path.read_bytes()  # neither packs what it stores
    if runtime:
        session = runtime.InferenceSession(path)
        assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
        about = session.get_modelmeta().custom_metadata_map
        about |= {key: json.loads(about[key]) for key in ("scale", "sizes", "quantised", "scores")}
    else:
        extra = {"augkd.json": ""}
        program = torch.export.load(path, extra_files=extra).module()
        about = json.loads(extra["augkd.json"])
    # the spread over one pixel, which a quantised network asks for, is no number
    for lr in map(torch.rand, BATCHES[bool(bits) :]):
        sr = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0]) if runtime else program(lr)
        torch.testing.assert_close(sr, network(lr), rtol=0, atol=exact)
    wanted = {"network": name, "scale": network.scale, "scores": {"Set5": 30.5}}
    wanted |= {"sizes": json.loads(json.dumps(network.sizes)), "quantised": network.quantised}
    assert wanted.items() <= about.items()


@torch.no_grad()
def test_what_is_refused_leaves_an_older_file(tmp_path: Path) -> None:
    broken = make("edsr")
    next(broken.parameters()).fill_(float("nan"))
    for network, file, said in (
        (make("edsr"), "network.bin", "ends in .onnx or .pt2"),
        (make("edsr", 2), "network.onnx", "is quantised.*export it to .pt2"),
        (broken, "network.pt2", "nan away from the network"),
    ):
        (tmp_path / file).write_text("older")
        with pytest.raises(UserError, match=said):
            export(network, tmp_path / file)
        assert (tmp_path / file).read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 3


def test_the_documented_lines_enlarge_by_a_student_of_a_run(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    place, (model, small, large) = tmp_path / "b" / "distil" / "x", ("m.onnx", "s.png", "l.png")
    save_checkpoint(place / "students" / "kd-1.safetensors", make("edsr"))
    record = {"stage": "distil", "budget": "b", "cohort": "x", "revision": "a", "dirty": False}
    (place / "run.json").write_text(json.dumps(record))
    (table := tmp_path / "b" / "score" / "edsr" / "scores" / "x.csv").parent.mkdir(parents=True)
    rows = ["kd,1,Set5,test,30", "kd,1,Set5,test,31", "kd,0,Set5,test,0", "kd,1,T91,train,0"]
    text = "".join(f"x,psnr_y,{row}\n" for row in [*rows, "augkd,1,Set5,test,0"])
    table.write_text("cohort,metric,method,seed,dataset,split,value\n" + text)
    said = run(f"export {place}/students/kd-1.safetensors -o {tmp_path / model}")
    assert said.count("\n") == 1
    about = onnxruntime.InferenceSession(tmp_path / model).get_modelmeta().custom_metadata_map
    assert (about["revision"], json.loads(about["scores"])) == ("a", {"Set5 psnr_y": 30.5})
    shown = (torch.rand(3, 13, 18) * 255).to(torch.uint8)
    write_image(tmp_path / small, shown)
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    lines = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    subprocess.run([sys.executable, "-c", lines, model, small, large], check=True, cwd=tmp_path)
    sr = (make("edsr")(shown[None] / 255)[0].clamp(0, 1) * 255).round()
    assert (read_image(tmp_path / large) - sr).abs().max() <= 1
