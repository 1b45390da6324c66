"""The contrasts of the control cohort and the sweep of weights, on scores whose answer is known."""

import re
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from augkd.study.params import find_root
from augkd.study.report.controls import COHORT, CONTRASTS, WEIGHTS, contrasts, shares, spread, sweep
from augkd.study.report.style import METHOD_NAMES
from tests.test_claims import framed, past
from tests.test_claims import scores as scored


def scores(levels: dict[str, float], *, noise: float = 0.01, seeds: int = 3) -> pd.DataFrame:
    """With what premises need; on training images every method is a dB worse."""
    places: Any = {"scale": 2, "cohort": COHORT, "noise": noise, "seeds": seeds}
    train = scored(levels, split="train", datasets=("train",), **places)
    test = framed(scored({"scratch": -0.5} | levels, **places))
    return pd.concat([test, train.assign(value=train["value"] - 1)])


def asked(table: pd.DataFrame) -> pd.DataFrame:
    return contrasts(table, past(table))


def test_a_contrast_says_more_less_or_not_told_apart() -> None:
    levels = {"augkd": 0.3, "kd": 0.0, "scratch": 0.0, "augkd_two_step": 0.2, "augkd_no_f": 0.3}
    table = asked(scores(levels)).query("cohort == @COHORT").set_index(["better", "worse"])
    expected = {
        ("augkd", "kd"): "more",
        ("augkd_two_step", "augkd"): "less",
        ("augkd", "augkd_no_f"): "not told apart",
        ("fakd", "fakd_detached"): "not run",
    }
    assert expected.items() <= dict(table["verdict"]).items()
    assert np.isnan(table["gain"]["fakd", "fakd_detached"])
    whole: Any = table.loc[("augkd", "kd")]
    assert whole["gain"] == pytest.approx(0.3, abs=0.02)
    assert (whole["label"], whole["seeds"], whole["images"]) == ("AugKD − KD", 3, 8)  # test images
    assert whole["p"] < 0.05
    few = asked(scores(levels, seeds=2)).query("cohort == @COHORT").iloc[0]
    assert (few["verdict"], few["unmet"]) == ("not tested here", "trainings a method: 2")


def test_contrasts_are_corrected_for_one_another() -> None:
    """One contrast in sight of zero is told apart by itself, and not as one of many."""
    alone = {"augkd": 0.012, "kd": 0.0}
    many = alone | {c["better"]: 0.0 for c in CONTRASTS if c["better"] != "augkd"}
    many |= {c["worse"]: 0.0 for c in CONTRASTS if c["worse"] != "augkd"}
    few, all_of_them = (asked(scores(of)).query("cohort == @COHORT") for of in (alone, many))
    assert few.iloc[0]["label"] == "AugKD − KD"
    assert all_of_them["p"].notna().all()
    assert all_of_them.iloc[0]["p"] > few.iloc[0]["p"]


def test_shares_are_of_a_gain_that_is_there() -> None:
    levels = {"augkd": 0.4, "kd": 0.0, "augkd_no_f": 0.3}
    table = shares(asked(scores(levels)), "augkd", "kd")
    assert dict(zip(table["change"], table["share (%)"], strict=True)) == {
        "KD − Scratch": pytest.approx(125, abs=5),
        "AugKD without F − KD": pytest.approx(75, abs=3),
        "AugKD − AugKD without F": pytest.approx(25, abs=3),
    }
    assert shares(asked(scores({**levels, "augkd": 0.0})), "augkd", "kd").empty
    assert shares(asked(scores(levels).iloc[:0]), "augkd", "kd").empty


def test_contrasts_ask_each_thing_once_and_of_known_students() -> None:
    asked = [{c["cohort"], c["better"], c["worse"]} for c in CONTRASTS]
    assert all(asked.count(pair) == 1 and len(pair) == 3 for pair in asked)
    topics = [topic for topic, _ in groupby(CONTRASTS, lambda contrast: contrast["topic"])]
    assert len(set(topics)) == len(topics)  # a topic's contrasts stand together
    params = yaml.safe_load((find_root() / "params.yaml").read_text())
    for cohort in (COHORT, "central_x2"):
        named = set.union(*(pair - {cohort} for pair in asked if cohort in pair))
        assert named <= set(METHOD_NAMES)
        students = set(params["cohorts"][cohort]["methods"])
        swept = {name for name in students if re.fullmatch(r"(aug|kd|f)_[\d.]+", name)}
        assert students - (swept if cohort == COHORT else set()) == named


@pytest.mark.parametrize(
    ("levels", "answer"),
    [
        ((0.0, 0.0, 0.0), "flat"),
        ((0.0, 0.3, 0.1), "peaked"),
        ((0.0, 0.3, 0.3), "worse elsewhere"),
        ((0.0, 0.3, 0.6), "better elsewhere"),
    ],
)
def test_flat_or_peaked(levels: tuple[float, ...], answer: str) -> None:
    names = ("aug_0.05", "aug_0.2", "aug_3.2")
    table = scores({"kd": 0.0, **dict(zip(names, levels, strict=True)), "kd_0.2": 1.0})
    found = spread(table, past(table), WEIGHTS[0])
    assert found["answer"] == answer
    beaten = {"flat": [], "peaked": [0.05, 3.2]}
    assert found["worse at"] == beaten.get(answer, [0.05])
    assert float(str(found["within"])) > 0
    few = table[table["seed"] < 2]
    assert spread(few, past(few), WEIGHTS[0])["answer"] == "not tested here"
    line = sweep(table, WEIGHTS[0])
    assert list(line["value"]) == [0.05, 0.2, 3.2]
    assert list(line["gain"]) == pytest.approx(levels, abs=0.02)
    assert (line["low"] < line["gain"]).all()


def test_a_sweep_that_was_not_run() -> None:
    table = scores({"kd": 0.0, "aug_0.05": 0.1})
    for of in (WEIGHTS[0], WEIGHTS[2]):  # no default to compare with, nothing at all
        assert spread(table, past(table), of)["answer"] == "not run"
    assert sweep(table, WEIGHTS[2]).empty


def test_defaults_are_the_studys() -> None:
    from augkd.distill.augkd import AugKD

    params = yaml.safe_load((find_root() / "params.yaml").read_text())
    method = AugKD()
    assert {of.prefix: of.default for of in WEIGHTS} == {
        "aug_": method.aug,
        "kd_": method.kd,
        "f_": params["augment"]["probability"],
    }
