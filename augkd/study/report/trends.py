"""Which way gains go: with the length of training, students' width, the number of images.

A trend is made of contrasts (two methods) at several places (steps, channels, images). At each
place there are paired gains in dB of PSNR-Y; which way a contrast goes is asked of the gain at the
last place less that at the first, paired by seed and image too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from augkd.study.paper import load_table, select
from augkd.study.params import Cohort, Study
from augkd.study.report.rows import trained_scores
from augkd.study.report.stats import PROTOCOL, differences, estimate
from augkd.study.report.style import METHOD_NAMES

CONTRASTS = (("augkd", "kd"), ("augkd_1", "kd_1"), ("augkd_1", "scratch"), ("kd_1", "scratch"))
"""Of which a trend is made, better and worse; KD and AugKD at each of the paper's unknown λ."""
TITLES = {"length": "steps", "width": "channels of the student", "images": "training images"}
CENTRAL = "central_x2"
Gains = Mapping[float, pd.Series]  # at each place, by (dataset, image, seed), in dB


def gains(study: Study, trend: str, better: str, worse: str) -> Gains:
    """A contrast's gains at every place of a trend; none where the budget does not train it."""
    if trend == "length":
        return dict(_along_curves(study, better, worse))
    found = {}
    for name in study.trained():
        cohort = study.cohort(name)
        if cohort.trend and (cohort.trend == trend or not cohort.training_images):
            place = _place(study, cohort, trend)
            scores = trained_scores(study, name).query("split == 'test' and metric == 'psnr_y'")
            a, b = (scores[scores["method"] == method] for method in (better, worse))
            if place is not None:
                found[place] = differences(a, b, "psnr_y")
    return dict(sorted(found.items()))


def _place(study: Study, cohort: Cohort, trend: str) -> float | None:
    """Where a cohort lies along a trend; None if it is of another one."""
    whole = study.params.cohorts["width_16_x2"].student
    if trend == "width":
        return float(study.size(cohort.network, cohort.student)["channels"])
    if cohort.student != whole:
        return None
    index = pd.read_csv(study.folder("prepare") / "train" / "index.csv")
    return float(cohort.training_images or index["image"].nunique())


def _along_curves(study: Study, better: str, worse: str) -> Iterator[tuple[float, pd.Series]]:
    """Of averaged weights on the centres of test photographs, which count as one image."""
    folders = (study.folder("distil", part) for part in study.parts(CENTRAL))
    curves = pd.concat([pd.read_csv(folder / "curves/validation.csv") for folder in folders])
    curves[["method", "seed"]] = curves["member"].str.rsplit("-", n=1, expand=True)
    steps: Any = curves[curves["step"] > 0].groupby("step")
    for step, rows in steps:
        table = rows.pivot_table("value", "seed", "method")
        gain = (table[better] - table[worse]).dropna()
        index = pd.MultiIndex.from_product([["photographs"], ["centres"], gain.index])
        yield float(step), gain.set_axis(index.set_names(["dataset", "image", "seed"]))


def trend_table(study: Study, trend: str) -> pd.DataFrame:
    """Every contrast's gain at every place: contrast, place, gain, low, high, seeds."""
    rows = []
    for better, worse in CONTRASTS:
        for place, each in gains(study, trend, better, worse).items():
            known = _mean(each)
            rows.append((contrast(better, worse), place, *known, each.index.unique("seed").size))
    return pd.DataFrame(rows, columns=["contrast", "place", "gain", "low", "high", "seeds"])


def directions(study: Study, trend: str) -> pd.DataFrame:
    """Which way each contrast goes: contrast, from, to, change, low, high, goes."""
    rows = []
    for better, worse in CONTRASTS:
        each = gains(study, trend, better, worse)
        if len(each) < 2:
            continue
        first, last = min(each), max(each)
        change, low, high = _mean((each[last] - each[first]).dropna())
        goes = "up" if low > 0 else "down" if high < 0 else "cannot be told"
        rows.append((contrast(better, worse), first, last, change, low, high, goes))
    columns = ["contrast", "from", "to", "change", "low", "high", "goes"]
    return pd.DataFrame(rows, columns=columns)


def _mean(gains: pd.Series) -> tuple[float, float, float]:
    """Mean and 95 % interval; of one image over seeds alone."""
    if gains.index.unique("image").size > 1:
        return estimate(gains)[:3]
    mean, freedom = float(gains.mean()), max(len(gains) - 1, 1)
    reach = float(stdtrit(freedom, 1 - PROTOCOL["error"] / 2) * gains.sem())
    return mean, mean - reach, mean + reach


def contrast(better: str, worse: str) -> str:
    return f"{METHOD_NAMES[better]} − {METHOD_NAMES[worse]}"


def paper_gain(better: str, worse: str) -> float:
    """The paper's, EDSR ×2, mean over its test sets: of Table 2; nan where it has no such row."""
    table = select(load_table(2), network="edsr", scale=2, metric="psnr_y")
    means: Any = table.groupby("method")["value"].mean()
    names = [name.removesuffix("_1") for name in (better, worse)]
    return float(means.get(names[0], np.nan) - means.get(names[1], np.nan))
