"""Contrasts of the control cohort: what AugKD's gain is made of; and how it varies with weights."""

from dataclasses import asdict, dataclass
from importlib.resources import files
from math import isnan, nan

import numpy as np
import pandas as pd
import yaml

from augkd.study.report.stats import Gain, paired_gain
from augkd.study.report.style import METHOD_NAMES


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
        return f"{METHOD_NAMES[self.better]} − {METHOD_NAMES[self.worse]}"


_LISTED = files(__package__).joinpath("controls.yaml").read_text(encoding="utf-8")
CONTRASTS = tuple(Contrast(**entry) for entry in yaml.safe_load(_LISTED))
"""What the page of controls asks, in its order."""


def contrasts(scores: pd.DataFrame, metric: str = "psnr_y") -> pd.DataFrame:
    """Every contrast's gain on the test images of a control cohort, with its 95 % interval.

    Args:
        scores: tidy rows of one cohort; none where it was not run.

    Returns:
        topic, label, better, worse, question, gain, low, high, verdict (more, less, not told
        apart, not run), seeds, images, meaning; in the metric's unit.
    """
    scores = _test(scores, metric)
    gains = [_gain(scores, contrast.better, contrast.worse, metric) for contrast in CONTRASTS]
    rows = [
        asdict(contrast) | {"label": contrast.label, "verdict": verdict(gain)} | _cells(gain)
        for contrast, gain in zip(CONTRASTS, gains, strict=True)
    ]
    return pd.DataFrame(rows)[
        ["topic", "label", "better", "worse", "question", "gain", "low", "high"]
        + ["verdict", "seeds", "images", "meaning"]
    ]


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
    named: dict[str, float]


WEIGHTS = (
    Sweep("aug_", "λ of auxiliary images", 0.2, {"augkd": 0.2}),
    Sweep("kd_", "λ of the teacher's answer", 0.2, {"augkd": 0.2}),
    Sweep("f_", "probability of F's operations", 0.3, {"augkd": 0.3, "augkd_no_f": 0.0}),
)
"""The three numbers that the paper does not give, and this study's defaults."""


def sweep(scores: pd.DataFrame, of: Sweep, metric: str = "psnr_y") -> pd.DataFrame:
    """Gains over KD along a sweep: value, method, gain, low, high, seeds; by value."""
    scores = _test(scores, metric)
    rows = [
        {"value": value, "method": method, **_cells(gain)}
        for value, method in _students(scores, of).items()
        if (gain := _gain(scores, method, "kd", metric))
    ]
    columns = ["value", "method", "gain", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values("value", ignore_index=True)


def spread(scores: pd.DataFrame, of: Sweep, metric: str = "psnr_y") -> dict[str, object]:
    """Flat or peaked: the default against every other value of its sweep.

    The intervals are simultaneous: 1 - 0.05/m each among m others. ``flat`` where none of them
    lies on one side of zero, ``peaked`` where the default beats every other, ``better
    elsewhere`` where another beats it, and ``worse elsewhere`` where it beats some. ``within`` is
    how far the widest interval reaches from zero: a flat curve is known to be flat only to that.
    """
    scores = _test(scores, metric)
    others = _students(scores, of)
    own = others.pop(of.default, None)
    if own is None or not others:
        return {"sweep": of.title, "answer": "not run"}
    ends = {}
    for value, method in others.items():
        gain = _gain(scores, own, method, metric)
        assert gain is not None  # both have rows
        ends[value] = gain.interval(1 - 0.05 / len(others))
    worse = sorted(value for value, (low, _) in ends.items() if low > 0)
    better = sorted(value for value, (_, high) in ends.items() if high < 0)
    if any(isnan(low) for low, _ in ends.values()):
        answer = "no interval"
    elif better:
        answer = "better elsewhere"
    elif len(worse) == len(ends):
        answer = "peaked"
    else:
        answer = "worse elsewhere" if worse else "flat"
    within = max(abs(edge) for pair in ends.values() for edge in pair)
    line = {"sweep": of.title, "answer": answer, "within": within}
    return line | {"worse at": worse, "better at": better}


def _students(scores: pd.DataFrame, of: Sweep) -> dict[float, str]:
    """The method at each value; of two, the one that has another name."""
    methods = [str(method) for method in scores["method"].unique()]
    numbers = {m: m.removeprefix(of.prefix) for m in methods if m.startswith(of.prefix)}
    found = {float(n): m for m, n in numbers.items() if n.replace(".", "", 1).isdigit()}
    return found | {value: m for m, value in of.named.items() if m in methods}


def _test(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    return scores[(scores["split"] == "test") & (scores["metric"] == metric)]


def _gain(scores: pd.DataFrame, better: str, worse: str, metric: str) -> Gain | None:
    if not {better, worse} <= set(scores["method"]):
        return None
    return paired_gain(scores, better, worse, metric)


def _cells(gain: Gain | None) -> dict[str, float]:
    gain = gain or Gain(nan, nan, nan, 0, 0, (), np.empty(0))
    cells = {"gain": gain.mean, "low": gain.low, "high": gain.high}
    return cells | {"seeds": gain.seeds, "images": gain.images}
