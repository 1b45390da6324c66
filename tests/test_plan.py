"""What a plan counts against counts by hand, and what it says."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import nn
from typer.testing import CliRunner

from augkd.cli import app
from augkd.models import create_model
from augkd.models.quantize import quantize
from augkd.study.cost import plan as planning
from augkd.study.cost.passes import CPU, META, count_step, multiply_accumulates, untrained
from augkd.study.cost.plan import Timed, disk, make_plan, show, time_step, time_steps
from augkd.study.params import Study, load_study
from tests.study_copy import ROOT

PATCH = 12  # of budget smoke, whose batches are of 2 in teach and 3 in distil


@pytest.fixture(scope="module")
def smoke() -> Study:
    return load_study("smoke", ROOT)


def edsr_x2(channels: int, pixels: int) -> int:
    """Multiply-accumulates of EDSR x2 by hand: nine taps, input by output channels, pixels."""
    low = 3 * channels + (2 * 2 + 1) * channels**2 + 4 * channels**2  # up to the shuffle
    return 9 * (low * pixels + 3 * channels * 4 * pixels)


STUDENT, TEACHER = edsr_x2(4, PATCH**2), edsr_x2(8, PATCH**2)


def test_a_pass_by_hand() -> None:
    student = create_model("edsr", scale=2, channels=4, blocks=2, res_scale=1.0)
    assert multiply_accumulates(student, 48, 30) == edsr_x2(4, 1440)
    assert multiply_accumulates(quantize(student, 2), 12, 12) == STUDENT
    foreign = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, device=META), nn.PixelShuffle(2))
    assert multiply_accumulates(foreign, 12, 12) == 9 * 3 * 12 * 144


SIZES: dict[str, dict[str, Any]] = {
    "edsr": {"channels": 8, "blocks": 2, "res_scale": 1.0},
    "rcan": {"channels": 16, "groups": 2, "blocks": 2, "reduction": 4},
    "swinir": {
        "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8, "mlp_ratio": 2
    },
}  # fmt: skip
# of images of 12 x 20, 48 x 48 and 16 x 8, as fvcore 0.1.5 counts them
FVCORE = {
    ("edsr", 2): (1_503_360, 14_432_256, 801_792),
    ("edsr", 3): (2_453_760, 23_556_096, 1_308_672),
    ("edsr", 4): (4_337_280, 41_637_888, 2_313_216),
    ("rcan", 2): (8_828_672, 84_750_848, 4_708_864),
    ("rcan", 3): (12_111_872, 116_269_568, 6_459_904),
    ("rcan", 4): (18_920_192, 181_629_440, 10_091_008),
    ("swinir", 2): (83_063_808, 498_382_848, 27_687_936),
    ("swinir", 3): (157_160_448, 942_962_688, 52_386_816),
    ("swinir", 4): (317_518_848, 1_905_113_088, 105_839_616),
}
TABLE_1 = {
    ("edsr", "teacher"): (3293.35, 3_293_350_723_584),
    ("edsr", "student"): (207.28, 207_278_309_376),
    ("rcan", "teacher"): (1044.03, 1_044_025_282_560),
    ("rcan", "student"): (366.98, 366_980_659_200),
    ("swinir", "teacher"): (861.27, 861_268_082_688),
    ("swinir", "student"): (121.48, 121_479_364_608),
}


@pytest.mark.parametrize(("name", "scale"), FVCORE)
def test_operations_are_counted_as_fvcore_does(name: str, scale: int) -> None:
    network = create_model(name, scale=scale, **SIZES[name])
    sizes = ((12, 20), (48, 48), (16, 8))
    assert tuple(multiply_accumulates(network, *size) for size in sizes) == FVCORE[name, scale]
    assert network.training


@pytest.mark.parametrize(("name", "role"), TABLE_1)
def test_operations_are_table_1s(name: str, role: str) -> None:
    printed, exact = TABLE_1[name, role]
    with META:
        counted = multiply_accumulates(create_model(name, role, 4), 256, 256)
    assert counted == exact
    assert round(counted / 1e9, 2) == printed


def test_a_teachers_step_by_hand(smoke: Study) -> None:
    step = count_step(smoke, "teach", "edsr_x2")
    assert step.operations() == 3 * 2 * TEACHER  # there and back, batches of 2
    assert step.operations_apart() == step.operations()
    assert step.updates == step.students == 1
    members, _ = untrained(smoke, smoke.teacher("edsr_x2"), META)
    weights = 4 * sum(p.numel() for p in members[0].network.parameters())
    assert step.weights == weights
    assert step.resume == 3 * weights  # with Adam's two moments
    images = 4 * 2 * 3 * PATCH**2 * (3 + 4 + 1 / 4) + 8 * 2 * 4  # two crops; what F is drawn from
    saved = step.memory - 4 * weights - images  # and the gradients
    # at least every convolution's input is kept, of 2 images
    kept = 2 * 4 * PATCH**2 * (3 + 8 * (2 * 2 + 1) + 8 + 4 * 8)
    assert kept <= saved < 5 * kept


def test_a_cohorts_step_by_hand(smoke: Study) -> None:
    small = smoke.params.cohorts["edsr_x2"].model_copy(update={"methods": {"kd": {}, "dfkd": {}}})
    cohorts = {**smoke.params.cohorts, "edsr_x2": small}
    study = Study(smoke.params.model_copy(update={"cohorts": cohorts}), smoke.budget, ROOT)
    step, seeds = count_step(study, "distil", "edsr_x2"), smoke.seeds("edsr_x2")
    # one answer a seed, of a batch of 3
    assert step.operations() == 3 * seeds * (TEACHER + 2 * 3 * STUDENT)
    assert step.operations_apart() == 3 * 2 * seeds * (TEACHER + 3 * STUDENT)
    assert step.updates == step.students == 2 * seeds


def test_updates_and_widths_in_bits_are_counted(smoke: Study) -> None:
    step = count_step(smoke, "distil", "controls_x2")
    one, two = len(smoke.params.cohorts["controls_x2"].methods), 2  # *_two_step and *_two_updates
    assert step.updates == smoke.seeds("controls_x2") * (one + two)
    step, cohort = count_step(smoke, "distil", "quantized_x4"), smoke.cohort("quantized_x4")
    assert step.copies == smoke.seeds("quantized_x4") * len(cohort.bits)
    assert step.students == smoke.seeds("quantized_x4") * len(cohort.variants())


@pytest.mark.slow
def test_a_step_is_timed_whole_where_that_is_quick(smoke: Study) -> None:
    step = count_step(smoke, "distil", "edsr_x2")
    timed = time_step(smoke, ("distil", "edsr_x2"), step, CPU, 30.0)
    # of the step's two students a method one is timed, the teacher's passes with it
    assert 1 / smoke.seeds("edsr_x2") <= timed.share <= 1
    assert 0 < timed.draw < 5
    assert 0 < timed.update < 30


def test_a_step_that_takes_too_long_is_extrapolated() -> None:
    study = load_study("paper", ROOT)
    step = count_step(study, "distil", "ablation_x4")
    timed = time_step(study, ("distil", "ablation_x4"), step, CPU, 0.1)
    assert 0 < timed.share < 0.5
    assert 0 < timed.update < float("inf")


def test_what_is_not_timed_is_as_its_nearest(smoke: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(study: Study, training: tuple[str, str], *_: object) -> Timed:
        asked.append(training)
        return Timed(draw=1.0, update=float(len(asked)), share=0.5)

    monkeypatch.setattr(planning, "time_step", fake)
    names = [("teach", "edsr_x2"), ("teach", "edsr_x3")]
    names += [("distil", n) for n in ("edsr_x2", "edsr_x3", "quantized_x4")]
    steps = {name: count_step(smoke, *name) for name in names}
    found = time_steps(smoke, steps, CPU, limit=0.0)
    assert found.keys() == steps.keys()
    # the least of teachers, of full-precision students and of quantised ones
    assert set(asked) == {names[0], names[2], names[4]}
    for timed, other in ((names[0], names[1]), (names[2], names[3])):
        ratio = steps[other].operations() / steps[timed].operations()
        assert ratio > 1
        assert found[other] == pytest.approx((1.0, found[timed].update * ratio, 0.0))
    asked.clear()
    assert all(timed.share for timed in time_steps(smoke, steps, CPU, limit=60.0).values())
    assert len(asked) == len(steps)


def test_a_plan_that_is_measured(smoke: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "time_step", lambda *_: Timed(draw=1.0, update=3.0, share=0.25))
    plan = make_plan(smoke)
    table, hours = plan.trainings, plan.trainings["hours"]
    together, a_step = table["steps"] * 4 / 3600, table["operations_apart"] / table["operations"]
    pd.testing.assert_series_equal(hours, together, check_names=False)
    apart = table["steps"] * (table["students"] + 3 * a_step) / 3600
    pd.testing.assert_series_equal(table["hours_apart"], apart, check_names=False)
    # teachers and cohorts that wait for one another
    assert plan.chain[0] == ("teach", "edsr_x2")
    assert plan.chain[-2:] == [("distil", "ablation_x4"), ("distil", "quantized_x4")]
    text = show(plan._replace(cores=2))
    assert "1/4" in text
    assert "extrapolated" in text
    assert f"{max(hours.sum() / 2, hours[plan.chain].sum()):.3g} at best on 2 cores" in text


def test_disk_of_a_budget_that_fetches() -> None:
    room = disk(load_study("paper", ROOT))
    # DIV2K's four archives alone have published sizes of 5.1 GB; DF2K's pixels, HR and LR, 44 GB
    assert room.fetched > 5.1e9
    assert 40e9 < room.prepared < 50e9
    assert not room.measured


def test_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    before, file = set((ROOT / "runs").rglob("*")), tmp_path / "plan.csv"
    command = ["plan", "--budget", "smoke", "--no-measure", "--csv", str(file)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any(line.startswith("budget smoke: 36 stages, of which 13 train") for line in lines)
    assert "not measured" in done.output
    assert max(map(len, lines)) <= 100
    table = pd.read_csv(file)
    assert list(table["name"][:2]) == ["edsr_x2", "edsr_x3"]
    assert len(table) == 3 + 10
    assert table["hours"].isna().all()
    assert (table["operations_apart"] >= table["operations"]).all()
    assert set((ROOT / "runs").rglob("*")) == before  # nothing is made
