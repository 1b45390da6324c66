"""One judge for the paper's claims: on its own printed numbers, and on our scores.

A claim is first unrolled into its single comparisons (``compare``, ``compare_paper``), then
they are weighed together:

================== ================================ =========================================
kind               holds                            fails
================== ================================ =========================================
greater            every interval above the margin  some interval below it
at_most            no interval reaches above it     some interval above it
sometimes_greater  some interval above zero         every interval below it
gain_of            every interval has the stated    some interval leaves the stated value out
                   value in it, and not zero
================== ================================ =========================================

and is undecided otherwise. "Some interval" among m is read at confidence 1 - 0.05/m, so that a
long claim does not fail (or hold) by having had many chances; "every" needs no such correction.
A part cannot establish the whole: where comparisons of the claim are absent, only what one
comparison suffices for is decided.

The paper's numbers have no interval, so points are compared. Equal printed numbers leave an
order undecided, and a stated gain holds if rounding can explain the difference.

A claim unrolled into single comparisons, in the paper's tables and in our scores.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from math import isnan, nan
from typing import Any, Literal

import pandas as pd

from augkd.errors import UserError
from augkd.study.paper import load_table
from augkd.study.paper.claim import Claim, Operand
from augkd.study.report.stats import LOWER_IS_BETTER, Gain, bootstrap_gain, differences


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
        """``scores``: tidy rows in the columns of ``augkd.study.score.COLUMNS``."""
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


Verdict = Literal["holds", "fails", "undecided", "not run"]
UNITS = {
    "psnr_y": "dB",
    "psnr_y_teacher": "dB",
    "ssim_y": "SSIM",
    "niqe": "NIQE",
    "seconds_per_step": "s",
}
SCORE_COLUMNS = [
    *("cohort", "network", "scale", "method", "seed"),
    *("dataset", "split", "image", "metric", "value"),
]
VERDICT_COLUMNS = [
    *("claim", "topic", "title", "section", "quote", "kind", "verdict"),
    *("gain", "low", "high", "unit", "seeds", "images", "datasets"),
    *("compared", "absent", "note"),
]


def decide(claim: Claim, found: list[Comparison], whole: bool) -> Verdict:
    """Weighs a claim's comparisons by the table above; ``whole``: none is absent."""
    if not found:
        return "undecided"
    if claim.kind == "greater":
        if any(c.high_strict < claim.margin for c in found):
            return "fails"
        holds = whole and all(c.low > claim.margin for c in found)
    elif claim.kind == "at_most":
        if any(c.low_strict > claim.margin for c in found):
            return "fails"
        holds = whole and all(c.high <= claim.margin for c in found)
    elif claim.kind == "sometimes_greater":
        if whole and all(c.high < 0 for c in found):
            return "fails"
        holds = any(c.low_strict > 0 for c in found)
    else:
        if (whole or claim.over == "each") and any(_excludes(claim, c) for c in found):
            return "fails"
        holds = whole and all(not _spans_zero(c) and not _excludes(claim, c) for c in found)
    return "holds" if holds else "undecided"


def _excludes(claim: Claim, c: Comparison) -> bool:
    """Whether the stated value is outside the interval, rounding of both allowed for."""
    assert claim.value is not None
    assert claim.rounding is not None
    slack = claim.rounding + c.slack + 1e-9
    return claim.value < c.low_strict - slack or claim.value > c.high_strict + slack


def _spans_zero(c: Comparison) -> bool:
    return not (c.low > 0 or c.high < 0)


def _telling(claim: Claim, verdict: Verdict, found: list[Comparison]) -> Comparison:
    """The comparison that stands for the claim: the one that strains it most."""
    known = [c for c in found if not isnan(c.low)] or found
    if claim.kind == "greater":
        return min(known, key=lambda c: c.high if verdict == "fails" else c.low)
    if claim.kind == "at_most":
        return max(known, key=lambda c: c.low if verdict == "fails" else c.high)
    if claim.kind == "sometimes_greater":
        return max(known, key=lambda c: c.low)
    return max(known, key=lambda c: abs(c.gain - (claim.value or 0.0)))


def _row(
    claim: Claim, verdict: Verdict, found: list[Comparison], absent: int, note: str
) -> dict[str, object]:
    told = _telling(claim, verdict, found) if found else None
    return {
        "claim": claim.id,
        "topic": claim.topic,
        "title": claim.title or claim.id.replace("_", " "),
        "section": claim.section,
        "quote": claim.quote,
        "kind": claim.kind,
        "verdict": verdict,
        "gain": told.gain if told else nan,
        "low": told.low if told else nan,
        "high": told.high if told else nan,
        "unit": UNITS.get(claim.metric, ""),
        "seeds": told.seeds if told else 0,
        "images": told.images if told else 0,
        "datasets": told.datasets if told else "",
        "compared": len(found),
        "absent": absent,
        "note": note,
    }


def _notes(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _most_strained(claim: Claim, verdict: Verdict, found: list[Comparison]) -> str:
    if not found:
        return ""
    told = _telling(claim, verdict, found)
    return f"{told}" if len(found) == 1 else f"of {len(found)}, the telling one: {told}"


def judge_paper(claims: Iterable[Claim]) -> pd.DataFrame:
    """Each claim against the paper's own tables: one row a claim, gains without intervals.

    A claim that its tables have no numbers for (Figures 2 and 6 print none) is undecided.
    """
    rows = []
    for claim in claims:
        found, absent = compare_paper(claim)
        verdict = decide(claim, found, whole=not absent)
        lacks = f"no printed number for {_listed(absent)}" if absent else ""
        close = any(abs(c.gain - claim.margin) <= c.slack + 1e-9 for c in found)
        rounding = "within the rounding of the printed numbers" if close else ""
        rounding = "" if claim.kind == "gain_of" else rounding
        note = _notes(_most_strained(claim, verdict, found), rounding, lacks, claim.reading)
        row = _row(claim, verdict, found, len(absent), note)
        rows.append({**row, "low": nan, "high": nan, "datasets": ", ".join(claim.datasets)})
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def judge(claims: Iterable[Claim], scores: pd.DataFrame, *, sizes: bool = True) -> pd.DataFrame:
    """Each claim against our scores (columns as of ``augkd.study.score``): one row a claim.

    ``sizes``: whether the scores can speak of the size of a gain, as those of the paper's own
    networks and schedule can. Without, a claim that states a size (``gain_of``) is undecided.

    Columns: claim, topic, title, section, quote, kind, verdict (holds, fails, undecided, not
    run); gain, low, high (95 %) in unit, with seeds, images and datasets, of the comparison that
    strains the claim most; compared and absent count its comparisons; note says what to mind.
    """
    missing = [column for column in SCORE_COLUMNS if column not in scores]
    if missing:
        raise UserError(
            f"scores have no column '{missing[0]}': expected {', '.join(SCORE_COLUMNS)}"
        )
    pool = Pool(scores)
    rows = []
    for claim in claims:
        found, absent = compare(claim, pool)
        verdict = decide(claim, found, whole=not absent) if found else "not run"
        too_small = claim.kind == "gain_of" and bool(found) and not sizes
        if too_small:
            verdict = "undecided"
        other = "states a size, and these are not the paper's networks" if too_small else ""
        told = _telling(claim, verdict, found) if found else None
        needs = ", ".join(claim.needs) or f"{_listed(absent)}"
        lacks = (f"absent: {_listed(absent)}" if found else f"needs {needs}") if absent else ""
        single = any(c.seeds == 1 for c in found)
        alone = "one seed: another training may differ" if single else ""
        unsure = "a lone number has no interval" if told and isnan(told.low) else ""
        told_of = _most_strained(claim, verdict, found)
        others = _stand_in(claim, told)
        note = _notes(others, told_of, other, alone, unsure, lacks, claim.reading)
        rows.append(_row(claim, verdict, found, len(absent), note))
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def _stand_in(claim: Claim, told: Comparison | None) -> str:
    """Says which images stood in for those that the claim speaks of."""
    if told is None or set(told.datasets.split(", ")) == set(claim.datasets):
        return ""
    asked = ", ".join(claim.datasets)
    images = f"on {told.datasets} in place of {asked}" if asked else ""
    return _notes(claim.stand_in, images)


def _listed(items: list[str], most: int = 3) -> str:
    shown = "; ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
