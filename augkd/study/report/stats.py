"""How sure a difference between two methods is: paired, images and seeds crossed at random.

Two methods are compared on the same images and, being taught in one cohort, with the same
batches: pairing by (image, seed) removes what both share. The gain is the mean over images,
then over datasets, so that a set of a hundred images does not drown one of five, and over seeds.

Images (within datasets, which are fixed), seeds and their interaction are random effects. Their
mean squares give the variance of the mean, Satterthwaite's approximation its degrees of freedom,
Student's t the interval. docs/protocol.md has the formulas, and how well they cover.
"""

from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # scipy.stats takes six times as long to load

from augkd.errors import UserError
from augkd.study.report.style import read_yaml

PROTOCOL: dict[str, Any] = read_yaml("protocol.yaml")
"""The rules by which comparisons are judged."""
LOWER_IS_BETTER = ("niqe",)
FIXED = -1  # the seed of what is not trained here: teacher, bicubic
TINY = 1e-14  # dB: where gains are all alike, their error is that of rounding


class Gain(NamedTuple):
    """A mean paired difference in the metric's unit, positive where ``better`` is better.

    Attributes:
        mean: over images, then datasets, then seeds.
        low, high: the 95 % interval; nan for one seed, which says nothing of another training,
            or where a dataset has one image.
        images, seeds: how many of each were paired; repeats of one training count once.
        datasets: their names.
        error, freedom: standard error of the mean, and its degrees of freedom.
    """

    mean: float = nan
    low: float = nan
    high: float = nan
    images: int = 0
    seeds: int = 0
    datasets: tuple[str, ...] = ()
    error: float = nan
    freedom: float = 1.0

    def interval(self, error: float) -> tuple[float, float]:
        """The interval that misses the truth with probability ``error``."""
        reach = float(stdtrit(self.freedom, 1 - error / 2)) * self.error
        return self.mean - reach, self.mean + reach


def paired_gain(scores: pd.DataFrame, better: str, worse: str, metric: str) -> Gain:
    """By how much one method beats another in one metric (NIQE: by how much it is lower); of no
    seeds where one of them was not scored.

    Args:
        scores: tidy rows (method, seed, dataset, image, metric, value) of one cohort, network,
            scale and split, with one or more datasets. Seed -1 stands for every seed.

    Raises:
        UserError: the two cannot be paired (``differences``).
    """
    scores = scores[scores["metric"] == metric]
    a, b = (scores[scores["method"] == method] for method in (better, worse))
    return Gain() if a.empty or b.empty else estimate(differences(a, b, metric))


def differences(better: pd.DataFrame, worse: pd.DataFrame, metric: str) -> pd.Series:
    """The gain of each (dataset, image, seed); seeds that only one was trained with are left out,
    and those that repeat the trainings of another.

    Raises:
        UserError: an image that only one has, no seed in common, or a value that is not finite.
        ValueError: two scores for one key, as of two cohorts.
    """
    a, b = by_image(better), by_image(worse)
    names = [f"'{' and '.join(rows['method'].unique())}'" for rows in (better, worse)]
    if list(a) == [FIXED]:
        a = pd.DataFrame(dict.fromkeys(b, a[FIXED]))
    if list(b) == [FIXED]:
        b = pd.DataFrame(dict.fromkeys(a, b[FIXED]))
    if not (seeds := sorted({*a} & {*b})):
        raise UserError(f"{names[0]} has seeds {[*a]}, {names[1]} {[*b]}: train both with one")
    seeds = trainings(pd.concat([a[seeds], b[seeds]]))
    table = (a[seeds] - b[seeds]).rename_axis(columns="seed")
    gains = pd.Series((-table if metric in LOWER_IS_BETTER else table).stack())
    if len(broken := gains.index[~np.isfinite(gains)]):
        dataset, image, seed = broken[0]
        name = names[bool(np.isfinite(a[seed].get((dataset, image), nan)))]
        raise UserError(
            f"{name} has no {metric} of image '{image}' of {dataset}, seed {seed}, or one that is "
            "infinite: score both methods on the same images, or leave this one out"
        )
    return gains


def by_image(rows: pd.DataFrame) -> pd.DataFrame:
    """Values of one method and metric as a table: (dataset, image) by seed."""
    return rows.pivot(index=["dataset", "image"], columns="seed", values="value")


def trainings(table: pd.DataFrame) -> list[int]:
    """The seeds of a table by seed, without those whose values are another's: one training."""
    return [*table.T.drop_duplicates().index]


def estimate(gains: pd.Series) -> Gain:
    """The mean of paired differences, as ``differences`` gives them, and its interval."""
    table = gains.unstack("seed")
    arrays = {str(name): part.to_numpy(dtype=float) for name, part in table.groupby("dataset")}
    mean, error, freedom = map(float, crossed([*arrays.values()]))
    if min(map(len, arrays.values())) == 1 or (len(table.columns) == 1 and list(table) != [FIXED]):
        error = nan
    gain = Gain(mean, nan, nan, *table.shape, tuple(arrays), error, freedom)
    low, high = gain.interval(PROTOCOL["error"])
    return gain._replace(low=low, high=high)


def crossed(strata: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error and degrees of freedom, of crossed random effects.

    Args:
        strata: one array (..., images, seeds) a dataset, with the same seeds; leading axes are of
            tables that have nothing to do with one another. Of one seed, the training is given.
    """
    means = np.mean([gains.mean(-2) for gains in strata], axis=0)  # (..., seeds)
    mean, seeds = means.mean(-1), means.shape[-1]
    more = max(seeds - 1, 1)
    images = both = squares = np.zeros_like(mean)
    for gains in strata:
        n = gains.shape[-2]
        image = gains.mean(-1, keepdims=True)
        total = image.mean(-2, keepdims=True)
        rest = gains - image - gains.mean(-2, keepdims=True) + total
        weight = 1 / (max(n - 1, 1) * n * len(strata) ** 2)
        together = weight * (rest**2).sum((-2, -1)) / (more * seeds)
        # no mean square is taken to be smaller than the interaction's, of which it is a part:
        # of two seeds that are alike by chance, an interval would be far too narrow
        alone = np.maximum(weight * ((image - total) ** 2).sum((-2, -1)), together)
        images, both = images + alone, both + together
        squares = squares + (alone**2 + together**2 / more) / max(n - 1, 1)
    seed = np.maximum(((means - mean[..., None]) ** 2).sum(-1) / (more * seeds), both)
    variance = images + seed - both + TINY**2
    return mean, np.sqrt(variance), variance**2 / (squares + seed**2 / more + TINY**4)


def doubts(gains: Any, value: float) -> tuple[Any, Any]:
    """Two-sided p-values that gains are not above, and not below, a value: arrays of their shape.

    One is at most 0.05 exactly where the 95 % interval lies on that side of the value. ``gains``
    has arrays "mean", "error" and "freedom".
    """
    mean, error, freedom = (np.asarray(gains[key], float) for key in ("mean", "error", "freedom"))
    distance = (mean - value) / error
    above, below = (np.minimum(2 * stdtr(freedom, side), 1) for side in (-distance, distance))
    return above, below


def correct(doubts: pd.Series) -> pd.Series:
    """The p-values of a page, corrected for one another; of nan there is nothing to correct."""
    from scipy.stats import false_discovery_control  # here: tables do not wait for it

    known = doubts.dropna()
    corrected = false_discovery_control(known, method=PROTOCOL["correction"])
    return pd.Series(corrected, known.index).reindex(doubts.index)
