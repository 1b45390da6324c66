"""Contrasts of our own: what AugKD's gain is made of; and how it varies with weights.

Scores are tidy rows of the cohorts, none where one was not run; gains are those of PSNR-Y on test
images, in dB.
"""

import re
from itertools import chain
from typing import NamedTuple

import numpy as np
import pandas as pd

from augkd.study.report.premises import Premises
from augkd.study.report.stats import PROTOCOL, Gain, correct, doubts, paired_gain
from augkd.study.report.style import contrast, read_yaml

COHORT = "controls_x2"
CONTRASTS: list[dict[str, str]] = [{"cohort": COHORT} | one for one in read_yaml("controls.yaml")]
"""What the page of controls asks, in its order: see the head of controls.yaml."""


class Sweep(NamedTuple):
    """Students that differ in one number, ``prefix`` and the number; ``named`` have other names."""

    prefix: str
    title: str
    default: float
    named: dict[str, float]


WEIGHTS = (
    Sweep("aug_", "λ of auxiliary images", 0.2, {"augkd": 0.2}),
    Sweep("kd_", "λ of the teacher's answer", 0.2, {"augkd": 0.2}),
    Sweep("f_", "probability of F's operations", 0.3, {"augkd": 0.3, "augkd_no_f": 0.0}),
)
"""The three numbers that the paper does not give, and this study's defaults."""


def contrasts(scores: pd.DataFrame, past: pd.DataFrame) -> pd.DataFrame:
    """Every contrast's gain, with its 95 % interval; ``past`` as ``premises.histories`` has it.

    Returns:
        topic, cohort, label, better, worse, question, gain, low, high, verdict (more, less, not
        told apart, not tested here, not run), p (two-sided, corrected for the others that are
        tested), seeds, images, meaning, unmet (premises, as measured).
    """
    premises, rows = Premises(scores, past), []
    for asked in CONTRASTS:
        cohort, better, worse = (asked[key] for key in ("cohort", "better", "worse"))
        gain = _gain(scores[scores["cohort"] == cohort], better, worse)
        facts = premises.of((cohort, better), (cohort, worse)) if gain.seeds else ()
        unmet = "; ".join(str(one) for one in facts if not one.met)
        rows.append(asked | gain._asdict() | {"label": contrast(better, worse), "unmet": unmet})
    table = pd.DataFrame(rows)
    above, below = doubts(table, 0.0)
    tested = (table["seeds"] > 0) & (table["unmet"] == "")
    table["p"] = correct(pd.Series(np.minimum(above, below)).where(tested))
    sure = table["p"] <= PROTOCOL["error"]
    words = [table["seeds"] == 0, ~tested, sure & (table["mean"] > 0), sure]
    given = ["not run", "not tested here", "more", "less"]
    table["verdict"] = np.select(words, given, "not told apart")
    columns = ["topic", "cohort", "label", "better", "worse", "question", "gain", "low", "high"]
    columns += ["verdict", "p", "seeds", "images", "meaning", "unmet"]
    return table.rename(columns={"mean": "gain"})[columns]


def shares(table: pd.DataFrame, better: str, worse: str) -> pd.DataFrame:
    """Each contrast's gain over one of them, in percent: change, share, verdict.

    Empty where that gain is not above zero: a share of nothing means nothing.
    """
    whole = (table["better"] == better) & (table["worse"] == worse)
    gain = table.loc[whole & (table["verdict"] == "more"), "gain"].sum()
    parts = table[table["gain"].notna() & ~whole & (gain > 0)]
    share = {"change": parts["label"], "share (%)": (100 * parts["gain"] / gain).round(0)}
    return pd.DataFrame(share | {"verdict": parts["verdict"]}).reset_index(drop=True)


def sweep(scores: pd.DataFrame, of: Sweep) -> pd.DataFrame:
    """Gains over KD along a sweep: value, method, gain, low, high, seeds; by value."""
    rows = [
        (value, method, gain.mean, gain.low, gain.high, gain.seeds)
        for value, method in _students(scores, of).items()
        if (gain := _gain(scores, method, "kd")).seeds
    ]
    return pd.DataFrame(rows, columns=["value", "method", "gain", "low", "high", "seeds"])


def spread(scores: pd.DataFrame, past: pd.DataFrame, of: Sweep) -> dict[str, object]:
    """Flat or peaked: the default against every other value of its sweep.

    The intervals are simultaneous: 1 - 0.05/m each among m others. ``peaked`` where the default
    beats every other, ``better elsewhere`` where another beats it, ``worse elsewhere`` where it
    beats some, ``flat`` where every interval lies so near zero as no difference does. ``within`` is
    how far the widest interval reaches from zero.
    """
    others = _students(scores, of)
    own = others.pop(of.default, "")
    if not own or not others:
        return {"sweep": of.title, "answer": "not run"}
    gains = {value: _gain(scores, own, method) for value, method in others.items()}
    error = PROTOCOL["error"] / len(gains)
    ends = pd.DataFrame({value: gain.interval(error) for value, gain in gains.items()}).T
    worse, better = [*ends.index[ends[0] > 0]], [*ends.index[ends[1] < 0]]
    within = np.abs(ends.to_numpy()).max()
    answer = "flat" if within <= PROTOCOL["same"]["dB"] else "not told apart"
    if better or worse:
        whole = len(worse) == len(ends)
        answer = "better elsewhere" if better else "peaked" if whole else "worse elsewhere"
    premises = Premises(scores, past)
    facts = chain(*(premises.of((COHORT, own), (COHORT, method)) for method in others.values()))
    if not all(one.met for one in facts):
        answer, worse, better = "not tested here", [], []
    line = {"sweep": of.title, "answer": answer, "within": within}
    return line | {"worse at": worse, "better at": better}


def _students(scores: pd.DataFrame, of: Sweep) -> dict[float, str]:
    """The method at each value, by value; of two, the one that has another name."""
    methods = set(scores["method"])
    swept = [method for method in methods if re.fullmatch(rf"{of.prefix}[\d.]+", method)]
    found = {float(method.removeprefix(of.prefix)): method for method in swept}
    found |= {value: method for method, value in of.named.items() if method in methods}
    return dict(sorted(found.items()))


def _gain(scores: pd.DataFrame, better: str, worse: str) -> Gain:
    """On test images; of no seeds where one of the two was not run."""
    return paired_gain(scores[scores["split"] == "test"], better, worse, "psnr_y")
