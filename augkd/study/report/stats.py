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
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from augkd.errors import UserError

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
        tail = (1 - confidence) / 2
        return _quantiles(self.draws, tail, 1 - tail)


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
    pair = [scores[scores["method"] == method] for method in (better, worse)]
    for method, rows in zip((better, worse), pair, strict=True):
        if rows.empty:
            raise UserError(f"no {metric} scores of '{method}': score it first")
    return bootstrap_gain(differences(pair[0], pair[1], metric), resamples)


def differences(better: pd.DataFrame, worse: pd.DataFrame, metric: str) -> pd.Series:
    """The gain of each (dataset, image, seed) that both were scored with.

    Seeds that only one of the two was trained with are left out; images must agree.

    Raises:
        UserError: two scores for one key, an image that only one has, no seed in common, or a
            value that is not finite.
    """
    a, b = _keyed(better), _keyed(worse)
    names = [" and ".join(f"'{m}'" for m in rows["method"].unique()) for rows in (better, worse)]
    if list(a) == [FIXED] != list(b):
        a = pd.DataFrame(dict.fromkeys(b, a[FIXED]))
    elif list(b) == [FIXED] != list(a):
        b = pd.DataFrame(dict.fromkeys(a, b[FIXED]))
    seeds = sorted(set(a.columns) & set(b.columns))
    if not seeds:
        raise UserError(
            f"{names[0]} has seeds {list(a)}, {names[1]} {list(b)}: "
            "train both with a common seed to pair them"
        )
    for one, other, name in ((a, b, names[1]), (b, a, names[0])):
        missing = one.index.difference(other.index)
        if len(missing):
            dataset, image = missing[0]
            raise UserError(
                f"{name} has no {metric} of image '{image}' of {dataset} "
                f"({len(missing)} missing): score both methods on the same images"
            )
    table = a[seeds] - b.loc[a.index, seeds]
    table.columns.name = "seed"
    gains = pd.Series((-table if metric in LOWER_IS_BETTER else table).stack())
    broken = gains.index[~np.isfinite(gains)]
    if len(broken):
        dataset, image, seed = broken[0]
        raise UserError(
            f"{' and '.join(names)} have no finite difference in {metric} for image "
            f"'{image}' of {dataset}, seed {seed} (a score is missing or infinite): "
            "score it again or leave the image out"
        )
    return gains


def bootstrap_gain(gains: pd.Series, resamples: int = 4999) -> Gain:
    """The mean of paired differences, as ``differences`` gives them, and its interval."""
    table = gains.unstack("seed")
    sets = table.index.get_level_values("dataset")
    names = sorted(set(sets))
    arrays = [table.to_numpy(dtype=float)[sets == name] for name in names]
    units = (*map(len, arrays), table.shape[1])
    draws = np.empty(0)  # a lone number has nothing to resample
    if max(units) > 1:
        *images, seeds = _shares(units, resamples)
        total = sum(share @ array for share, array in zip(images, arrays, strict=True))
        draws = (np.asarray(total) * seeds).sum(axis=1) / len(arrays)
    mean = float(np.mean([array.mean() for array in arrays]))
    low, high = _quantiles(draws, 0.025, 0.975)
    return Gain(mean, low, high, len(table), table.shape[1], tuple(map(str, names)), draws)


def _keyed(rows: pd.DataFrame) -> pd.DataFrame:
    """Values as a table: (dataset, image) by seed."""
    twice = rows[rows.duplicated(PAIR)]
    if len(twice):
        dataset, image, seed = twice[PAIR].iloc[0]
        raise UserError(
            f"'{twice['method'].iloc[0]}' has two scores for image '{image}' of {dataset}, "
            f"seed {seed}: choose one cohort, network, scale, split and metric"
        )
    return rows.set_index(PAIR)["value"].unstack("seed").sort_index()


def _quantiles(draws: Array, *at: float) -> tuple[float, float]:
    low, high = np.quantile(draws, at) if len(draws) else (np.nan, np.nan)
    return float(low), float(high)


@lru_cache(maxsize=32)
def _shares(units: tuple[int, ...], resamples: int) -> list[Array]:
    """What share of each resample each image (of every dataset) and each seed has.

    Arrays (resamples, n), one for each number n of ``units``: a resampled mean is a product with
    them. Each is drawn with replacement; a lone unit is in every resample. Since all start from
    the same state, comparisons of one shape have the same resamples: a report makes hundreds.
    """
    rng = np.random.default_rng(0)
    shares = []
    for n in units:
        drawn = rng.integers(0, n, (resamples, n)) if n > 1 else np.zeros((resamples, 1), int)
        rows = n * np.arange(resamples)[:, None]
        counts = np.bincount((drawn + rows).ravel(), minlength=n * resamples)
        shares.append(counts.reshape(resamples, n) / n)
    return shares
