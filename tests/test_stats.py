"""Paired gains: exact where the answer is known, honest where it is drawn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from augkd.errors import UserError
from augkd.study.report.stats import Gain, bootstrap_gain, differences, interval, paired_gain


def scores(
    gains: np.ndarray, base: np.ndarray | None = None, dataset: str = "a", metric: str = "psnr_y"
) -> pd.DataFrame:
    """Rows of two methods, "new" above "old" by ``gains`` (images, seeds)."""
    base = np.full(gains.shape, 30.0) if base is None else base
    rows = [
        (method, seed, f"i{image}", base[image, seed] + above[image, seed])
        for method, above in (("new", gains), ("old", 0 * gains))
        for image, seed in np.ndindex(gains.shape)
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "image", "value"])
    return table.assign(dataset=dataset, metric=metric)


def gain_of(table: pd.DataFrame, better: str = "new", worse: str = "old") -> Gain:
    return paired_gain(table, better, worse, str(table["metric"].iloc[0]))


def test_equal_differences_leave_no_doubt() -> None:
    noise = np.random.default_rng(0).normal(30, 5, (6, 3))
    gain = gain_of(scores(np.full((6, 3), 0.25), noise))
    assert [gain.mean, gain.low, gain.high] == pytest.approx([0.25] * 3, abs=1e-12)
    assert (gain.images, gain.seeds, gain.datasets) == (6, 3, ("a",))


def test_pairing_is_by_image_and_seed_whatever_the_order() -> None:
    rng = np.random.default_rng(1)
    table = scores(np.full((5, 4), 0.1), rng.normal(30, 5, (5, 4)))
    gain = gain_of(table.sample(frac=1, random_state=3))
    assert [gain.low, gain.high] == pytest.approx([0.1, 0.1], abs=1e-12)
    # the same values with seeds exchanged in one method are another pairing
    other = table.copy()
    mine = other["method"] == "new"
    other.loc[mine, "seed"] = 3 - other.loc[mine, "seed"]
    crossed = gain_of(other)
    assert crossed.mean == pytest.approx(0.1, abs=1e-12)
    assert crossed.high - crossed.low > 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_the_sign_is_symmetric(images: int, seeds: int, key: int) -> None:
    table = scores(np.random.default_rng(key).normal(0, 1, (images, seeds)))
    one, two = gain_of(table), gain_of(table, "old", "new")
    assert [one.mean, one.low, one.high] == pytest.approx(
        [-two.mean, -two.high, -two.low], abs=1e-9, nan_ok=True
    )
    if images * seeds > 1:
        assert one.low - 1e-9 <= one.mean <= one.high + 1e-9


def test_two_images_by_enumeration() -> None:
    # gains 0 and 1: a resample's mean is 0, 1/2 or 1 with odds 1:2:1, so 95 % spans all of them
    gain = gain_of(scores(np.array([[0.0], [1.0]])))
    assert (gain.mean, gain.low, gain.high) == (0.5, 0.0, 1.0)
    shares = [float((gain.draws == value).mean()) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.025)
    assert interval(gain.draws, 0.6) == (0.5, 0.5)


def test_seeds_are_resampled_over_all_datasets_at_once() -> None:
    # gain = seed, without noise: a resample's mean is that of its seeds, in every dataset alike
    sets = [scores(np.tile([0.0, 1.0], (n, 1)), dataset=name) for name, n in (("a", 3), ("b", 7))]
    assert set(np.round(gain_of(pd.concat(sets)).draws, 9)) == {0.0, 0.5, 1.0}


def test_what_a_mean_is_of() -> None:
    few, many = scores(np.full((2, 1), 1.0)), scores(np.full((8, 1), 0.0), dataset="b")
    square = scores(np.array([[1.0, 2.0], [3.0, 4.0]]))
    fixed = square[(square["method"] == "old") & (square["seed"] == 0)]
    fixed = pd.concat([square, fixed.assign(method="bicubic", seed=-1)])
    three = scores(np.array([[1.0, 5.0, 9.0]] * 2))
    three = three[(three["method"] == "new") | (three["seed"] < 2)]
    lower = scores(np.full((3, 1), -0.2), metric="niqe")
    cases = {  # mean, images, seeds
        "datasets weigh the same": (gain_of(pd.concat([few, many])), 0.5, 10, 1),
        "lower NIQE is a gain": (gain_of(lower), 0.2, 3, 1),
        "no seed pairs with each": (gain_of(fixed, "new", "bicubic"), 2.5, 2, 2),
        "only common seeds": (gain_of(three), 3.0, 2, 2),
    }
    for case, (gain, *expected) in cases.items():
        assert [gain.mean, gain.images, gain.seeds] == pytest.approx(expected), case


def test_a_lone_number_has_no_interval() -> None:
    gain = gain_of(scores(np.array([[0.3]])))
    assert gain.mean == pytest.approx(0.3)
    assert np.isnan([gain.low, gain.high, *interval(gain.draws, 0.5)]).all()


def test_draws_are_those_of_an_independent_bootstrap() -> None:
    gains = np.random.default_rng(2).normal(0, 1, (7, 3))
    rows = scores(gains)
    paired = differences(rows[rows["method"] == "new"], rows[rows["method"] == "old"], "psnr_y")
    found, again = (bootstrap_gain(paired, resamples=99) for _ in "12")
    assert (found.draws == again.draws).all()

    def mean(images: np.ndarray, seeds: np.ndarray, axis: int) -> np.ndarray:
        several = gains[np.atleast_2d(images)[:, :, None], np.atleast_2d(seeds)[:, None, :]]
        means: np.ndarray = several.mean(axis=(1, 2))
        return means

    options: dict[str, Any] = {"method": "percentile", "rng": np.random.default_rng(0)}
    asked = bootstrap(
        (np.arange(7), np.arange(3)), mean, n_resamples=99, vectorized=True, **options
    )
    assert found.draws == pytest.approx(asked.bootstrap_distribution.ravel(), abs=1e-12)
    assert found.low == pytest.approx(float(np.squeeze(asked.confidence_interval.low)), abs=1e-12)


@pytest.mark.parametrize(
    ("image_spread", "seed_spread", "images", "seeds", "least"),
    [(1.0, 0.0, 25, 1, 0.87), (1.0, 0.3, 25, 8, 0.87), (0.3, 1.0, 25, 10, 0.83)],
)
def test_the_interval_covers_the_truth(
    image_spread: float, seed_spread: float, images: int, seeds: int, least: float
) -> None:
    """Nominally 95 %; a percentile interval of few units is known to fall somewhat short."""
    rng = np.random.default_rng(7)
    names = [["a"], range(images), range(seeds)]
    index = pd.MultiIndex.from_product(names, names=["dataset", "image", "seed"])
    hits = 0
    for _ in range(150):
        drawn = [rng.normal(size=size) for size in ((images, 1), (1, seeds), (images, seeds))]
        gains = 0.5 + image_spread * drawn[0] + seed_spread * drawn[1] + 0.3 * drawn[2]
        gain = bootstrap_gain(pd.Series(gains.ravel(), index), resamples=400)
        hits += gain.low <= 0.5 <= gain.high
    assert least <= hits / 150 < 1.0


def test_what_cannot_be_paired_is_refused() -> None:
    table = scores(np.zeros((3, 2)))
    old, new, first = table["method"] == "old", table["method"] == "new", table["seed"] == 0
    i1, i2 = table["image"] == "i1", table["image"] == "i2"
    cases = {
        "no psnr_y scores of 'new'": table[old],
        "'old' has no psnr_y of image 'i1' of a, seed 0": table[~(old & i1)],
        "'new' has no psnr_y of image 'i2' of a, seed 0": table[~(new & i2)],
        "'old' has no psnr_y of image 'i2' of a, seed 1": table[~(old & i2 & ~first)],
        "'new' .* or one that is infinite": table.assign(value=np.inf),
        "two scores for image 'i0' of a, seed 0": pd.concat([table, table.iloc[:1]]),
        r"'new' has seeds \[1\], 'old' \[0\]": table[new & ~first | old & first],
    }
    for message, rows in cases.items():
        with pytest.raises(UserError, match=message):
            gain_of(rows)
