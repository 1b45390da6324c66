"""Paired gains: exact where the answer is known, honest where it is drawn."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ttest_1samp

from augkd.errors import UserError
from augkd.study.params import find_root
from augkd.study.report.claims import weigh
from augkd.study.report.stats import Gain, correct, crossed, doubts, paired_gain

SPREADS = {"seed": 0.054, "image": 0.104, "both": 0.085}  # dB, of paired gains, as measured
COMPARISONS = 18  # of a claim


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


def test_pairing_is_by_image_and_seed_whatever_the_order() -> None:
    """Differences that are all equal leave no doubt."""
    rng = np.random.default_rng(1)
    table = scores(np.full((5, 4), 0.1), rng.normal(30, 5, (5, 4)))
    gain = gain_of(table.sample(frac=1, random_state=3))
    assert [gain.mean, gain.low, gain.high] == pytest.approx([0.1] * 3, abs=1e-12)
    assert (gain.images, gain.seeds, gain.datasets) == (5, 4, ("a",))
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
    if min(images, seeds) > 1:
        assert one.low - 1e-9 <= one.mean <= one.high + 1e-9


def test_one_factor_alone_is_students_t() -> None:
    """Images alone, or seeds alone, are the text-book's interval of a mean."""
    drawn = np.random.default_rng(2).normal(0.3, 1, 7)
    images = scores(drawn[:, None])
    images["seed"] = -1  # nothing that was trained here
    for gain in (gain_of(images), gain_of(scores(np.tile(drawn, (5, 1))))):
        known = ttest_1samp(drawn, 0)
        assert [gain.low, gain.high] == pytest.approx([*known.confidence_interval()])
        assert gain.freedom == pytest.approx(6)
        sides = doubts(gain._asdict(), 0.0)
        assert min(map(float, sides)) == pytest.approx(known.pvalue)
    assert gain.interval(0.5) == pytest.approx([*known.confidence_interval(0.5)])


def test_the_variance_is_that_of_the_mean() -> None:
    """Of two datasets, over many tables: the estimate's mean is how much the mean varies."""
    parts = [table(200, (n, 4), seed=n) for n in (3, 6)]
    students = np.random.default_rng(0).normal(0, 0.05, (200, COMPARISONS, 1, 4))  # of both
    mean, error, _ = crossed([part + students for part in parts])
    assert (error**2).mean() == pytest.approx(mean.var(), rel=0.1)


def test_repeats_of_one_training_count_once() -> None:
    gains = np.random.default_rng(3).normal(0, 1, (6, 3))
    twice = gain_of(scores(gains[:, [0, 1, 2, 1]], np.ones((6, 4))))
    assert twice[:5] == pytest.approx(gain_of(scores(gains, np.ones((6, 3))))[:5])


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


def test_one_seed_says_nothing_of_another_and_one_image_of_no_other() -> None:
    for shape in ((1, 1), (5, 1), (1, 5)):
        gain = gain_of(scores(np.full(shape, 0.3)))
        assert gain.mean == pytest.approx(0.3)
        assert np.isnan([gain.low, gain.high, *gain.interval(0.5)]).all()
        assert np.isnan(doubts(gain._asdict(), 0.0)).all()


def table(claims: int, shape: tuple[int, int], alike: float = 0.0, seed: int = 0) -> np.ndarray:
    """Paired gains around zero, (claims, comparisons, images, seeds), with the measured spreads.

    ``alike``: how much of every variance the comparisons of a claim share.
    """
    rng = np.random.default_rng(seed)
    gains = np.zeros((claims, COMPARISONS, *shape))
    parts = {"seed": (1, shape[1]), "image": (shape[0], 1), "both": shape}
    for name, of in parts.items():
        own, shared = (rng.normal(size=(claims, n, *of)) for n in (COMPARISONS, 1))
        gains += SPREADS[name] * ((1 - alike) ** 0.5 * own + alike**0.5 * shared)
    return gains


def told(gains: list[np.ndarray], truth: float, of: int = COMPARISONS) -> tuple[float, float]:
    """How often a claim of ``of`` comparisons is seen, and its opposite, where a gain is true."""
    mean, error, freedom = crossed([part + truth for part in gains])
    above, below = doubts({"mean": mean, "error": error, "freedom": freedom}, 0.0)
    pro, contra = weigh("greater", above.reshape(-1, of), below.reshape(-1, of))
    return float((pro <= 0.05).mean()), float((contra <= 0.05).mean())


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("images", [(8,), (14,), (8, 5)])
@pytest.mark.parametrize("alike", [0.0, 1.0])  # independent; one and the same
def test_verdicts_are_rarely_false(seeds: int, images: tuple[int, ...], alike: float) -> None:
    """Independent comparisons are the worst case of "some", equal ones that of "all"."""
    gains = [table(600, (n, seeds), alike, seed=k) for k, n in enumerate(images)]
    seen, opposite = told(gains, 0.0)
    assert seen <= 0.05
    assert opposite <= 0.05
    assert told(gains, 0.05)[1] <= 0.05
    mean, error, freedom = crossed(gains)
    sides = doubts({"mean": mean, "error": error, "freedom": freedom}, 0.0)
    assert (np.minimum(*sides) > 0.05).mean() >= 0.93  # a single interval covers


def test_an_interval_that_takes_its_training_as_given_would_not_do() -> None:
    """The simulation tells: over images alone, of one seed, opposites are seen by chance."""
    gains = table(600, (14, 1))
    assert told([gains], 0.0)[1] > 0.2
    rows = scores(gains[0, 0])
    assert np.isnan(gain_of(rows).low)  # so it is given none


def test_the_power_that_the_protocol_states() -> None:
    """The table of docs/protocol.md: how often a true gain is seen."""
    text = (find_root() / "docs" / "protocol.md").read_text(encoding="utf-8")
    stated = re.findall(r"^\| \+([\d.]+) \| (\d+) \| (\d+) % \| (\d+) % \|$", text, re.M)
    assert len(stated) >= 6
    for gain, comparisons, *shares in stated:
        for seeds, share in zip((3, 5), shares, strict=True):
            seen, _ = told([table(500, (8, seeds))], float(gain), int(comparisons))
            assert seen == pytest.approx(int(share) / 100, abs=0.02), (gain, comparisons, seeds)


def test_a_correction_leaves_what_was_not_tested() -> None:
    known = [0.01, 0.04, 0.5]
    corrected = correct(pd.Series([0.01, np.nan, 0.04, 0.5], list("abcd")))
    assert corrected.dropna().tolist() == pytest.approx(list(false_discovery_control(known)))
    assert np.isnan(corrected["b"])
    assert correct(pd.Series([np.nan])).isna().all()


def test_what_cannot_be_paired_is_refused() -> None:
    table = scores(np.zeros((3, 2)))
    old, new, first = table["method"] == "old", table["method"] == "new", table["seed"] == 0
    i1, i2 = table["image"] == "i1", table["image"] == "i2"
    cases = {
        "'old' has no psnr_y of image 'i1' of a, seed 0": table[~(old & i1)],
        "'new' has no psnr_y of image 'i2' of a, seed 0": table[~(new & i2)],
        "'old' has no psnr_y of image 'i2' of a, seed 1": table[~(old & i2 & ~first)],
        "'new' .* or one that is infinite": table.assign(value=np.inf),
        r"'new' has seeds \[1\], 'old' \[0\]": table[new & ~first | old & first],
    }
    for message, rows in cases.items():
        with pytest.raises(UserError, match=message):
            gain_of(rows)
    with pytest.raises(ValueError, match="duplicate"):
        gain_of(pd.concat([table, table.iloc[:1]]))
    assert gain_of(table[old]).seeds == 0  # "new" was not scored
