"""The tables of the report: the paper's cells found, ours paired, what is missing said."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from augkd.errors import UserError
from augkd.study.paper import load_table
from augkd.study.params import Study, load_study
from augkd.study.report import rows as report
from augkd.study.report.rows import Row, TablePage, gains, mean_gains, page_rows, ranks, values
from augkd.study.report.style import paper_table

ROOT = Path(__file__).parent.parent


def scored(cohort: str, offsets: dict[str, float], metric: str = "psnr_y") -> pd.DataFrame:
    """Scores of two seeds whose images differ widely, and methods by a constant."""
    rows = [
        (method, seed, dataset, f"i{image}", base + 2 * image + offset + seed - 0.5)
        for method, offset in offsets.items()
        for seed in (0, 1)
        for dataset, base in (("photographs", 30.0), ("Set5", 33.0))
        for image in range(3)
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "dataset", "image", "value"])
    return table.assign(cohort=cohort, split="test", metric=metric)


def cell(frame: pd.DataFrame, row: Hashable, column: Hashable) -> Any:
    return frame.at[row, column]


SCORES = scored("edsr_x2", {"kd": 0.0, "augkd": 0.25, "scratch": -0.5})
ROWS = [
    Row("edsr_x2", method, {"method": method}, 2, {"scale": 2, "method": method})
    for method in ("scratch", "kd", "augkd", "at")
]


@pytest.fixture
def study() -> Study:
    return load_study("smoke", ROOT, check_methods=False)


def test_values_stand_beside_the_papers() -> None:
    frame = values(SCORES, ROWS, "psnr_y")
    found = [cell(frame, "kd", ("Set5", part)) for part in ("ours", "paper", "difference")]
    assert found == pytest.approx([35, 38.04, 35 - 38.04])
    assert ("photographs", "paper") not in frame  # the paper has no such set
    assert ("Urban100", "ours") not in frame  # it is not at hand
    assert cell(frame, "augkd", ("Urban100", "paper")) == 32.53
    assert np.isnan(cell(frame, "at", ("Set5", "ours")))


def test_gains_are_paired_and_their_reference_is_none() -> None:
    frame = gains(SCORES, ROWS, "psnr_y", "kd")
    found = [cell(frame, "augkd", ("Set5", part)) for part in ("Δ", "paper")]
    assert found == pytest.approx([0.25, 38.15 - 38.04])
    assert cell(frame, "augkd", ("Set5", "interval")) == pytest.approx((0.25, 0.25))
    assert cell(frame, "kd", ("Set5", "Δ")) is None
    assert np.isnan(cell(frame, "at", ("Set5", "Δ")))
    html = paper_table(frame, "x").to_html()
    assert html.count("not run") == 2  # AT, on each set at hand
    assert "better" in html


def test_images_that_one_method_lacks_are_refused() -> None:
    few = SCORES[(SCORES["method"] != "augkd") | (SCORES["image"] != "i1")]
    with pytest.raises(UserError, match="'augkd' has no psnr_y of image 'i1' of Set5"):
        mean_gains(few, ROWS, "psnr_y", {"over KD": "kd"})


def test_mean_gains_over_a_row_of_another_cohort() -> None:
    other = Row("edsr_x3", "kd", {"method": "kd3"})
    scores = pd.concat([SCORES, scored("edsr_x3", {"kd": 1.0})])
    frame = mean_gains(scores, [*ROWS, other], "psnr_y", {"over": "edsr_x2/kd", "own": "kd"})
    assert cell(frame, "kd3", ("over", "Δ")) == pytest.approx(1.0)
    assert cell(frame, "kd3", ("own", "Δ")) is None
    paper = np.mean([38.15 - 38.04, 33.80 - 33.58, 32.27 - 32.19, 32.53 - 31.98])
    assert cell(frame, "augkd", ("over", "paper")) == pytest.approx(paper)
    assert cell(frame, "augkd", ("over", "difference")) == pytest.approx(0.25 - paper)


def test_lower_niqe_is_a_gain_in_both_columns() -> None:
    rows = [Row("real_x4", m, {"method": m}, 5, {"method": m}) for m in ("scratch", "kd")]
    scores = scored("real_x4", {"scratch": 0.5, "kd": 0.0}, "niqe")
    frame = mean_gains(scores, rows, "niqe", {"over": "scratch"})
    assert cell(frame, "kd", ("over", "Δ")) == pytest.approx(0.5)
    paper = np.mean([5.810 - 5.425, 5.757 - 5.408, 3.788 - 3.652])
    assert cell(frame, "kd", ("over", "paper")) == pytest.approx(paper)


def test_no_scores_leave_the_paper_alone() -> None:
    frame = mean_gains(SCORES.iloc[:0], ROWS, "psnr_y", {"over": "kd"})
    assert np.isnan(cell(frame, "augkd", ("over", "Δ")))
    assert cell(frame, "augkd", ("over", "paper")) > 0
    assert gains(SCORES.iloc[:0], ROWS, "psnr_y", "kd").empty


@pytest.mark.parametrize(
    ("metric", "marks"),
    [("psnr_y", ["", "best", "best", "second"]), ("niqe", ["", "second", "", "best"])],
)
def test_best_and_second_as_they_are_shown(metric: str, marks: list[str]) -> None:
    numbers = [40.0, 30.001, 30.004, 29.0]
    frame = pd.DataFrame({("Set5", "ours"): numbers, ("Set5", "difference"): 0.0}, list("tabc"))
    found = ranks(frame, [False, True, True, True], metric, "")
    assert list(found.iloc[:, 0]) == marks
    assert not found.iloc[:, 1].any()


def test_tidy_keeps_every_number() -> None:
    frame = report.tidy(gains(SCORES, ROWS, "psnr_y", "kd"), metric="psnr_y")
    (row,) = frame.query("method == 'augkd' and dataset == 'Set5'").to_dict("records")
    assert [row["gain"], row["low"]] == pytest.approx([0.25, 0.25])
    assert row["metric"] == "psnr_y"


def test_the_papers_cells_are_all_on_the_pages(study: Study) -> None:
    pages = {number: page_rows(study, f"table_{number:02d}") for number in range(2, 13)}
    pages[4] = [row for row in pages[4] if row.table == 4]
    pages[5] += report.method_rows(study, "real_x4", ["teacher"], 5)
    for number, rows in pages.items():
        printed = load_table(number)
        wanted = printed[printed["metric"].isin(["psnr_y", "ssim_y", "niqe"])]
        shown = [v for r in rows for (of, _), v in r.printed.items() if of in set(wanted.metric)]
        assert sorted(shown) == sorted(wanted["value"]), number
    assert {row.labels["scale"] for row in pages[12]} == {"×2", "×3", "×4"}


def page_of(study: Study, scores: pd.DataFrame, rows: list[Row] = ROWS) -> TablePage:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "trained_scores", lambda *_: scores)
        return TablePage(study, "table_02", rows, rank_by="scale")


@pytest.fixture
def page(study: Study) -> TablePage:
    one_seed = scored("edsr_x2", {"at": 0.0}).query("seed == 0")
    rows = [row for row in page_rows(study, "table_02") if row.cohort == "edsr_x2"]
    return page_of(study, pd.concat([SCORES, one_seed]), rows)


@pytest.mark.parametrize(
    "sentence",
    [
        "KD without HR, FitNet, RKD, FAKD, CSD (teacher's features): not run in `edsr_x2`",
        "Set14, B100, Urban100: not at hand",
        "1 to 2 seeds a method",
        "Seeds differ in initial weights and in their batches, which all methods of a seed see",
        "Trained for 4 steps of 3 patches of 12 pixels (LR); the paper's for 250,000 steps",
    ],
)
def test_notes_say_what_a_reader_must_know(page: TablePage, sentence: str) -> None:
    assert sentence in str(page.notes().data)


def test_a_stopped_training_is_marked(study: Study) -> None:
    one = SCORES[SCORES["method"] == "kd"].iloc[:1]
    halted = one.assign(seed=1, dataset="all", split="train", image="all", metric="stopped")
    page = page_of(study, pd.concat([SCORES, halted.assign(value=3.0)]))
    assert cell(gains(SCORES, page.rows, "psnr_y", "scratch"), "kd †", ("Set5", "Δ")) == 0.5
    assert [row.labels["method"] for row in page.rows] == ["scratch", "kd †", "augkd", "at ‡"]
    assert "‡ Untuned: AT. Their weights" in str(page.notes().data)
    assert "nothing is judged by it: KD in `edsr_x2`, seed 1. The row" in str(page.notes().data)


def test_students_below_bicubic_are_named(study: Study) -> None:
    """The mean over sets decides; one that is above is not named."""
    bicubic = scored("edsr_x2", {"bicubic": 0.6}).query("seed == 0").assign(seed=-1)
    said = str(page_of(study, pd.concat([SCORES, bicubic])).notes().data)
    assert said.count("Below") == 1
    assert "Scratch by 0.60 dB, KD by 0.10 dB in `edsr_x2`. Such" in said
    assert "Below" not in str(page_of(study, SCORES).notes().data)
    published = load_study("paper", ROOT, check_methods=False)  # its own schedule needs no note
    assert "Trained for" not in str(page_of(published, SCORES).notes().data)


def test_a_page_writes_what_it_shows(page: TablePage, tmp_path: Path) -> None:
    page.path = tmp_path / "pages" / "table.csv"
    shown = page.mean_gains("psnr_y", "kd").to_html() + page.values("psnr_y").to_html()
    assert "+0.25" in shown
    page.save()
    frame = pd.read_csv(page.path).query("method == 'AugKD'").set_index("table")
    assert set(frame.index) == {"mean_gains_psnr_y", "values_psnr_y"}
    assert frame.at["mean_gains_psnr_y", "gain"] == pytest.approx(0.25)


def test_a_cohort_that_is_not_trained_is_named(study: Study) -> None:
    rows = [Row("rcan_x2", "kd", {"method": "KD"}, 3, {"scale": 2, "method": "kd"})]
    nothing = Study(study.params, study.budget.model_copy(update={"backbones": []}), ROOT)
    page = TablePage(nothing, "table_03", rows)
    assert "does not train `rcan_x2`: " in str(page.notes().data)
    assert page.scores.empty
    assert "38.18" in page.values("psnr_y").to_html()  # the paper's, alone
    assert "not run" in page.mean_gains("psnr_y", "scratch").to_html()
