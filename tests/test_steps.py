"""What methods see, ask for and cost: passes counted by hand, terms, refusals, steps in turn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from augkd.augment import zoom_in
from augkd.data.sampler import Batch
from augkd.distill import METHODS
from augkd.models import create_model
from augkd.study.cost.passes import CPU, noise
from augkd.study.cost.steps import Pair, Step, cost_table, crop_corners, time_steps, try_step
from augkd.study.params import load_study

STUDY = load_study("smoke", Path(__file__).parent.parent)
CONTROLS = STUDY.cohort("controls_x2")
SWINIR = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 8, "mlp_ratio": 2}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "edsr": (
        {"channels": 8, "blocks": 4, "res_scale": 1.0},
        {"channels": 32, "blocks": 4, "res_scale": 1.0},
    ),
    "rcan": (
        {"channels": 16, "groups": 4, "blocks": 1, "reduction": 4},
        {"channels": 16, "groups": 4, "blocks": 3, "reduction": 4},
    ),
    "swinir": (SWINIR, SWINIR),
}

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


def batch(step: int = 0) -> Batch:
    return noise(STUDY, CONTROLS, 3, 24, CPU).draw(step)


def pair(backbone: str = "edsr") -> Pair:
    torch.manual_seed(0)
    student, teacher = (create_model(backbone, scale=2, **size) for size in SIZES[backbone])
    return student, teacher


def method(name: str) -> Any:
    return CONTROLS.method(name) if name in CONTROLS.methods else METHODS[name]()


def step(name: str, backbone: str = "edsr", on: Batch | None = None) -> Step:
    return try_step(name, method(name), pair(backbone), on or batch())


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_those_of_the_equations(name: str) -> None:
    found = step(name)
    assert (found.student, found.teacher) == PASSES[name]


def test_crossed_halves_make_one_pass_of_each() -> None:
    found = step("crosskd", "rcan")  # and S(x)
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
def test_what_a_method_sees(name: str, expected: str) -> None:
    assert step(name).sees == expected


def test_terms_are_those_at_the_given_weights() -> None:
    (student, teacher), images = pair(), batch()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    terms = try_step("kd", METHODS["kd"](), (student, teacher), images).terms
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    with torch.no_grad():
        own, theirs = student(images.lr), teacher.eval()(images.lr)
    assert terms["rec"] == pytest.approx((own - images.hr).abs().mean().item(), rel=1e-5)
    assert terms["kd"] == pytest.approx(0.2 * (own - theirs).abs().mean().item(), rel=1e-5)


def test_the_wrong_inverse_asks_for_something_else() -> None:
    for images in map(batch, range(100)):  # up to an F that repeating does not undo
        _, rows, columns, transposed = images.transform.flags.T
        if (transposed & (rows ^ columns)).any():
            break
    right, wrong = (step(name, on=images).terms for name in ("augkd", "augkd_wrong_inverse"))
    # noise through fresh weights: little changes, but a hundred times more than rounding would
    assert right["zoom_in"] != pytest.approx(wrong["zoom_in"], rel=1e-4)
    assert right["zoom_rec"] == pytest.approx(wrong["zoom_rec"], rel=1e-6)


def test_a_refusal_is_told() -> None:
    refused = step("csd_features", "swinir")
    assert refused.refusal.startswith("method 'csd' makes the student")
    assert not refused.terms


def test_steps_are_timed_in_turn() -> None:
    networks, chosen = pair(), {name: METHODS[name]() for name in ("kd", "csd", "augkd")}
    before = [p.clone() for p in networks[0].parameters()]
    timed = time_steps(chosen, networks, batch(), CPU, 0.0, (2, 4))
    assert list(timed.columns) == ["kd", "csd", "augkd"]
    assert len(timed) == 2
    assert (timed > 0).all(axis=None)
    assert all(torch.equal(a, b) for a, b in zip(before, networks[0].parameters(), strict=True))


def test_costs_are_passes_times_networks() -> None:
    seconds = np.array([1.0, 2.0, 3.0, 4.0, 50.0])  # on a machine that slows down
    timed = pd.DataFrame({"kd": seconds, "augkd": 2 * seconds})
    cost: Any = cost_table(timed, {name: step(name) for name in PASSES}, pair(), patch=24)
    kd, augkd = (cost.loc[name] for name in ("kd", "augkd"))
    assert kd["seconds_low"] < 3 < kd["seconds_high"]
    assert list(augkd[["seconds", "ratio", "ratio_low", "ratio_high"]]) == [6, 2, 2, 2]
    assert (augkd["student"], augkd["teacher"]) == (2.25, 2.25)
    assert augkd["macs"] == pytest.approx(2.25 * kd["macs"])
    assert list(augkd[["macs_kd", "macs_paper_kd"]]) == pytest.approx([2.25, 2.25])
    # 9 * (3 * c + 2 * n * c^2 + c^2) in the body and, at x2, 9 * (4 * c^2) + 4 * 9 * 3 * c behind
    # it, for each of 24 * 24 pixels: EDSR's convolutions, c wide, n blocks deep
    total = sum(
        24 * 24 * 9 * (3 * c + (2 * n + 1) * c * c + 4 * c * c + 12 * c)
        for c, n in ((8, 4), (32, 4))
    )
    assert kd["macs"] == pytest.approx(total / 1e9, rel=1e-6)
    assert kd["paper"] == 0.49  # Table 11
    assert augkd["paper_ratio"] == pytest.approx(0.70 / 0.49)


def test_crops_are_found_again() -> None:
    torch.manual_seed(0)
    hr, corners = torch.rand(2, 3, 16, 16), [(0, 8), (5, 3)]
    assert crop_corners(hr, zoom_in(hr, 8, torch.tensor(corners))) == corners
