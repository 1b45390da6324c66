"""Contrasts of the control cohort: what AugKD's gain is made of; and how it varies with weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import pandas as pd

from augkd.study.report.stats import Gain, paired_gain

__all__ = ["CONTRASTS", "WEIGHTS", "Contrast", "Sweep", "contrasts", "shares", "spread", "sweep"]

CONTROL_NAMES = {
    "scratch": "Scratch",
    "kd": "KD",
    "augkd": "AugKD",
    "augkd_two_step": "AugKD, two updates",
    "augkd_wrong_inverse": "AugKD, wrong inverse",
    "augkd_no_f": "AugKD without F",
    "augkd_cell": "AugKD, same cell for the batch",
    "zoom_out_no_teacher": "Zoom-out without a teacher",
    "kd_two_updates": "KD, two updates",
    "kd_equal_weight": "KD, equal weight",
    "fakd": "FAKD",
    "fakd_detached": "FAKD, gradient cut",
    "csd_features": "CSD (teacher's features)",
    "sliced_init": "Sliced start",
}
"""What the students of the control cohort are called."""


@dataclass(frozen=True)
class Contrast:
    """``better`` less ``worse``: one question, and what an answer means for the paper."""

    topic: str
    better: str
    worse: str
    question: str
    meaning: str

    @property
    def label(self) -> str:
        return f"{CONTROL_NAMES[self.better]} − {CONTROL_NAMES[self.worse]}"


CONTRASTS = (
    Contrast(
        "the whole gain",
        "augkd",
        "kd",
        "What does AugKD gain over KD, by Equation 4 and one update a step?",
        "The gain that the contrasts below take apart.",
    ),
    Contrast(
        "the whole gain",
        "kd",
        "scratch",
        "What does KD alone gain?",
        "Little of it supports the paper's premise that outputs of the teacher alone teach little.",
    ),
    Contrast(
        "extra update",
        "augkd_two_step",
        "augkd",
        "What does the second optimiser step of the predecessor's released code add?",
        "More: results of that code are not those of Equation 4.",
    ),
    Contrast(
        "extra update",
        "kd_two_updates",
        "kd",
        "What does KD gain by twice the updates alone?",
        "More: a method that takes two updates must be compared with KD that does too.",
    ),
    Contrast(
        "extra update",
        "augkd_two_step",
        "kd_two_updates",
        "What is left of the gain at equal numbers of updates?",
        "More: it helps beyond its updates. Not told apart: the updates may be all of it.",
    ),
    Contrast(
        "weight",
        "kd_equal_weight",
        "kd",
        "What does the heavier teacher term of the predecessor's KD baseline do?",
        "More or less: baseline and AugKD of the released options differ in weight, too.",
    ),
    Contrast(
        "weight",
        "augkd",
        "kd_equal_weight",
        "Does AugKD beat KD at the baseline's own weight?",
        "More: its gain is not one of a badly weighted baseline.",
    ),
    Contrast(
        "augmentation",
        "zoom_out_no_teacher",
        "scratch",
        "What do zoomed-out images bring without any teacher, the LR image as their truth?",
        "More: part of the gain is more data, not distillation.",
    ),
    Contrast(
        "augmentation",
        "augkd",
        "zoom_out_no_teacher",
        "What does AugKD bring beyond that data?",
        "More: the teacher's answers on auxiliary images teach something of their own.",
    ),
    Contrast(
        "augmentation",
        "augkd_no_f",
        "kd",
        "What do the auxiliary images bring without label consistency?",
        "More: zooming alone carries a gain.",
    ),
    Contrast(
        "label consistency F",
        "augkd",
        "augkd_no_f",
        "What does label consistency add to them?",
        "More: Section 3.4 earns its place. Not told apart: its part is small at this size.",
    ),
    Contrast(
        "label consistency F",
        "augkd",
        "augkd_wrong_inverse",
        "What does the right inverse gain over repeating F, as the predecessor's code does?",
        "More: that code's results are below those of the method as described.",
    ),
    Contrast(
        "cropping",
        "augkd",
        "augkd_cell",
        "Does a crop of its own for each image beat one cell of a grid for the whole batch?",
        "Not told apart: the paper's silence about where crops lie is harmless.",
    ),
    Contrast(
        "baselines",
        "fakd",
        "fakd_detached",
        "What does FAKD's feature term add? The predecessor's code cuts its gradient off.",
        "More: a baseline run with that code is KD under FAKD's name, and weaker than FAKD.",
    ),
    Contrast(
        "initialisation",
        "sliced_init",
        "scratch",
        "What is a start from the teacher's first channels worth, with no distillation at all?",
        "More: methods must be compared from the same start.",
    ),
    Contrast(
        "initialisation",
        "csd_features",
        "sliced_init",
        "What does CSD add to that start, which it has too?",
        "Not told apart: CSD's gain may be its initialisation.",
    ),
    Contrast(
        "initialisation",
        "augkd",
        "sliced_init",
        "Does AugKD from fresh weights beat that start without a teacher's answers?",
        "Less: copying weights is the better use of this teacher.",
    ),
)
"""What the page of controls asks, in its order."""


def contrasts(scores: pd.DataFrame | None, metric: str = "psnr_y") -> pd.DataFrame:
    """Every contrast's gain on the test images of a control cohort, with its 95 % interval.

    Args:
        scores: rows of one cohort, in the columns of ``augkd.study.score``; None where it was not run.

    Returns:
        topic, label, better, worse, question, gain, low, high, verdict (more, less, not told
        apart, not run), seeds, images, meaning; in the metric's unit.
    """
    scores = _test(scores, metric)
    rows = []
    for contrast in CONTRASTS:
        gain = _gain(scores, contrast.better, contrast.worse, metric)
        rows.append(
            {
                "topic": contrast.topic,
                "label": contrast.label,
                "better": contrast.better,
                "worse": contrast.worse,
                "question": contrast.question,
                **_cells(gain),
                "verdict": verdict(gain),
                "seeds": gain.seeds if gain else 0,
                "images": gain.images if gain else 0,
                "meaning": contrast.meaning,
            }
        )
    return pd.DataFrame(rows)


def verdict(gain: Gain | None) -> str:
    """more, less, or not told apart: by whether the interval lies on one side of zero."""
    if gain is None:
        return "not run"
    if isnan(gain.low):
        return "no interval"
    return "more" if gain.low > 0 else "less" if gain.high < 0 else "not told apart"


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Each contrast's gain over that of AugKD over KD, in percent: change, share, verdict.

    Empty where that gain is not above zero: a share of nothing means nothing.
    """
    whole = table[(table["better"] == "augkd") & (table["worse"] == "kd")]
    columns = ["change", "share (%)", "verdict"]
    if whole.empty or whole["verdict"].iloc[0] != "more":
        return pd.DataFrame(columns=columns)
    parts = table[table["gain"].notna()].drop(index=whole.index)
    share = (100 * parts["gain"] / whole["gain"].iloc[0]).round(0)
    found = zip(parts["label"], share, parts["verdict"], strict=True)
    return pd.DataFrame(found, columns=columns)


# --- weights


@dataclass(frozen=True)
class Sweep:
    """Students that differ in one number, ``prefix`` and the number; ``named`` have other names."""

    prefix: str
    title: str
    default: float
    named: tuple[tuple[str, float], ...]


WEIGHTS = (
    Sweep("aug_", "λ of auxiliary images", 0.2, (("augkd", 0.2),)),
    Sweep("kd_", "λ of the teacher's answer", 0.2, (("augkd", 0.2),)),
    Sweep("f_", "probability of F's operations", 0.3, (("augkd", 0.3), ("augkd_no_f", 0.0))),
)
"""The three numbers that the paper does not give, and this study's defaults."""


def sweep(scores: pd.DataFrame | None, of: Sweep, metric: str = "psnr_y") -> pd.DataFrame:
    """Gains over KD along a sweep: value, method, gain, low, high, seeds, images; by value."""
    scores = _test(scores, metric)
    rows = [
        {"value": value, "method": method, **_cells(gain), "seeds": gain.seeds}
        for method, value in _values(scores, of).items()
        if (gain := _gain(scores, method, "kd", metric))
    ]
    columns = ["value", "method", "gain", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values("value", ignore_index=True)


def spread(scores: pd.DataFrame | None, of: Sweep, metric: str = "psnr_y") -> dict[str, object]:
    """Flat or peaked: the default against every other value of its sweep.

    The intervals are simultaneous: 1 - 0.05/m each among m others. ``flat`` where none of them
    lies on one side of zero, ``peaked`` where the default beats every other, ``better
    elsewhere`` where another beats it, and ``worse elsewhere`` where it beats some. ``within`` is
    how far the widest interval reaches from zero: a flat curve is known to be flat only to that.
    """
    scores = _test(scores, metric)
    values = _values(scores, of)
    own = next((method for method, value in values.items() if value == of.default), None)
    others = {value: method for method, value in values.items() if value != of.default}
    if own is None or not others:
        return {"sweep": of.title, "answer": "not run"}
    ends = {}
    for value, method in others.items():
        gain = _gain(scores, own, method, metric)
        assert gain is not None  # both have rows
        ends[value] = gain.interval(1 - 0.05 / len(others))
    if any(isnan(low) for low, _ in ends.values()):
        answer = "no interval"
    elif any(high < 0 for _, high in ends.values()):
        answer = "better elsewhere"
    elif all(low > 0 for low, _ in ends.values()):
        answer = "peaked"
    else:
        answer = "worse elsewhere" if any(low > 0 for low, _ in ends.values()) else "flat"
    width = max(abs(edge) for pair in ends.values() for edge in pair)
    above = [value for value, (low, _) in ends.items() if low > 0]
    below = [value for value, (_, high) in ends.items() if high < 0]
    return {
        "sweep": of.title,
        "answer": answer,
        "within": width,
        "worse at": sorted(above),
        "better at": sorted(below),
    }


def _values(scores: pd.DataFrame, of: Sweep) -> dict[str, float]:
    found = {}
    for method in scores["method"].unique():
        number = str(method).removeprefix(of.prefix)
        if number != method and number.replace(".", "", 1).isdigit():
            found[str(method)] = float(number)
    named = {name: value for name, value in of.named if (scores["method"] == name).any()}
    return {m: v for m, v in found.items() if v not in named.values()} | named


def _test(scores: pd.DataFrame | None, metric: str) -> pd.DataFrame:
    if scores is None:
        return pd.DataFrame({"method": [], "split": [], "metric": []})
    return scores[(scores["split"] == "test") & (scores["metric"] == metric)]


def _gain(scores: pd.DataFrame, better: str, worse: str, metric: str) -> Gain | None:
    pair: Sequence[str] = (better, worse)
    if not set(pair) <= set(scores["method"]):
        return None
    return paired_gain(scores[scores["method"].isin(pair)], better, worse, metric)


def _cells(gain: Gain | None) -> dict[str, float]:
    nan = float("nan")
    values = (gain.mean, gain.low, gain.high) if gain else (nan, nan, nan)
    return dict(zip(("gain", "low", "high"), values, strict=True))
