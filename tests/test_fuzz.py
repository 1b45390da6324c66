"""Files as nobody meant them: each is read without a word, or refused in one line that names it.

AUGKD_FUZZ=10 tries each kind for about ten minutes, with other files every time. What was found so
is in the tables of the files' own tests.
"""

import copy
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from augkd.data.images import read_colour, read_image
from augkd.errors import UserError, one_line
from augkd.models import load_checkpoint, load_network, save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.study.params import budgets, load_study
from augkd.study.pipeline.stage import pipeline
from augkd.study.prepare import find_benchmarks, prepare_pairs, usable
from tests.study_copy import ROOT
from tests.test_models import TINY, tiny

MINUTES = float(os.environ.get("AUGKD_FUZZ", 0))


def fuzz(a_minute: int) -> settings:
    """As many as were tried in a minute of one core, or a few that are always the same."""
    return settings(
        max_examples=int(MINUTES * a_minute) or 25,
        derandomize=not MINUTES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


Edits = list[tuple[float, str, Any]]  # each where, what, and with what
PARAMS = (ROOT / "params.yaml").read_bytes()
TREE = yaml.safe_load(PARAMS)


def edits(of: str, new: Any) -> Any:
    return st.lists(st.tuples(st.floats(0, 1), st.sampled_from(of), new), min_size=1, max_size=4)


BYTES = edits("=+-x<", st.binary(min_size=1, max_size=8))
ODD: Any = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 5), st.floats(), st.text(max_size=5), st.dates(),
    st.sampled_from([10**30, "edsr", "\0", b"", [], {}, [[]], {"": {}}, {1: 2}, ["a", 2]]),
)  # fmt: skip
VALUES = edits("=-k+", ODD)
TENSORS = [torch.zeros(()), torch.zeros(0), torch.zeros(4, 3, 3, 3), torch.eye(2).to_sparse()]
TENSORS += [torch.ones(2) / 0, torch.zeros(1, device="meta"), torch.ones(3, dtype=torch.complex64)]
TENSORS += [torch.zeros(4, dtype=kind) for kind in (torch.int8, torch.float8_e4m3fn)]


def tried(path: Path | str, *readers: Callable[[], object]) -> None:
    for read in readers:
        said = str(path)
        with warnings.catch_warnings(action="error"):
            try:
                read()
            except UserError as error:
                said = one_line(error)
        assert str(path) in said
        assert said.isprintable()


def edited(data: bytes, edits: Edits) -> bytes:
    """Bytes overwritten, put in, left out, repeated; or the end cut off."""
    for place, what, new in edits:
        at = int(place**2 * len(data))  # rather near the start, where headers are
        middle: bytes = {"x": data[at : at + 64] * 2, "=": new, "+": new}.get(what, b"")
        gone = {"=": len(new), "+": 0, "-": 1 + new[0], "x": 64, "<": len(data)}[what]
        data = data[:at] + middle + data[at + gone :]
    return data


def changed(tree: Any, edits: Edits) -> Any:
    """A copy with some values replaced, left out, under another key, or with one beside them."""
    tree = copy.deepcopy(tree)
    for place, what, value in edits:
        slots, queue = list[tuple[Any, Any]](), [tree]
        while queue:
            at = queue.pop()
            keys = [*at] if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
            slots += [(at, key) for key in keys]
            queue += [at[key] for key in keys]
        at, key = slots[int(place * (len(slots) - 1))] if slots else ({0: 0}, 0)
        with suppress(TypeError):  # not what can be a key
            if what == "-":
                del at[key]
            elif what == "=" or isinstance(at, list):
                at[key] = value
            else:
                at[value] = at.pop(key) if what == "k" else value
    return tree


@fuzz(12_000)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]), grey=st.booleans(), how=BYTES)
def test_images(tmp_path: Path, kind: str, grey: bool, how: Edits) -> None:
    pixels, exif = np.random.default_rng(1).integers(0, 256, (24, 20, 3), np.uint8), Image.Exif()
    image, exif[0x0112] = Image.fromarray(pixels).convert("L" if grey else "RGB"), 6
    image.save(buffer := io.BytesIO(), kind, exif=exif, icc_profile=bytes(200))
    (path := tmp_path / "a.png").write_bytes(edited(buffer.getvalue(), how))
    tried(path, lambda: (read_image(path), read_colour(path)))


@fuzz(330)
@given(how=BYTES, values=VALUES | st.none())
def test_params(tmp_path: Path, how: Edits, values: Edits | None) -> None:
    data = yaml.safe_dump(changed(TREE, values)).encode() if values else edited(PARAMS, how)
    (path := tmp_path / "params.yaml").write_bytes(data)
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")

    def stages() -> None:
        for budget in load_study(None, tmp_path).params.budgets:
            pipeline(tmp_path, budget)

    tried("params.yaml", stages, *(lambda n=n: budgets(path, n) for n in (None, "none", "smoke")))


@pytest.mark.parametrize("name", TINY)
@fuzz(600)
@given(
    how=st.sampled_from("shpo"),
    data=BYTES,
    said=VALUES,
    values=edits("=-k+", ODD | st.sampled_from(TENSORS)),
)
def test_weights(
    tmp_path: Path, name: str, how: str, data: Edits, said: Edits, values: Edits
) -> None:
    """Bytes of safetensors, of PyTorch's new and old files, headers and contents changed."""
    model, path, x = tiny(name, 4), tmp_path / "a.safetensors", torch.rand(1, 3, 8, 8)
    save_checkpoint(path, model)
    weights: Any = model.state_dict()
    if how == "s":
        header = json.dumps(changed(read_header(path), said), default=str, skipkeys=True)
        save_file(weights, path, {"augkd": header})
    elif how in "po":
        content = changed({"epoch": 1, "params": weights}, values) if how == "p" else weights
        torch.save(content, path, _use_new_zipfile_serialization=how == "p")
    if how in "ho" or len(data) > 2:
        path.write_bytes(edited(path.read_bytes(), data))
    sizes: dict[str, Any] = {"res_scale": 0.1} if name == "edsr" else {}
    tried(path, lambda: load_network(path, given=sizes)(x), lambda: load_checkpoint(path, model))


PARTS = (
    "HR LR_bicubic X2 x4 X8 lr a.png ax2.png b.jpg ax4.PNG .a.png a.txt \udcff.png a\nb.png .png"
)
PLACE = st.lists(st.sampled_from([*PARTS.split(" "), "a" * 240 + ".png"]), min_size=1, max_size=3)
smoke = cache(partial(load_study, "smoke", ROOT))
KIND = st.sampled_from(["file", "fifo", "folder", "nowhere", "."]) | st.integers(1, 60)


@fuzz(10_000)
@given(entries=st.lists(st.tuples(PLACE, KIND), max_size=5))
def test_benchmarks(tmp_path: Path, entries: list[tuple[list[str], Any]]) -> None:
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    for parts, kind in [(["HR", "a.png"], 60), *entries]:
        file = tmp_path.joinpath("data", "benchmarks", "S", *parts)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(kind, int):
                pixels = np.random.default_rng(1).integers(0, 256, (60, kind), np.uint8)
                Image.fromarray(pixels).save(file, "PNG")
            elif kind in ("fifo", "folder"):
                os.mkfifo(file) if kind == "fifo" else file.mkdir()
            else:
                file.touch() if kind == "file" else file.symlink_to(kind)
    study = replace(smoke(), root=tmp_path)
    pairs = prepare_pairs(study, find_benchmarks(study))
    tried("S", lambda: list(usable(study, "benchmarks", pairs)))
