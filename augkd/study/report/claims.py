"""The paper's claims, and one judge for them: on its own printed numbers, and on our scores.

A claim is first unrolled into its single comparisons (``compare``), then they are weighed
together:

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
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import product
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from augkd.errors import UserError
from augkd.study.paper import load_table
from augkd.study.report.stats import LOWER_IS_BETTER, Gain, bootstrap_gain, differences

Verdict = Literal["holds", "fails", "undecided", "not run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
UNITS = {"psnr_y": "dB", "psnr_y_teacher": "dB", "ssim_y": "SSIM", "niqe": "NIQE"}
UNITS["seconds_per_step"] = "s"
NETWORKS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
KEYS = ("metric", "split", "network", "scale", "cohort", "method")


class Operand(BaseModel):
    """One side of a comparison: a method, and where it is if not where the claim says.

    Attributes:
        method: an identifier, as in the paper's tables and in our scores.
        teacher, training_set: further keys of the paper's table (Tables 4 and 9).
        cohort: of our scores, in place of the claim's cohorts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    teacher: str | None = None
    training_set: str | None = None
    cohort: str | None = None

    def __str__(self) -> str:
        marks = (f"teacher {self.teacher}" if self.teacher else "", self.training_set)
        detail = ", ".join(mark for mark in marks if mark)
        return f"{self.method} ({detail})" if detail else self.method


def _operands(value: Any) -> Any:
    """``kd``, ``[kd, at]`` and ``{method: kd}`` all mean a list of operands."""
    listed = value if isinstance(value, list) else [value]
    return [{"method": item} if isinstance(item, str) else item for item in listed]


Operands = Annotated[tuple[Operand, ...], BeforeValidator(_operands), Field(min_length=1)]


class Claim(BaseModel):
    """See the head of ``claims.yaml`` for what the fields mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    topic: str = ""
    title: str = Field(default="", max_length=45)
    section: str
    quote: str = Field(min_length=5, max_length=120)
    tables: tuple[Annotated[int, Field(ge=1, le=12)], ...] = ()
    figure: int | None = None
    networks: tuple[Literal["edsr", "rcan", "swinir"], ...] = Field(min_length=1)
    scales: tuple[Literal[2, 3, 4], ...] = Field(min_length=1)
    datasets: tuple[str, ...] = ()
    split: Literal["train", "test"] = "test"
    metric: Literal["psnr_y", "ssim_y", "psnr_y_teacher", "niqe", "seconds_per_step"]
    kind: Literal["greater", "at_most", "sometimes_greater", "gain_of"]
    better: Operands
    worse: Operands
    over: Literal["each", "mean"] = "each"
    margin: float = 0.0
    value: float | None = None
    rounding: float | None = None
    cohorts: tuple[str, ...] = Field(default=("{network}_x{scale}",), min_length=1)
    needs: tuple[str, ...] = ()
    stand_in: str = ""
    reading: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        amount = self.value is not None and self.rounding is not None
        if amount != (self.kind == "gain_of"):
            raise ValueError("'value' and 'rounding' belong to kind 'gain_of', and only to it")
        if self.margin and self.kind in ("gain_of", "sometimes_greater"):
            raise ValueError(f"kind '{self.kind}' has no 'margin'")
        return self


def load_claims(path: Path | None = None) -> list[Claim]:
    """The paper's claims, or those of another file of the same form.

    Raises:
        UserError: the file is absent or not YAML, a claim is not of the form, an id is used twice.
    """
    source = path or files("augkd.study.paper").joinpath("claims.yaml")
    try:
        listed = yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{source}: no such file of claims") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(listed, list):
        raise UserError(f"{source}: expected a list of claims")
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(listed, 1):
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            name = entry.get("id") if isinstance(entry, dict) else None
            first = error.errors()[0]
            key = f", key '{'.'.join(map(str, first['loc']))}'" if first["loc"] else ""
            where = f"claim {name or f'number {number}'}{key}"
            raise UserError(f"{source}: {where}: {first['msg']}") from None
        if claim.id in claims:
            raise UserError(f"{source}: claim id '{claim.id}' is used twice: rename one")
        claims[claim.id] = claim
    return list(claims.values())


@dataclass(frozen=True)
class Comparison:
    """One method against another, ``where``: e.g. "EDSR ×4 Urban100, augkd over kd".

    Attributes:
        gain: with its 95 % interval, which on the paper's numbers is a point.
        strict: the interval at 1 - 0.05/m, m comparisons in the claim.
        slack: how far rounding may have moved a printed gain.
    """

    where: str
    gain: Gain
    strict: tuple[float, float]
    slack: float = 0.0


Scores = Mapping[tuple[object, ...], pd.DataFrame]
"""Tidy rows by ``KEYS``."""


def compare(claim: Claim, scores: Scores | None = None) -> tuple[list[Comparison], list[str]]:
    """The claim's comparisons, and those that are absent.

    ``scores``: ours, where some may not have been run; None for the paper's tables.
    """
    found: list[tuple[str, Any]] = []
    absent: list[str] = []
    for b, w in product(claim.better, claim.worse):
        pairs = _printed(claim, b, w) if scores is None else _scored(claim, scores, b, w)
        parts: dict[str, Any] = {}
        for where, part in pairs:
            if part is None:
                absent.append(f"{where}, {b} over {w}".removeprefix(", "))
            else:
                parts[where] = part
        if claim.over == "mean" and parts:
            parts = _mean_point(parts) if scores is None else _average(claim, parts)
        found += [(f"{where}, {b} over {w}", part) for where, part in parts.items()]
    if scores is None:
        points = [(at, _point(gain), (gain, gain), slack) for at, (gain, slack) in found]
        return [Comparison(*point) for point in points], absent
    gains = [(where, bootstrap_gain(part)) for where, part in found]
    strict = 1 - 0.05 / max(len(gains), 1)
    return [Comparison(at, gain, gain.interval(strict)) for at, gain in gains], absent


def _point(value: float) -> Gain:
    return Gain(value, value, value, 0, 0, (), np.empty(0))


def _places(claim: Claim, b: Operand, w: Operand) -> Iterator[tuple[str, int, str]]:
    """Where the claim compares two: CSD, say, is in EDSR's table but not in RCAN's."""
    known = {cell["method"] for cell in _cells(claim.tables, claim.metric)}
    for network, scale in product(claim.networks, claim.scales):
        if all(o.method not in known or _cell(claim, network, scale, o) for o in (b, w)):
            yield network, scale, f"{NETWORKS[network]} ×{scale}"


@lru_cache
def _cells(tables: tuple[int, ...], metric: str) -> list[dict[Any, Any]]:
    """The students' numbers of the paper's tables in one metric."""
    cells = [cell for number in tables for cell in load_table(number).to_dict("records")]
    return [cell for cell in cells if (cell["metric"], cell["role"]) == (metric, "student")]


def _cell(claim: Claim, network: str, scale: int, of: Operand, dataset: str = "") -> Any:
    """A printed value and its decimals, or None; a table without scales has each of them."""
    keys = {"network": network, "method": of.method, "dataset": dataset}
    keys |= {"teacher": of.teacher or "", "training_set": of.training_set or ""}
    for cell in _cells(claim.tables, claim.metric):
        if all(cell[key] == value for key, value in keys.items() if value) and (
            pd.isna(cell["scale"]) or cell["scale"] == scale
        ):
            return float(cell["value"]), int(cell["decimals"])
    return None


def _printed(claim: Claim, b: Operand, w: Operand) -> Iterator[tuple[str, Any]]:
    """Gains in the paper's tables, and their slack; None where a number is not printed."""
    if not claim.tables:
        yield "", None
        return
    for (network, scale, place), dataset in product(_places(claim, b, w), claim.datasets or ("",)):
        x, y = (_cell(claim, network, scale, o, dataset) for o in (b, w))
        point = None
        if x and y:
            gain = y[0] - x[0] if claim.metric in LOWER_IS_BETTER else x[0] - y[0]
            point = round(gain, 9), (10.0 ** -x[1] + 10.0 ** -y[1]) / 2
        yield f"{place} {dataset}".strip(), point


def _mean_point(points: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    n = len(points)
    gain, slack = (sum(values) / n for values in zip(*points.values(), strict=True))
    return {f"mean of {n}": (round(gain, 9), slack)}


def _scored(
    claim: Claim, scores: Scores, b: Operand, w: Operand
) -> Iterator[tuple[str, pd.Series | None]]:
    """Paired gains on common test sets; None where one of the two was not run.

    Test sets are those of the claim where all of them are at hand, else all that are.
    """
    for (network, scale, place), cohort in product(_places(claim, b, w), claim.cohorts):
        fill = {"network": network, "scale": scale}
        where = f"{place} {cohort.format(**fill)}" if len(claim.cohorts) > 1 else place
        start = (claim.metric, claim.split, network, scale)
        names = [((o.cohort or cohort).format(**fill), o.method) for o in (b, w)]
        pair = [scores[(*start, *name)] for name in names if (*start, *name) in scores]
        sets = {*pair[0]["dataset"]} & {*pair[1]["dataset"]} if len(pair) == 2 else set()
        if claim.datasets and sets.issuperset(claim.datasets):
            sets = set(claim.datasets)
        pair = [rows[rows["dataset"].isin(sets)] for rows in pair]
        yield where, differences(pair[0], pair[1], claim.metric) if sets else None


def _average(claim: Claim, parts: dict[str, pd.Series]) -> dict[str, pd.Series]:
    """The mean over networks and scales for each image and seed that all of them have."""
    names = ", ".join(parts)
    for level in ("seed", "dataset"):
        common = set.intersection(*(set(part.index.unique(level)) for part in parts.values()))
        parts = {at: part[part.index.isin(common, level=level)] for at, part in parts.items()}
    table = pd.DataFrame(parts)
    if table.empty:
        raise UserError(
            f"claim {claim.id} averages over {names}, which have no seed or no test "
            "set in common: train them with the same seeds and score the same sets"
        )
    if len(torn := table[table.isna().any(axis=1)]):
        raise UserError(f"claim {claim.id}: {torn.index[0]} was not scored in all of {names}")
    return {f"mean of {names}" if len(parts) > 1 else names: table.mean(axis=1)}


def decide(claim: Claim, found: list[Comparison], whole: bool) -> Verdict:
    """Weighs a claim's comparisons by the table above; ``whole``: none is absent."""
    if claim.kind == "greater":
        fails = any(c.strict[1] < claim.margin for c in found)
        holds = whole and all(c.gain.low > claim.margin for c in found)
    elif claim.kind == "at_most":
        fails = any(c.strict[0] > claim.margin for c in found)
        holds = whole and all(c.gain.high <= claim.margin for c in found)
    elif claim.kind == "sometimes_greater":
        fails = whole and all(c.gain.high < 0 for c in found)
        holds = any(c.strict[0] > 0 for c in found)
    else:
        apart = [c for c in found if _excludes(claim, c)]
        fails = bool(apart) and (whole or claim.over == "each")
        holds = whole and not apart and all(c.gain.low > 0 or c.gain.high < 0 for c in found)
    if not found:
        return "undecided"
    return "fails" if fails else "holds" if holds else "undecided"


def _excludes(claim: Claim, c: Comparison) -> bool:
    """Whether the stated value is outside the interval, rounding of both allowed for."""
    assert claim.value is not None
    assert claim.rounding is not None
    slack = claim.rounding + c.slack + 1e-9
    return claim.value < c.strict[0] - slack or claim.value > c.strict[1] + slack


def _telling(claim: Claim, verdict: Verdict, found: list[Comparison]) -> Comparison:
    """The comparison that stands for the claim: the one that strains it most."""

    def spare(c: Comparison) -> float:
        if claim.kind == "greater":
            return c.gain.high if verdict == "fails" else c.gain.low
        if claim.kind == "at_most":
            return -(c.gain.low if verdict == "fails" else c.gain.high)
        if claim.kind == "sometimes_greater":
            return -c.gain.low
        return -abs(c.gain.mean - (claim.value or 0.0))

    known = [c for c in found if not isnan(c.gain.low)] or found
    return min(known or [Comparison("", _point(nan), (nan, nan))], key=spare)


def judge_paper(claims: Iterable[Claim]) -> pd.DataFrame:
    """Each claim against the paper's own tables, as ``judge``; gains have no intervals.

    A claim that its tables have no numbers for (Figures 2 and 6 print none) is undecided.
    """
    return pd.DataFrame([_row(claim, None, sizes=True) for claim in claims])


def judge(claims: Iterable[Claim], scores: pd.DataFrame, *, sizes: bool = True) -> pd.DataFrame:
    """Each claim against our scores, tidy rows of any cohorts: one row a claim.

    ``sizes``: whether the scores can speak of the size of a gain, as those of the paper's own
    networks and schedule can. Without, a claim that states a size (``gain_of``) is undecided.

    Columns: claim, topic, title, section, quote, kind, verdict (holds, fails, undecided, not
    run); gain, low, high (95 %) in unit, with seeds, images and datasets, of the comparison that
    strains the claim most; compared and absent count its comparisons; note says what to mind.
    """
    expected = [*KEYS, "seed", "dataset", "image", "value"]
    if missing := [column for column in expected if column not in scores]:
        raise UserError(f"scores have no column '{missing[0]}': expected {', '.join(expected)}")
    tables: Scores = dict(list(scores.groupby(list(KEYS))))
    return pd.DataFrame([_row(claim, tables, sizes) for claim in claims])


def _row(claim: Claim, scores: Scores | None, sizes: bool) -> dict[str, Any]:
    printed = scores is None
    found, absent = compare(claim, scores)
    verdict = decide(claim, found, whole=not absent) if found or printed else "not run"
    told = _telling(claim, verdict, found)
    sets = claim.datasets if printed else told.gain.datasets
    notes = []
    if found and set(sets) != set(claim.datasets):  # images stand in for those that it speaks of
        notes.append(claim.stand_in)
        if claim.datasets:
            notes.append(f"on {', '.join(sets)} in place of {', '.join(claim.datasets)}")
    several = f"of {len(found)}, the telling one: " if len(found) > 1 else ""
    notes.append(several + told.where)
    if claim.kind == "gain_of":
        if found and not sizes:
            verdict = "undecided"
            notes.append("states a size, and these are not the paper's networks")
    elif printed and any(abs(c.gain.mean - claim.margin) <= c.slack + 1e-9 for c in found):
        notes.append("within the rounding of the printed numbers")
    if any(c.gain.seeds == 1 for c in found):
        notes.append("one seed: another training may differ")
    if found and isnan(told.gain.low):
        notes.append("a lone number has no interval")
    if absent:
        listed = "; ".join(absent[:3]) + f" and {len(absent) - 3} more" * (len(absent) > 3)
        lacks = f"absent: {listed}" if found else f"needs {', '.join(claim.needs) or listed}"
        notes.append(f"no printed number for {listed}" if printed else lacks)
    return {
        "claim": claim.id,
        "topic": claim.topic,
        "title": claim.title or claim.id.replace("_", " "),
        "section": claim.section,
        "quote": claim.quote,
        "kind": claim.kind,
        "verdict": verdict,
        "gain": told.gain.mean,
        "low": nan if printed else told.gain.low,
        "high": nan if printed else told.gain.high,
        "unit": UNITS.get(claim.metric, ""),
        "seeds": told.gain.seeds,
        "images": told.gain.images,
        "datasets": ", ".join(sets),
        "compared": len(found),
        "absent": len(absent),
        "note": "; ".join(note for note in (*notes, claim.reading) if note),
    }
