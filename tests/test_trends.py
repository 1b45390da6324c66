"""Which way gains go: from curves and scores whose trend is known."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from augkd.study.params import Study, load_study
from augkd.study.report import trends
from tests.study_copy import ROOT
from tests.test_claims import scores

METHODS = ("scratch", "kd", "kd_1", "augkd", "augkd_1")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Of budget night, with made-up curves and scores in a folder of its own."""
    return replace(load_study("night", ROOT, check_methods=False), root=tmp_path)


def test_along_the_training(study: Study) -> None:
    """AugKD leads KD by 0.1 dB more with every 250 steps, from -0.2 on, in each seed a bit more."""
    for seed, part in enumerate(study.parts("central_x2")):
        rows = [
            (step, f"{method}-{seed}", 30 + seed + lead)
            for step in range(0, 1001, 250)
            for method in METHODS
            for lead in [(step / 2500 - 0.2 + seed / 100) * method.startswith("augkd")]
        ]
        file = study.folder("distil", part) / "curves" / "validation.csv"
        file.parent.mkdir(parents=True)
        pd.DataFrame(rows, columns=["step", "member", "value"]).to_csv(file, index=False)
    table = trends.trend_table(trends.gains(study, "length"))
    own = table[table["contrast"] == "AugKD − KD"]
    assert list(own["place"]) == [250, 500, 750, 1000]
    assert list(own["gain"]) == pytest.approx([-0.085, 0.015, 0.115, 0.215])
    # of 0, 0.01, 0.02, 0.03: deviation 0.01291, four of them, t = 3.182 at three degrees
    assert list(own["high"] - own["gain"]) == pytest.approx(4 * [3.1824 * 0.0129099 / 2], rel=1e-4)
    assert set(own["seeds"]) == {4}
    goes = trends.directions(trends.gains(study, "length"), "length").set_index("contrast")
    assert (goes["from"].tolist(), goes["to"].tolist()) == (4 * [500], 4 * [1000])
    assert goes.at["AugKD − KD", "change"] == pytest.approx(0.2)
    assert goes["goes"].tolist() == ["up", "up", "up", "cannot be told"]


@pytest.mark.parametrize(("trend", "places"), [("width", [8, 16, 32]), ("images", [4, 12, 50])])
def test_from_cohort_to_cohort(study: Study, trend: str, places: list[int]) -> None:
    """KD gains 0.1 dB less from one place to the next, by image and seed a little off."""
    index = study.folder("prepare") / "train" / "index.csv"
    index.parent.mkdir(parents=True)
    pd.DataFrame({"image": range(50)}).to_csv(index, index=False)
    order = ["width_8_x2", "width_16_x2", "width_32_x2"]
    if trend == "images":
        order = ["images_4_x2", "images_12_x2", "width_16_x2"]
    for name in study.budget.trend_cohorts:
        lead = 0.3 - 0.1 * order.index(name) if name in order else 0.0
        study.scores(name).parent.mkdir(parents=True)
        levels = dict.fromkeys(METHODS, 0.0) | {"kd_1": lead}
        scores(levels, noise=1e-3, cohort=name).to_csv(study.scores(name), index=False)
    table = trends.trend_table(trends.gains(study, trend))
    own = table[table["contrast"] == "KD (λ = 1) − Scratch"]
    assert list(own["place"]) == places
    assert list(own["gain"]) == pytest.approx([0.3, 0.2, 0.1])
    goes = trends.directions(trends.gains(study, trend), trend).set_index("contrast")
    assert goes.at["KD (λ = 1) − Scratch", "goes"] == "down"
    assert goes.at["AugKD − KD", "goes"] == "cannot be told"


def test_directions_are_corrected_for_one_another() -> None:
    """Of four contrasts, one at p = 0.037 goes nowhere: to be told it would need 0.0125."""
    places = {}
    for number, (better, worse) in enumerate(trends.CONTRASTS):
        gains = scores({"a": 0.0}, noise=0.1).set_index(["dataset", "image", "seed"])["value"]
        gains = gains - gains.groupby("image").transform("mean")
        places[f"{better} {worse}"] = {8.0: gains * 0, 32.0: gains + 0.16 * (number == 0)}
    alone = trends.directions(dict([*places.items()][:1]), "width")
    together = trends.directions(places, "width")
    assert alone["p"][0] < 0.05 < together["p"][0] == pytest.approx(4 * alone["p"][0])
    assert (alone["goes"][0], together["goes"][0]) == ("up", "cannot be told")
    assert alone["low"][0] == together["low"][0] > 0


def test_without_places_or_with_one_training_nothing_is_told() -> None:
    assert trends.directions({"a": {}}, "width").empty
    gains = scores({"a": 0.0}, seeds=1).set_index(["dataset", "image", "seed"])["value"]
    alone = trends.directions({"a": {8.0: gains, 32.0: gains + 1}}, "width")
    assert alone["goes"].tolist() == ["cannot be told"]


def test_the_papers_gain() -> None:
    """Table 2, EDSR x2: AugKD 38.15, 33.80, 32.27, 32.53, KD 38.04, 33.58, 32.19, 31.98."""
    smoke = load_study("smoke", ROOT, check_methods=False)
    assert trends.paper_gain("augkd_1", "kd_1") == pytest.approx(0.24)
    assert trends.trend_table(trends.gains(smoke, "width")).empty
