"""Files as nobody meant them: each is read, or refused in one line that names it.

AUGKD_FUZZ_MINUTES=10 tries each kind for so long, with other examples every time. What was found
so is in the tables of the files' own tests.
"""

import copy
import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from augkd.data.images import read_colour, read_image
from augkd.errors import UserError
from augkd.models import load_checkpoint, load_network, save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.study.params import budgets, load_study
from augkd.study.pipeline.stage import pipeline
from augkd.study.prepare import find_benchmarks, prepare_pairs, usable
from tests.study_copy import ROOT
from tests.test_models import TINY, tiny

MINUTES = float(os.environ.get("AUGKD_FUZZ_MINUTES", 0))
PARAMS = (ROOT / "params.yaml").read_text()


def fuzz(check: Callable[..., None], *drawn: Any) -> None:
    """Runs ``check`` on a few examples, always the same ones, or on others for MINUTES."""
    end, begin = time.monotonic() + 60 * MINUTES, random.SystemRandom().randrange(2**32)
    for number in count(begin if MINUTES else 0):
        some = settings(
            max_examples=100 if MINUTES else 30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(some(given(*drawn)(check)))()
        if time.monotonic() >= end:
            return


def tried(path: Path, *readers: Callable[[], object]) -> None:
    """Each reads, or says in one line what is wrong with ``path``."""
    for read in readers:
        try:
            read()
        except UserError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)


# --- bytes

EDIT = st.tuples(st.floats(0, 1), st.sampled_from("=+-x<"), st.binary(min_size=1, max_size=8))
EDITS = st.lists(EDIT, min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    """Bytes overwritten, put in, left out, repeated; or the end cut off."""
    for place, what, new in edits:
        at = int(place**2 * len(data))  # rather near the start, where headers are
        after = {"=": data[at + len(new) :], "+": data[at:], "-": data[at + 1 + new[0] :]}
        middle = {"=": new, "+": new, "x": data[at : at + 64] * 2}
        data = (
            data[:at]
            + middle.get(what, b"")
            + after.get(what, b"" if what == "<" else data[at + 64 :])
        )
    return data


def pictures() -> list[bytes]:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 20, 3), np.uint8)
    image, found = Image.fromarray(pixels), list[bytes]()
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, kind, more in [
        ("RGB", "PNG", {"icc_profile": bytes(200), "exif": exif}),
        ("P", "PNG", {"transparency": 0}),
        ("L", "PNG", {}),
        ("RGB", "JPEG", {"exif": exif, "icc_profile": bytes(200)}),
        ("L", "JPEG", {"progressive": True}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "BMP", {}),
    ]:
        image.convert(mode).save(buffer := io.BytesIO(), kind, **more)
        found.append(buffer.getvalue())
    return found


def test_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"

    def check(data: bytes, edits: list[tuple[float, str, bytes]]) -> None:
        path.write_bytes(edited(data, edits))
        tried(path, lambda: (read_image(path), read_colour(path)))

    fuzz(check, st.sampled_from(pictures()), EDITS)


# --- trees of values

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 5), st.sampled_from([10**30, 1e300, -0.5]),
    st.floats(), st.text(max_size=5), st.dates(), st.binary(max_size=3),
    st.sampled_from([[], {}, [[]], {"": {}}, {1: 2}, ["a", 2], "scratch", "edsr", [2, 2]]),
)  # fmt: skip
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.sampled_from("=-k+"), ODD), min_size=1, max_size=3)


def changed(tree: Any, changes: list[tuple[float, str, Any]]) -> Any:
    """A copy with some values replaced, left out, under another key, or with one beside them."""
    tree = copy.deepcopy(tree)
    for place, what, value in changes:
        slots = list[tuple[Any, Any]]()
        queue = [tree]
        while queue:
            at = queue.pop()
            keys = [*at] if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
            slots += [(at, key) for key in keys]
            queue += [at[key] for key in keys]
        if not slots:
            return value
        at, key = slots[int(place * (len(slots) - 1))]
        if what == "=":
            at[key] = value
        elif what == "-":
            del at[key]
        elif isinstance(at, list):
            at.insert(key, value)
        elif not isinstance(value, list | dict):
            at[value] = at.pop(key) if what == "k" else value
    return tree


def test_params(tmp_path: Path) -> None:
    path, tree = tmp_path / "params.yaml", yaml.safe_load(PARAMS)
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")

    def read(data: bytes) -> None:
        path.write_bytes(data)
        tried(
            Path("params.yaml"),
            lambda: [pipeline(tmp_path, name) for name in load_study(None, tmp_path).params.budgets],
            lambda: budgets(path),
            lambda: budgets(path, "none"),
            lambda: budgets(path, "smoke"),
        )

    fuzz(lambda changes: read(yaml.safe_dump(changed(tree, changes)).encode()), CHANGES)
    fuzz(lambda edits: read(edited(PARAMS.encode(), edits)), EDITS)


# --- weights

TENSORS = st.sampled_from([
    torch.zeros(()), torch.zeros(0), torch.zeros(2, 3), torch.zeros(4, 3, 3, 3), torch.eye(2).to_sparse(),
    torch.zeros(2, dtype=torch.int8), torch.ones(3, dtype=torch.complex64), torch.full((2,), torch.nan),
    torch.zeros(1, device="meta"), 
    torch.zeros(4, dtype=torch.float8_e4m3fn), torch.nn.Parameter(torch.zeros(4)),
])  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_weights(name: str, tmp_path: Path) -> None:
    model, path = tiny(name, 4), tmp_path / "a.safetensors"
    save_checkpoint(path, model)
    own, header, weights = path.read_bytes(), read_header(path), model.state_dict()

    def read(*_: Any) -> None:
        given: dict[str, Any] = {"res_scale": 0.1} if name == "edsr" else {}
        network = tiny(name, 4)
        tried(
            path,
            lambda: load_network(path, given=given)(torch.rand(1, 3, 8, 8)),
            lambda: load_checkpoint(path, network),
        )

    torch.save({"params": weights}, new := io.BytesIO())
    torch.save(weights, old := io.BytesIO(), _use_new_zipfile_serialization=False)
    files = st.sampled_from([own, new.getvalue(), old.getvalue()])
    fuzz(lambda data, edits: read(path.write_bytes(edited(data, edits))), files, EDITS)
    fuzz(lambda edits: read(path.write_bytes(edited(own[:600], edits) + own[600:])), EDITS)
    def headed(changes: list[tuple[float, str, Any]]) -> None:
        said = json.dumps(changed(header, changes), default=str, skipkeys=True)
        read(save_file(weights, path, {"augkd": said}))

    fuzz(headed, CHANGES)
    odd = st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from("=-k+"), ODD | TENSORS), min_size=1, max_size=3
    )
    fuzz(lambda c: read(torch.save(changed({"epoch": 1, "params": weights}, c), path)), odd)


# --- folders of benchmarks

PART = st.sampled_from([
    "HR", "LR_bicubic", "X2", "x4", "X3", "X8", "lr", "a.png", "ax2.png", "b.jpg", "ax4.PNG", ".a.png", "a.txt",
    "x.tar", "\udcff.png", "a\nb.png", "a" * 240 + ".png", "NA.png", "", "..", "a.png.png", ".png", "ü.png",
])  # fmt: skip
ENTRY = st.tuples(
    st.lists(PART, min_size=1, max_size=3),
    st.sampled_from(["file", "link", "loop", "fifo", "folder", "empty"])
    | st.tuples(st.integers(1, 60), st.integers(1, 60)),
)


def test_benchmarks(tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    place, study = tmp_path / "data" / "benchmarks", load_study("smoke", tmp_path)

    def check(entries: list[tuple[list[str], Any]]) -> None:
        shutil.rmtree(place, ignore_errors=True)
        for parts, kind in [(["HR", "a.png"], (60, 48)), *entries]:
            file = place / "S" / "/".join(p for p in parts if p != "..")
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(kind, tuple):
                    pixels = np.random.default_rng(1).integers(0, 256, (*kind, 3), np.uint8)
                    Image.fromarray(pixels).save(file, "PNG")
                elif kind in ("link", "loop"):
                    file.symlink_to("nowhere" if kind == "link" else ".")
                elif kind == "fifo":
                    os.mkfifo(file)
                else:
                    file.mkdir() if kind == "folder" else file.write_bytes(b"x" * (kind == "file"))
        tried(
            place / "S" if False else Path("S"),
            lambda: [*usable(study, "benchmarks", prepare_pairs(study, find_benchmarks(study)))],
        )

    fuzz(check, st.lists(ENTRY, min_size=1, max_size=5))
