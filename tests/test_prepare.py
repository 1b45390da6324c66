"""Benchmark folders as people have them: read, or refused by name before anything is trained."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from augkd.errors import UserError
from augkd.study.params import Study, load_study
from augkd.study.prepare import find_benchmarks, prepare_pairs, usable
from augkd.study.report.rows import trained_scores
from tests.study_copy import ROOT

LR, HALF, ODD = "S/LR_bicubic", (30, 24), "is not understood: name it LR_bicubic/X4"


def study_with(root: Path, *names: str, size: tuple[int, int] = (60, 48)) -> Study:
    """A study whose folder of benchmarks holds these images and S/HR/a.png, of 60 x 48 pixels."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    for name, (width, height) in {"S/HR/a.png": (60, 48), **dict.fromkeys(names, size)}.items():
        levels = 1 if "flat" in name else 256
        pixels = np.random.default_rng(1).integers(0, levels, (height, width, 3), np.uint8)
        place = root / "data" / "benchmarks" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            Image.fromarray(pixels).save(file, "BMP")  # kinds go by content
    return load_study("smoke", root)


def used(study: Study) -> list[str]:
    """The images, each with its set, and with the scales at which its LR image is read."""
    pairs = list(find_benchmarks(study))
    list(usable(study, "benchmarks", prepare_pairs(study, pairs)))
    return ["/".join([pair.dataset, pair.name, *map(str, pair.lr)]) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        *((f"{LR}/{x}", HALF, "S/a/2") for x in ("X2/ax2.PNG", "x2/aX2.bmp", "X2/a.Jpg")),
        *((f"{LR}/{x}", HALF, "S/a") for x in ("X2/Thumbs.db", "X2/._a.png", "X8/a.png")),
        *((f"{LR}/{x}", HALF, f"{x}: {ODD}") for x in ("X2/ax2.npy", "X2/b.png", "a.png")),
        ("S/LRbicx2/a.png", HALF, f"LRbicx2/a.png: {ODD}"),
        ("S/LR_bicubic/X2/a.png", (15, 12), "X2/a.png: is not 1/2 of"),
        ("S/HR/a.jpg", (60, 48), f"HR/a.png: {ODD}"),
        ("S/HR/icon.png", (20, 16), "'icon' is 6 x 5 pixels at 1/3, less than 6: remove it"),
        ("S/HR/dot.png", (3, 3), "'dot' is 1 x 1 pixels at 1/2, less than 8"),
        ("S/HR/flat.png", (60, 48), "'flat': is of one colour"),
        ("photographs/HR/a.png", (60, 48), "photographs: the study calls images of its own so"),
        ("S/HR/a .png", (60, 48), "'a ': no page can show that name: rename it"),
        ("S/HR/a\n\udcff.png", (60, 48), "'a\\n\\udcff': no page can show"),
        ("S/HR/$a$.png", (60, 48), "'$a$': no page can show"),
    ],
)
def test_images_are_used_or_refused(
    tmp_path: Path, name: str, size: tuple[int, int], said: str
) -> None:
    study = study_with(tmp_path, name, size=size)
    if said.startswith("S/a"):
        assert used(study) == [said]
        return
    with pytest.raises(UserError) as error:
        used(study)
    assert said in str(error.value)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("nowhere")])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    study = study_with(tmp_path)
    file = tmp_path / "data/benchmarks" / LR / "X2/ax2.png"
    file.parent.mkdir(parents=True)
    make(file)
    with pytest.raises(UserError, match=f"ax2.png: {ODD}"):
        used(study)


def test_names_are_read_back_as_they_are(tmp_path: Path) -> None:
    names = ["1e5/nan", "NA/007", "None/7", "S/a", "S/a b,c", "S/" + "y" * 251]
    study = study_with(tmp_path, *(name.replace("/", "/HR/") + ".png" for name in names))
    assert sorted(used(study)) == names
    rows = [("edsr_x2", *name.split("/"), 1.0) for name in names]
    study.scores("edsr_x2").parent.mkdir(parents=True)
    table = pd.DataFrame(rows, columns=["cohort", "dataset", "image", "value"])
    table.to_csv(study.scores("edsr_x2"), index=False)
    read = trained_scores(study, "edsr_x2")
    assert (read["dataset"] + "/" + read["image"]).to_list() == names
