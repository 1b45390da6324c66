"""How sure a difference between two methods is: paired, bootstrapped over images and seeds.

Two methods are compared on the same images and, being taught in one cohort, with the same
batches: pairing by (image, seed) removes what both share. The gain is the mean over images,
then over datasets, so that a set of a hundred images does not drown one of five.

The interval resamples images (within each dataset) and seeds (over all datasets at once, since
one trained student answers for all of them), independently: the two-way or "pigeonhole"
bootstrap (Owen, Annals of Applied Statistics 2007). It is a percentile interval, and no better
than its sample: with one seed it says nothing about another training, and with three, where
training is what varies most, it covers the truth nearer three times in four than nineteen in
twenty.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from augkd.errors import UserError

__all__ = ["Gain", "bootstrap_gain", "differences", "paired_gain"]

LOWER_IS_BETTER = ("niqe",)
FIXED = -1  # the seed of what is not trained here: teacher, bicubic
PAIR = ["dataset", "image", "seed"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """A mean paired difference in the metric's unit, positive where ``better`` is better.

    Attributes:
        mean: over images, then datasets, then seeds.
        low, high: the 95 % interval; nan where there is nothing to resample.
        images, seeds: how many of each were paired.
        datasets: their names.
        draws: the bootstrap distribution.
    """

    mean: float
    low: float
    high: float
    images: int
    seeds: int
    datasets: tuple[str, ...]
    draws: Array = field(repr=False, compare=False)

    def interval(self, confidence: float) -> tuple[float, float]:
        """The percentile interval at another confidence, from the same draws."""
        if not len(self.draws):
            return float("nan"), float("nan")
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.draws, [tail, 1 - tail])
        return float(low), float(high)


def paired_gain(
    scores: pd.DataFrame, better: str, worse: str, metric: str, resamples: int = 4999
) -> Gain:
    """By how much ``better`` beats ``worse`` in one metric.

    Args:
        scores: tidy rows (method, seed, dataset, image, metric, value) of one cohort, network,
            scale and split, with one or more datasets. Seed -1 stands for every seed.
        better, worse: names of methods.
        metric: e.g. psnr_y; for niqe, where lower is better, the sign is turned.
        resamples: of the bootstrap.

    Raises:
        UserError: a method is absent, or the two cannot be paired.
    """
    scores = scores[scores["metric"] == metric]
    pair = []
    for method in (better, worse):
        rows = scores[scores["method"] == method]
        if rows.empty:
            raise UserError(f"no {metric} scores of '{method}': score it first")
        pair.append(rows)
    return bootstrap_gain(differences(pair[0], pair[1], metric), resamples)


def differences(better: pd.DataFrame, worse: pd.DataFrame, metric: str) -> pd.Series:
    """The gain of each (dataset, image, seed) that both were scored with.

    Seeds that only one of the two was trained with are left out; images must agree.

    Raises:
        UserError: two scores for one key, an image that only one has, no seed in common, or a
            value that is not finite.
    """
    a, b = _keyed(better), _keyed(worse)
    if _fixed(a) and not _fixed(b):
        a = pd.DataFrame(dict.fromkeys(b, a[FIXED]))
    elif _fixed(b) and not _fixed(a):
        b = pd.DataFrame(dict.fromkeys(a, b[FIXED]))
    seeds = sorted(set(a.columns) & set(b.columns))
    if not seeds:
        raise UserError(
            f"{_name(better)} has seeds {list(a.columns)}, {_name(worse)} {list(b.columns)}: "
            "train both with a common seed to pair them"
        )
    for one, other, name in ((a, b, _name(worse)), (b, a, _name(better))):
        missing = one.index.difference(other.index)
        if len(missing):
            dataset, image = missing[0]
            raise UserError(
                f"{name} has no {metric} of image '{image}' of {dataset} "
                f"({len(missing)} missing): score both methods on the same images"
            )
    gains = a[seeds] - b.loc[a.index, seeds]
    if metric in LOWER_IS_BETTER:
        gains = -gains
    gains.columns.name = "seed"
    long = pd.Series(gains.stack())
    broken = long.index[~np.isfinite(long)]
    if len(broken):
        dataset, image, seed = broken[0]
        raise UserError(
            f"{_name(better)} and {_name(worse)} have no finite difference in {metric} for image "
            f"'{image}' of {dataset}, seed {seed} (a score is missing or infinite): "
            "score it again or leave the image out"
        )
    return long


def bootstrap_gain(gains: pd.Series, resamples: int = 4999) -> Gain:
    """The mean of paired differences, as ``differences`` gives them, and its interval."""
    tables = {str(name): part.unstack("seed") for name, part in gains.groupby(level="dataset")}
    arrays = [table.to_numpy(dtype=float) for table in tables.values()]
    seeds = arrays[0].shape[1]
    mean = float(np.mean([array.mean() for array in arrays]))
    draws = _draw(arrays, resamples)
    low, high = (float("nan"),) * 2
    if len(draws):
        low, high = (float(edge) for edge in np.quantile(draws, [0.025, 0.975]))
    images = sum(len(array) for array in arrays)
    return Gain(mean, low, high, images, seeds, tuple(tables), draws)


def _keyed(rows: pd.DataFrame) -> pd.DataFrame:
    """Values as a table: (dataset, image) by seed."""
    twice = rows[rows.duplicated(PAIR)]
    if len(twice):
        dataset, image, seed = twice[PAIR].iloc[0]
        raise UserError(
            f"{_name(rows)} has two scores for image '{image}' of {dataset}, seed {seed}: "
            "choose one cohort, network, scale, split and metric"
        )
    return rows.set_index(PAIR)["value"].unstack("seed").sort_index()


def _fixed(table: pd.DataFrame) -> bool:
    return len(table.columns) == 1 and bool((table.columns == FIXED).all())


def _name(rows: pd.DataFrame) -> str:
    return " and ".join(f"'{method}'" for method in rows["method"].unique())


def _shares(drawn: NDArray[np.int64], size: int) -> Array:
    """What share of a resample each of ``size`` units has: (resamples, size)."""
    drawn = np.atleast_2d(drawn)
    offset = size * np.arange(len(drawn))[:, None]
    counts = np.bincount((drawn + offset).ravel(), minlength=size * len(drawn))
    return counts.reshape(len(drawn), size) / size


def _draw(arrays: list[Array], resamples: int) -> Array:
    """Means of resampled (images, seeds) arrays, one array a dataset; empty for a lone number.

    scipy resamples the *indices* of images and seeds, as independent samples. A resampled mean
    over images is then a product with how often each was drawn.
    """
    samples = [np.arange(len(array)) for array in arrays if len(array) > 1]
    seeds = arrays[0].shape[1]
    if seeds > 1:
        samples.append(np.arange(seeds))
    if not samples:
        return np.empty(0)

    def mean(*drawn: NDArray[np.int64], axis: int = -1) -> Array:
        rest = list(drawn)
        total = np.zeros((1, seeds))
        for array in arrays:
            total = total + (_shares(rest.pop(0), len(array)) @ array if len(array) > 1 else array)
        if seeds > 1:
            total = np.take_along_axis(total, np.atleast_2d(rest.pop(0)), axis=1)
        value: Array = total.mean(axis=1) / len(arrays)
        return value if drawn[0].ndim > 1 else value[0]

    from scipy.stats import bootstrap  # a second to import: only where it is needed

    result: Any = bootstrap(
        samples,
        mean,
        n_resamples=resamples,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    draws: Array = result.bootstrap_distribution
    return draws
