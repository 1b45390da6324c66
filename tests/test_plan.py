"""What a plan counts against counts by hand, and what it says."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from augkd.cli import app
from augkd.models import create_model
from augkd.study.cost.passes import META, _forward, count_step, multiply_accumulates, untrained
from augkd.study.cost.plan import make_plan, show, time_step
from augkd.study.params import Study, load_study
from tests.study_copy import ROOT

BATCH, PATCH = 3, 12  # of budget smoke's distil


@pytest.fixture(scope="module")
def smoke() -> Study:
    return load_study("smoke", ROOT)


def edsr_x2(channels: int, blocks: int, pixels: int) -> int:
    """Multiply-accumulates of EDSR x2 by hand: nine taps, input by output channels, pixels."""
    low = 3 * channels + (2 * blocks + 1) * channels**2 + 4 * channels**2  # up to the shuffle
    return 9 * (low * pixels + 3 * channels * 4 * pixels)


def test_a_pass_by_hand() -> None:
    student = create_model("edsr", scale=2, channels=4, blocks=2, res_scale=1.0).to(META)
    assert _forward(student, 12 * 12) == edsr_x2(4, 2, 144)
    assert _forward(student, 48 * 30) == edsr_x2(4, 2, 1440)


@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir"])
@pytest.mark.parametrize("scale", [2, 3])
def test_a_pass_is_table_1s_but_for_normalisation(name: str, scale: int) -> None:
    sizes: dict[str, dict[str, Any]] = {
        "edsr": {"channels": 8, "blocks": 2, "res_scale": 1.0},
        "rcan": {"channels": 16, "groups": 2, "blocks": 2, "reduction": 4},
        "swinir": {
            "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8, "mlp_ratio": 2
        },
    }  # fmt: skip
    network = create_model(name, scale=scale, **sizes[name])
    counted = 1e9 * multiply_accumulates(network, 48, 48)
    assert _forward(network.to(META), 48 * 48) == pytest.approx(counted, rel=0.01)


def test_a_teachers_step_by_hand(smoke: Study) -> None:
    step = count_step(smoke, "teach", "edsr_x2")
    assert step.operations() == 3 * 2 * edsr_x2(8, 2, PATCH**2)  # there and back, batches of 2
    assert step.operations_apart() == step.operations()
    assert step.updates == step.count == 1


def test_a_cohorts_step_by_hand(smoke: Study) -> None:
    small = smoke.params.cohorts["edsr_x2"].model_copy(update={"methods": {"kd": {}, "dfkd": {}}})
    cohorts = {**smoke.params.cohorts, "edsr_x2": small}
    study = Study(smoke.params.model_copy(update={"cohorts": cohorts}), smoke.budget, ROOT)
    step = count_step(study, "distil", "edsr_x2")
    seeds, student = smoke.seeds("edsr_x2"), BATCH * edsr_x2(4, 2, PATCH**2)
    teacher = BATCH * edsr_x2(8, 2, PATCH**2)
    assert step.operations() == teacher + 2 * seeds * 3 * student  # the teacher answers once
    assert step.operations_apart() == 2 * seeds * (teacher + 3 * student)
    assert step.updates == step.count == 2 * seeds


def test_two_updates_are_counted(smoke: Study) -> None:
    step = count_step(smoke, "distil", "controls_x2")
    one, two = len(smoke.params.cohorts["controls_x2"].methods), 2  # *_two_step and *_two_updates
    assert step.updates == smoke.seeds("controls_x2") * (one + two)


def test_bytes_by_hand(smoke: Study) -> None:
    members, _ = untrained(smoke, "teach", "edsr_x2", META)
    numbers = sum(p.numel() for p in members[0].network.parameters())
    student = count_step(smoke, "teach", "edsr_x2").students[0]
    assert student.weights == 4 * numbers
    assert student.state == 4 * student.weights  # weights, gradients, Adam's two
    assert student.resume == 3 * student.weights
    # at least every convolution's input is kept, of 2 images
    kept = 2 * 4 * PATCH**2 * (3 + 8 * (2 * 2 + 1) + 8 + 4 * 8)
    assert kept <= student.saved < 5 * kept


@pytest.mark.slow
def test_a_step_is_timed_whole_where_that_is_quick(smoke: Study) -> None:
    step = count_step(smoke, "distil", "edsr_x2")
    timed = time_step(smoke, "distil", "edsr_x2", step, torch.device("cpu"), 30.0)
    # of the step's two students a method one is timed, the teacher's passes with it
    assert 1 / smoke.seeds("edsr_x2") <= timed.share <= 1
    assert 0 < timed.draw < 5
    assert 0 < timed.update < 30


def test_a_step_that_takes_too_long_is_extrapolated() -> None:
    study = load_study("paper", ROOT)
    step = count_step(study, "distil", "ablation_x4")
    timed = time_step(study, "distil", "ablation_x4", step, torch.device("cpu"), 0.1)
    assert 0 < timed.share < 0.5
    assert math.isfinite(timed.update)
    assert timed.update > 0


def test_what_no_time_is_left_for_is_as_fast_as_the_nearest_of_its_kind(
    smoke: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from augkd.study.cost import plan as step_time
    from augkd.study.cost.plan import Timed, time_steps

    asked = []

    def fake(study: Study, stage: str, name: str, *_: object) -> Timed:
        asked.append((stage, name))
        return Timed(draw=1.0, update=float(len(asked)), share=0.5)

    monkeypatch.setattr(step_time, "time_step", fake)
    names = [("teach", "edsr_x2"), ("teach", "edsr_x3")]
    names += [("distil", n) for n in ("edsr_x2", "edsr_x3", "quantized_x4")]
    steps = {name: count_step(smoke, *name) for name in names}
    found = dict(time_steps(smoke, steps, torch.device("cpu"), limit=0.0))
    assert found.keys() == steps.keys()
    # the least of teachers, of full-precision students and of quantised ones
    assert set(asked) == {names[0], names[2], names[4]}
    for timed, other in ((names[0], names[1]), (names[2], names[3])):
        ratio = steps[other].operations() / steps[timed].operations()
        assert ratio > 1
        assert found[other] == Timed(1.0, found[timed].update * ratio, 0.0)
    asked.clear()
    assert all(t.share for _, t in time_steps(smoke, steps, torch.device("cpu"), limit=60.0))
    assert len(asked) == len(steps)


def test_the_longest_chain(smoke: Study) -> None:
    plan = make_plan(smoke, measure=False)
    assert plan.chain[-2:] == ("ablation_x4", "quantized_x4")
    assert plan.chain[0] == "teacher edsr_x2"
    assert plan.trainings["hours"].isna().all()
    assert len(plan.trainings) == 3 + 8
    text = show(plan)
    assert f"budget smoke: {plan.stages} stages, of which 11 train" in text
    assert "not measured" in text
    assert max(map(len, text.splitlines())) <= 100


def test_hours_are_steps_times_seconds(smoke: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from augkd.study.cost import plan as step_time
    from augkd.study.cost.plan import Timed

    monkeypatch.setattr(step_time, "time_step", lambda *_: Timed(draw=1.0, update=3.0, share=0.25))
    plan = make_plan(smoke)
    table = plan.trainings
    together = table["steps"] * 4 / 3600
    pd.testing.assert_series_equal(table["hours"], together, check_names=False)
    a_step = table["students"] + 3 * table["operations_apart"] / table["operations"]
    apart = table["steps"] * a_step / 3600
    pd.testing.assert_series_equal(table["hours_apart"], apart, check_names=False)
    assert "1/4" in show(plan)
    assert "extrapolated" in show(plan)


def test_disk_of_a_budget_that_fetches(tmp_path: Path) -> None:
    from augkd.study.cost.plan import disk

    room = disk(load_study("paper", ROOT))
    # DIV2K's four archives alone have published sizes of 5.1 GB; DF2K's pixels, HR and LR, 44 GB
    assert room.fetched > 5.1e9
    assert 40e9 < room.prepared < 50e9
    assert not room.measured


def test_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    before = set((ROOT / "runs").rglob("*"))
    file = tmp_path / "plan.csv"
    done = CliRunner().invoke(
        app, ["plan", "--budget", "smoke", "--no-measure", "--csv", str(file)]
    )
    assert done.exit_code == 0, done.output
    assert "budget smoke:" in done.output
    table = pd.read_csv(file)
    assert list(table["name"][:2]) == ["edsr_x2", "edsr_x3"]
    assert (table["operations_apart"] >= table["operations"]).all()
    assert set((ROOT / "runs").rglob("*")) == before  # nothing is made


def test_a_teacher_from_elsewhere_is_counted() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 3, padding=1, device=META)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.pixel_shuffle(self.conv(x), 2)

    assert _forward(Wide(), 144) == 9 * 3 * 12 * 144
