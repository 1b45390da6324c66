"""How sure a difference between two methods is: paired, bootstrapped over images and seeds.

Two methods are compared on the same images and, being taught in one cohort, with the same
batches: pairing by (image, seed) removes what both share. The gain is the mean over images,
then over datasets, so that a set of a hundred images does not drown one of five.

The interval resamples images (within each dataset) and seeds (over all datasets at once, since
one trained student answers for all of them), independently: the two-way or "pigeonhole"
bootstrap (Owen, Annals of Applied Statistics 2007). A percentile interval is no better than its
sample: of one seed it says nothing about another training; of three, where training varies most,
it covers the truth nearer three times in four than nineteen in twenty.
"""

from functools import lru_cache
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd

from augkd.errors import UserError

LOWER_IS_BETTER = ("niqe",)
FIXED = -1  # the seed of what is not trained here: teacher, bicubic


class Gain(NamedTuple):
    """A mean paired difference in the metric's unit, positive where ``better`` is better.

    Attributes:
        mean: over images, then datasets, then seeds.
        low, high: the 95 % interval; nan where there is nothing to resample.
        images, seeds: how many of each were paired.
        datasets: their names.
        draws: the bootstrap distribution.
    """

    mean: float = nan
    low: float = nan
    high: float = nan
    images: int = 0
    seeds: int = 0
    datasets: tuple[str, ...] = ()
    draws: np.ndarray = np.empty(0)


def paired_gain(scores: pd.DataFrame, better: str, worse: str, metric: str) -> Gain:
    """By how much one method beats another in one metric (NIQE: by how much it is lower).

    Args:
        scores: tidy rows (method, seed, dataset, image, metric, value) of one cohort, network,
            scale and split, with one or more datasets. Seed -1 stands for every seed.

    Raises:
        UserError: a method is absent, or the two cannot be paired (``differences``).
    """
    scores = scores[scores["metric"] == metric]
    if absent := {better, worse}.difference(scores["method"]):
        raise UserError(f"no {metric} scores of '{absent.pop()}': score it first")
    a, b = (scores[scores["method"] == method] for method in (better, worse))
    return bootstrap_gain(differences(a, b, metric))


def differences(better: pd.DataFrame, worse: pd.DataFrame, metric: str) -> pd.Series:
    """The gain of each (dataset, image, seed); seeds that only one was trained with are left out.

    Raises:
        UserError: two scores for one key, an image that only one has, no seed in common, or a
            value that is not finite.
    """
    a, b = _by_image(better), _by_image(worse)
    names = [f"'{' and '.join(rows['method'].unique())}'" for rows in (better, worse)]
    if list(a) == [FIXED]:
        a = pd.DataFrame(dict.fromkeys(b, a[FIXED]))
    if list(b) == [FIXED]:
        b = pd.DataFrame(dict.fromkeys(a, b[FIXED]))
    if not (seeds := sorted({*a} & {*b})):
        raise UserError(f"{names[0]} has seeds {[*a]}, {names[1]} {[*b]}: train both with one")
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


def _by_image(rows: pd.DataFrame) -> pd.DataFrame:
    """Values as a table: (dataset, image) by seed."""
    keys = ["dataset", "image", "seed"]
    try:
        return rows.pivot(index=keys[:2], columns="seed", values="value")
    except ValueError:
        twice = rows.loc[rows.duplicated(keys), ["method", *keys]]
        raise UserError(
            "'{0}' has two scores for image '{2}' of {1}, seed {3}: choose one cohort, network, "
            "scale, split and metric".format(*twice.iloc[0])
        ) from None


def bootstrap_gain(gains: pd.Series, resamples: int = 4999) -> Gain:
    """The mean of paired differences, as ``differences`` gives them, and its interval."""
    table = gains.unstack("seed")
    arrays = {str(name): part.to_numpy(dtype=float) for name, part in table.groupby("dataset")}
    units = (*map(len, arrays.values()), table.shape[1])
    draws = np.empty(0)  # a lone number has nothing to resample
    if max(units) > 1:
        *images, seeds = _shares(units, resamples)
        total = sum(share @ array for share, array in zip(images, arrays.values(), strict=True))
        draws = (np.asarray(total) * seeds).sum(axis=1) / len(arrays)
    mean = float(np.mean([array.mean() for array in arrays.values()]))
    return Gain(mean, *interval(draws, 0.05), *table.shape, tuple(arrays), draws)


def interval(draws: np.ndarray, error: float) -> tuple[float, float]:
    """The percentile interval of a distribution, which misses with probability ``error``."""
    low, high = np.quantile(draws, (error / 2, 1 - error / 2)) if len(draws) else (nan, nan)
    return float(low), float(high)


@lru_cache(maxsize=32)
def _shares(units: tuple[int, ...], resamples: int) -> list[np.ndarray]:
    """What share of each resample each image (of every dataset) and each seed has.

    Arrays (resamples, n), one for each number n of ``units``: a resampled mean is a product with
    them. Each is drawn with replacement; a lone unit is in every resample. Since all start from
    the same state, comparisons of one shape have the same resamples: a report makes hundreds.
    """
    rng = np.random.default_rng(0)
    shares = []
    for n in units:
        drawn = rng.integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n * resamples)
        shares.append(counts.reshape(resamples, n) / n)
    return shares
