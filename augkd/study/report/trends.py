"""Which way gains go: with the length of training, students' width, the number of images.

A trend is made of contrasts (two methods) at several places (steps, channels, images). At each
place there are paired gains in dB of PSNR-Y; which way a contrast goes is asked of the gain at the
last place less that at the first, paired by seed and image too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from augkd.study.paper import load_table, select
from augkd.study.params import NAMES, Study
from augkd.study.report.rows import trained_scores
from augkd.study.report.stats import FIXED, PROTOCOL, Gain, correct, differences, doubts, estimate
from augkd.study.report.style import contrast

CONTRASTS = (("augkd", "kd"), ("augkd_1", "kd_1"), ("augkd_1", "scratch"), ("kd_1", "scratch"))
"""Of which a trend is made, better and worse; KD and AugKD at each of the paper's unknown λ."""
TITLES = {"length": "steps", "width": "channels of the student", "images": "training images"}
CENTRAL = "central_x2"
Gains = Mapping[float, pd.Series]  # at each place, by (dataset, image, seed), in dB


def gains(study: Study, trend: str) -> dict[str, Gains]:
    """Of each contrast, the gains at every place; none where the budget does not train it."""
    found: dict[str, dict[float, pd.Series]] = {contrast(*pair): {} for pair in CONTRASTS}
    if trend == "length":
        values = _along_curves(study)
        for better, worse in CONTRASTS:
            steps: Any = (values[better] - values[worse]).dropna().groupby("step")
            found[contrast(better, worse)] = {step: each.droplevel("step") for step, each in steps}
        return dict(found)
    for place, name in sorted(_places(study, trend)):
        scores = trained_scores(study, name).query("split == 'test' and metric == 'psnr_y'")
        methods: dict[Any, pd.DataFrame] = dict(list(scores.groupby("method")))
        for better, worse in CONTRASTS:
            each = differences(methods[better], methods[worse], "psnr_y")
            found[contrast(better, worse)][place] = each
    return dict(found)


def _places(study: Study, trend: str) -> Iterator[tuple[float, str]]:
    """The cohorts of a trend, and where they lie along it. That of all images is of both."""
    whole = study.params.cohorts["width_16_x2"].student
    for name in study.trained():
        cohort = study.cohort(name)
        if trend == "width" and cohort.trend == trend:
            yield float(study.size(cohort.network, cohort.student)["channels"]), name
        elif trend == "images" and cohort.trend and cohort.student == whole:
            index = pd.read_csv(study.folder("prepare") / "train" / "index.csv", **NAMES)
            yield float(cohort.training_images or index["image"].nunique()), name


def _along_curves(study: Study) -> pd.DataFrame:
    """Values (dB) by (step, dataset, image, seed) and method: of averaged weights on the centres
    of test photographs, which count as one image."""
    folders = (study.folder("distil", part) for part in study.parts(CENTRAL))
    curves = pd.concat([pd.read_csv(folder / "curves/validation.csv") for folder in folders])
    curves[["method", "seed"]] = curves["member"].str.rsplit("-", n=1, expand=True)
    curves = curves[curves["step"] > 0].astype({"step": float})
    curves = curves.assign(dataset="photographs", image="centres")
    index = ["step", "dataset", "image", "seed"]
    return curves.pivot(index=index, columns="method", values="value")


def trend_table(found: Mapping[str, Gains]) -> pd.DataFrame:
    """Every contrast's gain at every place: contrast, place, gain, low, high, seeds."""
    rows = [
        (label, place, *_mean(each)[:3], each.index.unique("seed").size)
        for label, places in found.items()
        for place, each in places.items()
    ]
    return pd.DataFrame(rows, columns=["contrast", "place", "gain", "low", "high", "seeds"])


def directions(found: Mapping[str, Gains], trend: str) -> pd.DataFrame:
    """Which way each contrast goes: contrast, from, to, change, low, high, p (corrected for the
    others of the page), goes. Of a training, the last two thirds: before, it is a speed.
    """
    rows = []
    for label, each in found.items():
        if len(each) < 2:
            continue
        last = max(each)
        first = min(place for place in each if trend != "length" or 3 * place >= last)
        change = _mean((each[last] - each[first]).dropna())
        rows.append({"contrast": label, "from": first, "to": last, "change": change.mean})
        rows[-1] |= {"low": change.low, "high": change.high}
        rows[-1]["p"] = min(map(float, doubts(change._asdict(), 0.0)))
    columns = ["contrast", "from", "to", "change", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    table["p"] = correct(table["p"].astype(float))  # of none too
    told = table["p"] <= PROTOCOL["error"]
    way = table["change"].gt(0).map({True: "up", False: "down"})
    return table.assign(goes=way.where(told, "cannot be told"))


def _mean(gains: pd.Series) -> Gain:
    """Of one image over seeds alone, each as if it were an image."""
    if gains.index.unique("image").size == 1:
        seeds = gains.droplevel("image").rename_axis(index={"seed": "image"})
        gains = pd.concat({FIXED: seeds}, names=["seed"])
    return estimate(gains)


def paper_gain(better: str, worse: str) -> float:
    """The paper's, EDSR ×2, mean over its test sets: of Table 2."""
    table = select(load_table(2), network="edsr", scale=2, metric="psnr_y")
    means = table.groupby("method")["value"].mean()
    return float(means[better.removesuffix("_1")] - means[worse.removesuffix("_1")])
