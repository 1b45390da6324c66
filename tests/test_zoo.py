"""What the page of methods says of them, on cases that can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from augkd import zoo
from augkd.config import load_study
from augkd.data.batch import Batch
from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.degrade import bicubic
from augkd.distill import METHODS
from augkd.models import SRNetwork, create_model

ROOT = Path(__file__).parent.parent
CONTROLS = load_study("smoke", ROOT).cohort("controls_x2")
ENTRIES = {entry.name: entry for entry in zoo.entries(CONTROLS)}


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> PatchSampler:
    folder = tmp_path_factory.mktemp("zoo") / "train"
    noise = np.random.default_rng(0).integers(0, 256, (3, 96, 96), np.uint8)
    hr = torch.from_numpy(noise)
    write_store(folder, [Prepared("train", "noise", hr, {2: bicubic(hr, 2)}, "bicubic")])
    return PatchSampler(ImageStore(folder), scale=2, patch=24, batch=4, seed=1)


@pytest.fixture(scope="module")
def batch(sampler: PatchSampler) -> Batch:
    return sampler.draw(zoo.telling_step(sampler))


def pair(backbone: str) -> tuple[SRNetwork, SRNetwork]:
    torch.manual_seed(0)
    student, teacher = (
        create_model(backbone, scale=2, **zoo.SIZES[backbone][role]).eval()
        for role in ("student", "teacher")
    )
    return student, teacher


def test_every_method_and_control_is_on_the_page() -> None:
    assert {entry.kind for entry in ENTRIES.values()} == set(METHODS)
    assert set(CONTROLS.methods) <= set(ENTRIES)
    assert all(entry.line for entry in ENTRIES.values())


@pytest.mark.parametrize(
    ("name", "student", "teacher", "sees"),
    [
        ("scratch", 1, 0, {"lr", "hr"}),
        ("kd", 1, 1, {"lr", "hr"}),
        ("dfkd", 1, 1, {"lr"}),
        # the batch, a zoom-in crop of its size, and a zoom-out of a quarter of its area
        ("augkd", 2.25, 2.25, {"lr", "hr", "zoom_in", "zoom_out", "transform"}),
        ("zoom_out_no_teacher", 1.25, 0, {"lr", "hr", "zoom_out"}),
        ("kd_two_updates", 2, 1, {"lr", "hr"}),
    ],
)
def test_passes_are_counted_by_area(
    batch: Batch, name: str, student: float, teacher: float, sees: set[str]
) -> None:
    step = zoo.try_step(ENTRIES[name], *pair("edsr"), batch, repeats=1)
    assert step.passes == zoo.Passes(student, teacher)
    assert set(step.sees) == sees
    assert step.seconds > 0
    assert not step.refusal


def test_a_step_leaves_the_networks_as_they_were(batch: Batch) -> None:
    student, teacher = pair("edsr")
    before = [p.clone() for p in (*student.parameters(), *teacher.parameters())]
    zoo.try_step(ENTRIES["augkd"], student, teacher, batch, repeats=0)
    after = [*student.parameters(), *teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("backbone", ["rcan", "swinir"])
def test_refusals_say_why(batch: Batch, backbone: str) -> None:
    step = zoo.try_step(ENTRIES["sliced_init"], *pair(backbone), batch, repeats=0)
    assert step.terms_text().startswith("does not apply: ")
    assert backbone in step.refusal


def test_costs_are_multiples_of_those_of_kd(batch: Batch) -> None:
    student, teacher = pair("edsr")
    steps = {n: zoo.try_step(ENTRIES[n], student, teacher, batch, 1) for n in ("kd", "augkd")}
    table = zoo.cost_table(steps, student, teacher)
    assert table.at["augkd", "macs_paper_kd"] == pytest.approx(2.25)
    # Table 11: 0.70 s over 0.49 s
    assert table.at["augkd", "seconds_paper_kd"] == pytest.approx(0.70 / 0.49)


def test_the_telling_step_and_the_crops(sampler: PatchSampler, batch: Batch) -> None:
    _, rows, columns, transposed = batch.transform.flags.T
    assert bool((transposed & (rows ^ columns)).any())
    for image, crop, (row, column) in zip(
        batch.hr, batch.zoom_in, zoo.crop_corners(batch.hr, batch.zoom_in), strict=True
    ):
        assert torch.equal(image[:, row : row + 24, column : column + 24], crop)
    with pytest.raises(ValueError, match="contrast of 9"):
        zoo.telling_step(sampler, contrast=9)
