"""What methods see, ask for and cost: passes counted by hand, terms, refusals, steps in turn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from augkd.augment import zoom_in
from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.degrade import bicubic
from augkd.distill import METHODS
from augkd.distill.csd import CSD
from augkd.models import create_model
from augkd.study.cost.steps import (
    SIZES,
    Pair,
    Step,
    cost_table,
    crop_corners,
    entries,
    entry,
    summarise,
    time_steps,
    try_step,
)
from augkd.study.params import load_study

STUDY = load_study("smoke", Path(__file__).parent.parent)
CONTROLS = STUDY.cohort("controls_x2")
ROLES = ("student", "teacher")
ENTRIES = {e.name: e for e in entries(CONTROLS)}

# (student, teacher) at x2, by counting calls on paper: 1/4 for zooming out; the teacher answers an
# input once; CSD passes its trainable teacher, and three images through the frozen one
PASSES = {
    "scratch": (1, 0),
    "kd": (1, 1),
    "dfkd": (1, 1),
    "fitnet": (1, 1),
    "fakd": (1, 1),
    "sliced_init": (1, 0),
    "csd_features": (1, 4),
    "augkd": (2.25, 2.25),
    "augkd_two_step": (2.25, 2.25),
    "augkd_no_f": (2.25, 2.25),
    "fakd_augkd": (2.25, 2.25),
    "zoom_out_no_teacher": (1.25, 0),
    "kd_two_updates": (2, 1),
}


@pytest.fixture
def sampler(tmp_path: Path) -> PatchSampler:
    torch.manual_seed(0)
    hr = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
    write_store(tmp_path / "s", [Prepared("train", "a", hr, {2: bicubic(hr, 2)}, "bicubic")])
    return PatchSampler(ImageStore(tmp_path / "s"), scale=2, patch=24, batch=3, seed=1)


def pair(backbone: str) -> Pair:
    torch.manual_seed(0)
    student, teacher = (create_model(backbone, scale=2, **SIZES[backbone][r]) for r in ROLES)
    return student, teacher


def step(name: str, backbone: str, sampler: PatchSampler) -> Step:
    return try_step(ENTRIES[name], pair(backbone), sampler.draw(0))


def test_every_method_and_control_is_shown() -> None:
    assert {entry.kind for entry in ENTRIES.values()} == set(METHODS)
    assert set(CONTROLS.methods) <= set(ENTRIES)
    own = ENTRIES["csd_features"]
    assert (own.kind, own.options, own.method) == ("csd", {}, CSD())
    assert own.line.startswith("rec * |S(x) - y|_1 + teacher *")
    assert "csd" not in ENTRIES  # with default options it is that variant
    assert entry(CONTROLS, "rkd").method == METHODS["rkd"]()  # which the cohort may lack


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_those_of_the_equations(name: str, sampler: PatchSampler) -> None:
    found = step(name, "edsr", sampler)
    assert (found.student, found.teacher) == PASSES[name]


def test_crossed_halves_make_one_pass_of_each(sampler: PatchSampler) -> None:
    found = step("crosskd", "rcan", sampler)  # and S(x)
    assert (found.student, found.teacher) == (2, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scratch", "x, y"),
        ("dfkd", "x, T"),
        ("fitnet", "x, y, T; features block2"),
        ("augkd", "x, y, z_i, z_o, F, T"),
        ("augkd_no_f", "x, y, z_i, z_o, T"),
        ("zoom_out_no_teacher", "x, y, z_o"),
    ],
)
def test_what_a_method_sees(name: str, expected: str, sampler: PatchSampler) -> None:
    assert step(name, "edsr", sampler).sees == expected


def test_terms_are_those_at_the_given_weights(sampler: PatchSampler) -> None:
    student, teacher = pair("edsr")
    batch = sampler.draw(0)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    terms = try_step(ENTRIES["kd"], (student, teacher), batch).terms
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    with torch.no_grad():
        own, theirs = student(batch.lr), teacher.eval()(batch.lr)
    assert terms["rec"] == pytest.approx((own - batch.hr).abs().mean().item(), rel=1e-5)
    assert terms["kd"] == pytest.approx(0.2 * (own - theirs).abs().mean().item(), rel=1e-5)


def test_the_wrong_inverse_asks_for_something_else(sampler: PatchSampler) -> None:
    for batch in map(sampler.draw, range(100)):  # up to an F that repeating does not undo
        _, rows, columns, transposed = batch.transform.flags.T
        if (transposed & (rows ^ columns)).any():
            break
    right, wrong = (
        try_step(ENTRIES[name], pair("edsr"), batch).terms
        for name in ("augkd", "augkd_wrong_inverse")
    )
    # noise through fresh weights: little changes, but a hundred times more than rounding would
    assert right["zoom_in"] != pytest.approx(wrong["zoom_in"], rel=1e-4)
    assert right["zoom_rec"] == pytest.approx(wrong["zoom_rec"], rel=1e-6)


def test_a_refusal_is_told(sampler: PatchSampler) -> None:
    refused = step("csd_features", "swinir", sampler)
    assert refused.text.startswith("does not apply: method 'csd' makes the student")
    assert not refused.terms
    assert step("kd", "edsr", sampler).text.startswith("rec 0.")


def test_steps_are_timed_in_turn(sampler: PatchSampler) -> None:
    networks, batch = pair("edsr"), sampler.draw(0)
    before = [p.clone() for p in networks[0].parameters()]
    chosen = [entry(STUDY.cohort("edsr_x2"), name) for name in ("kd", "csd", "augkd")]
    timed = time_steps(chosen, networks, batch, torch.device("cpu"), 0.0, rounds=(2, 4))
    assert list(timed.columns) == ["kd", "csd", "augkd"]
    assert len(timed) == 2
    assert (timed > 0).all(axis=None)
    assert all(torch.equal(a, b) for a, b in zip(before, networks[0].parameters(), strict=True))


KD = np.array([1.0, 2.0, 3.0, 4.0, 50.0])  # seconds on a machine that slows down
TIMED = pd.DataFrame({"kd": KD, "augkd": 2 * KD})


def test_ratios_are_of_rounds_drawn_together() -> None:
    costs: Any = summarise(TIMED, "kd")
    ratio = costs.loc["augkd", ["seconds", "ratio", "ratio_low", "ratio_high"]]
    assert list(ratio) == [6.0, 2.0, 2.0, 2.0]
    assert costs.loc["kd", "seconds_low"] < 3 < costs.loc["kd", "seconds_high"]


def test_costs_are_passes_times_networks(sampler: PatchSampler) -> None:
    steps = {name: step(name, "edsr", sampler) for name in ("kd", "augkd")}
    cost: Any = cost_table(TIMED, steps, pair("edsr"), patch=24)
    kd, augkd = (cost.loc[name] for name in ("kd", "augkd"))
    assert (augkd["student"], augkd["teacher"], augkd["ratio"]) == (2.25, 2.25, 2)
    assert augkd["macs"] == pytest.approx(2.25 * kd["macs"])
    for column in ("macs_kd", "macs_paper_kd"):
        assert augkd[column] == pytest.approx(2.25)
    # 9 * (3 * c + 2 * n * c^2 + c^2) in the body and, at x2, 9 * (4 * c^2) + 4 * 9 * 3 * c behind
    # it, for each of 24 * 24 pixels: EDSR's convolutions, c wide, n blocks deep
    total = sum(
        24 * 24 * 9 * (3 * c + (2 * n + 1) * c * c + 4 * c * c + 12 * c)
        for c, n in ((s["channels"], s["blocks"]) for s in SIZES["edsr"].values())
    )
    assert kd["macs"] == pytest.approx(total / 1e9, rel=1e-6)
    assert kd["paper"] == 0.49  # Table 11
    assert augkd["paper_ratio"] == pytest.approx(0.70 / 0.49)


def test_crops_are_found_again() -> None:
    torch.manual_seed(0)
    hr, corners = torch.rand(2, 3, 16, 16), [(0, 8), (5, 3)]
    assert crop_corners(hr, zoom_in(hr, 8, torch.tensor(corners))) == corners
