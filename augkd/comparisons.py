"""A claim unrolled into single comparisons, in the paper's tables and in our scores."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from augkd.errors import UserError
from augkd.paper import load_table
from augkd.paper.claim import Claim, Operand
from augkd.stats import LOWER_IS_BETTER, Gain, bootstrap_gain, differences

__all__ = ["Comparison", "Pool", "compare", "compare_paper"]


@dataclass(frozen=True)
class Comparison:
    """One method against another; positive ``gain`` where ``better`` is better.

    Attributes:
        where: e.g. "EDSR ×4 Urban100".
        low, high: the 95 % interval; equal to ``gain`` on the paper's numbers.
        low_strict, high_strict: the same at 1 - 0.05/m, m comparisons in the claim.
        slack: how far rounding may have moved a printed gain.
    """

    where: str
    better: str
    worse: str
    gain: float
    low: float
    high: float
    low_strict: float
    high_strict: float
    seeds: int = 0
    images: int = 0
    datasets: str = ""
    slack: float = 0.0

    def __str__(self) -> str:
        return f"{self.where}, {self.better} over {self.worse}"


def compare_paper(claim: Claim) -> tuple[list[Comparison], list[str]]:
    """The claim's comparisons in the paper's tables, and those that its tables lack."""
    if not claim.tables:
        return [], [f"{b} over {w}" for b, w in product(claim.better, claim.worse)]
    printed = _Printed(claim)
    found, absent = [], []
    for b, w in product(claim.better, claim.worse):
        points = []
        for network, scale in product(claim.networks, claim.scales):
            if not printed.expects(network, scale, b, w):
                continue
            for dataset in claim.datasets or ("",):
                cells = [printed.find(network, o, scale, dataset) for o in (b, w)]
                where = f"{_place(network, scale)} {dataset}".strip()
                if cells[0] is None or cells[1] is None:
                    absent.append(f"{where}, {b} over {w}")
                    continue
                (x, dx), (y, dy) = cells[0], cells[1]
                gain = round(y - x if claim.metric in LOWER_IS_BETTER else x - y, 9)
                points.append(_point(where, b, w, gain, (10.0**-dx + 10.0**-dy) / 2))
        if claim.over == "mean" and points:
            mean = round(sum(point.gain for point in points) / len(points), 9)
            slack = sum(point.slack for point in points) / len(points)
            points = [_point(f"mean of {len(points)}", b, w, mean, slack)]
        found += points
    return found, absent


def _point(where: str, b: Operand, w: Operand, gain: float, slack: float) -> Comparison:
    return Comparison(where, str(b), str(w), gain, gain, gain, gain, gain, slack=slack)


def _place(network: str, scale: int) -> str:
    names = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
    return f"{names[network]} ×{scale}"


class _Printed:
    """The students' numbers of a claim's tables in its metric."""

    def __init__(self, claim: Claim) -> None:
        self._cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for number in claim.tables:
            table = load_table(number)
            table = table[(table["metric"] == claim.metric) & (table["role"] == "student")]
            for cell in table.to_dict("records"):
                self._cells.setdefault((cell["network"], cell["method"]), []).append(
                    {str(key): value for key, value in cell.items()}
                )

    def find(
        self, network: str, operand: Operand, scale: int, dataset: str = ""
    ) -> tuple[float, int] | None:
        """A value and its decimals; a table without scales has each of them."""
        for cell in self._cells.get((network, operand.method), []):
            if (
                (pd.isna(cell["scale"]) or cell["scale"] == scale)
                and (not dataset or cell["dataset"] == dataset)
                and (not operand.teacher or cell["teacher"] == operand.teacher)
                and (not operand.training_set or cell["training_set"] == operand.training_set)
            ):
                return float(cell["value"]), int(cell["decimals"])
        return None

    def expects(self, network: str, scale: int, b: Operand, w: Operand) -> bool:
        """Whether the claim speaks of this: CSD, say, is in EDSR's table but not in RCAN's."""
        known = {method for _, method in self._cells}
        return all(o.method not in known or self.find(network, o, scale) for o in (b, w))


# --- our scores


class Pool:
    """Scores by method, and their gains: many claims make the same comparison."""

    KEYS = ("metric", "split", "network", "scale", "cohort", "method")

    def __init__(self, scores: pd.DataFrame) -> None:
        """``scores``: tidy rows in the columns of ``augkd.score.COLUMNS``."""
        self._rows = dict(list(scores.groupby(list(self.KEYS))))
        self._sets = {key: frozenset(rows["dataset"]) for key, rows in self._rows.items()}
        self._gains: dict[object, pd.Series] = {}

    def differences(
        self, claim: Claim, network: str, scale: int, cohort: str, b: Operand, w: Operand
    ) -> pd.Series | None:
        """The paired gains on common datasets, or None where one of the two was not run.

        Test sets are those of the claim where all of them are at hand, else all that are.
        """
        keys = []
        for operand in (b, w):
            name = (operand.cohort or cohort).format(network=network, scale=scale)
            keys.append((claim.metric, claim.split, network, scale, name, operand.method))
        common = frozenset.intersection(*(self._sets.get(key, frozenset()) for key in keys))
        if not common:
            return None
        if claim.datasets and common.issuperset(claim.datasets):
            common = frozenset(claim.datasets)
        asked = (*keys, common)
        if asked not in self._gains:
            better, worse = (
                rows[rows["dataset"].isin(common)] for rows in (self._rows[key] for key in keys)
            )
            self._gains[asked] = differences(better, worse, claim.metric)
        return self._gains[asked]


def compare(claim: Claim, scores: Pool) -> tuple[list[Comparison], list[str]]:
    """The claim's comparisons in our scores, and those that have not been run."""
    printed = _Printed(claim)
    gains: list[tuple[str, Operand, Operand, Gain]] = []
    absent: list[str] = []
    for b, w in product(claim.better, claim.worse):
        parts: dict[str, pd.Series] = {}
        for network, scale, cohort in product(claim.networks, claim.scales, claim.cohorts):
            if not printed.expects(network, scale, b, w):
                continue
            where = _place(network, scale)
            if len(claim.cohorts) > 1:
                where += f" {cohort.format(network=network, scale=scale)}"
            part = scores.differences(claim, network, scale, cohort, b, w)
            if part is None:
                absent.append(f"{where}, {b} over {w}")
            else:
                parts[where] = part
        if claim.over == "mean" and parts:
            where = f"mean of {', '.join(parts)}" if len(parts) > 1 else next(iter(parts))
            parts = {where: _average(claim, parts)}
        gains += [(where, b, w, bootstrap_gain(part)) for where, part in parts.items()]
    strict = 1 - 0.05 / max(len(gains), 1)
    return [_measured(*gain, strict) for gain in gains], absent


def _average(claim: Claim, parts: dict[str, pd.Series]) -> pd.Series:
    """The mean over networks and scales for each image and seed that all of them have."""
    seeds = set.intersection(*(set(part.index.unique("seed")) for part in parts.values()))
    sets = set.intersection(*(set(part.index.unique("dataset")) for part in parts.values()))
    if not seeds or not sets:
        raise UserError(
            f"claim {claim.id} averages over {', '.join(parts)}, which have no seed or no test "
            "set in common: train them with the same seeds and score the same sets"
        )
    kept = {
        where: part[part.index.isin(seeds, level="seed") & part.index.isin(sets, level="dataset")]
        for where, part in parts.items()
    }
    table = pd.DataFrame(kept)
    if bool(table.isna().to_numpy().any()):
        image = table.index[table.isna().any(axis=1)][0]
        raise UserError(f"claim {claim.id}: {image} was not scored in all of {', '.join(parts)}")
    mean: pd.Series = table.mean(axis=1)
    return mean


def _measured(where: str, b: Operand, w: Operand, gain: Gain, strict: float) -> Comparison:
    low, high = gain.interval(strict)
    return Comparison(
        where=where,
        better=str(b),
        worse=str(w),
        gain=gain.mean,
        low=gain.low,
        high=gain.high,
        low_strict=low,
        high_strict=high,
        seeds=gain.seeds,
        images=gain.images,
        datasets=", ".join(gain.datasets),
    )
