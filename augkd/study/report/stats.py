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
    table = gains.unstack("seed")
    sets = table.index.get_level_values("dataset")
    names = sorted(set(sets))
    arrays = [table.to_numpy(dtype=float)[sets == name] for name in names]
    seeds = arrays[0].shape[1]
    mean = float(np.mean([array.mean() for array in arrays]))
    draws = _draw(arrays, resamples)
    low, high = (float("nan"),) * 2
    if len(draws):
        low, high = (float(edge) for edge in np.quantile(draws, [0.025, 0.975]))
    images = sum(len(array) for array in arrays)
    return Gain(mean, low, high, images, seeds, tuple(map(str, names)), draws)


def _keyed(rows: pd.DataFrame) -> pd.DataFrame:
    """Values as a table: (dataset, image) by seed."""
    twice = rows.duplicated(PAIR)
    if twice.any():
        dataset, image, seed = rows.loc[twice, PAIR].iloc[0]
        raise UserError(
            f"{_name(rows)} has two scores for image '{image}' of {dataset}, seed {seed}: "
            "choose one cohort, network, scale, split and metric"
        )
    return rows.set_index(PAIR)["value"].unstack("seed").sort_index()


def _fixed(table: pd.DataFrame) -> bool:
    return len(table.columns) == 1 and bool((table.columns == FIXED).all())


def _name(rows: pd.DataFrame) -> str:
    return " and ".join(f"'{method}'" for method in rows["method"].unique())


def _draw(arrays: list[Array], resamples: int) -> Array:
    """Means of resampled (images, seeds) arrays, one array a dataset; empty for a lone number."""
    seeds = arrays[0].shape[1]
    shares = _shares(tuple(len(array) for array in arrays), seeds, resamples)
    if not shares:
        return np.empty(0)
    total = sum(share @ array for share, array in zip(shares, arrays, strict=False))
    value: Array = (np.asarray(total) * shares[-1]).sum(axis=1) / len(arrays)
    return value


@lru_cache(maxsize=32)
def _shares(sizes: tuple[int, ...], seeds: int, resamples: int) -> tuple[Array, ...]:
    """What share of each resample each image and each seed has: (resamples, units) arrays.

    One a dataset, then one of seeds; none where there is nothing to resample. A resampled mean is
    a product with them. scipy resamples the *indices* of images and seeds, as independent samples;
    since it starts from the same state, comparisons of one shape have the same resamples, which
    are drawn once: a report makes hundreds.
    """
    units = (*sizes, seeds)
    samples = [np.arange(size) for size in units if size > 1]
    if not samples:
        return ()

    def shares(*drawn: NDArray[np.int64], axis: int = -1) -> Array:
        return np.concatenate([_count(np.atleast_2d(one)) for one in drawn], axis=1).T

    from scipy.stats import bootstrap  # a second to import: only where it is needed

    result: Any = bootstrap(
        samples,
        shares,
        n_resamples=resamples,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    ends = np.cumsum([len(sample) for sample in samples])[:-1]
    several = iter(np.split(result.bootstrap_distribution.T, ends, axis=1))
    return tuple(next(several) if size > 1 else np.ones((resamples, 1)) for size in units)


def _count(drawn: NDArray[np.int64]) -> Array:
    """How often each of n units was drawn, over n: (resamples, n)."""
    number, size = drawn.shape
    offset = size * np.arange(number)[:, None]
    counts = np.bincount((drawn + offset).ravel(), minlength=size * number)
    shares: Array = counts.reshape(drawn.shape) / size
    return shares
