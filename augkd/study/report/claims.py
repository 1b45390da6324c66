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

from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from itertools import product
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from augkd.errors import UserError
from augkd.study.paper import load_table
from augkd.study.report.stats import LOWER_IS_BETTER, Gain, bootstrap_gain, differences, interval
from augkd.study.report.style import DECIMALS

Verdict = Literal["holds", "fails", "undecided", "not run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
UNITS = {"ssim_y": "SSIM", "niqe": "NIQE", "seconds_per_step": "s"}  # of others: dB
NETWORKS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
KEYS = ["metric", "split", "network", "scale", "cohort", "method"]
Scores = Mapping[tuple[object, ...], pd.DataFrame]
"""Tidy rows by ``KEYS``."""


class Operand(BaseModel, extra="forbid", frozen=True):
    """One side of a comparison: a method, and where it is if not where the claim says.

    ``teacher`` and ``training_set`` are keys of the paper's Tables 4 and 9, ``cohort`` of ours.
    """

    method: str
    teacher: str = ""
    training_set: str = ""
    cohort: str = ""

    def __str__(self) -> str:
        marks = (self.teacher and f"teacher {self.teacher}", self.training_set)
        detail = ", ".join(filter(None, marks))
        return f"{self.method} ({detail})" if detail else self.method


def _operands(value: Any) -> Any:
    """``kd``, ``[kd, at]`` and ``{method: kd}`` all mean a list of operands."""
    listed = value if isinstance(value, list) else [value]
    return [{"method": item} if isinstance(item, str) else item for item in listed]


Operands = Annotated[tuple[Operand, ...], BeforeValidator(_operands), Field(min_length=1)]
Pair = tuple[Operand, Operand]


class Claim(BaseModel, extra="forbid", frozen=True):
    """See the head of ``claims.yaml`` for what the fields mean."""

    id: str
    topic: str
    title: str = Field(max_length=45)
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
    value: float = 0.0
    rounding: float = 0.0
    cohorts: tuple[str, ...] = Field(default=("{network}_x{scale}",), min_length=1)
    needs: tuple[str, ...] = ()
    stand_in: str = ""
    reading: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        if {self.value != 0, self.rounding != 0} != {self.kind == "gain_of"}:
            raise ValueError("'value' and 'rounding' belong to kind 'gain_of', and only to it")
        if self.margin and self.kind in ("gain_of", "sometimes_greater"):
            raise ValueError(f"kind '{self.kind}' has no 'margin'")
        return self


def load_claims(path: Path | None = None) -> list[Claim]:
    """The paper's claims, or those of another file of the same form.

    Raises:
        UserError: a claim is not of the form.
    """
    source = path or files("augkd.study.paper").joinpath("claims.yaml")
    claims = []
    for entry in yaml.safe_load(source.read_text(encoding="utf-8")):
        try:
            claims.append(Claim.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{source}: {str(entry)[:50]} …: {key}: {first['msg']}") from None
    return claims


def compare(claim: Claim, scores: Scores | None) -> tuple[dict[str, Gain], list[str]]:
    """What a claim compares, e.g. "EDSR ×4 Urban100, augkd over kd": the gains, and the absent.

    ``scores``: ours, where some may not have been run; None for the paper's tables, whose gains
    are points.
    """
    found: dict[str, Gain] = {}
    absent: list[str] = []
    if scores is None and not claim.tables:
        return found, [f"{b} over {w}" for b, w in product(claim.better, claim.worse)]
    known = {cell["method"] for cell in _cells(claim.tables, claim.metric)}
    for pair in product(claim.better, claim.worse):
        over = " over ".join(map(str, pair))
        parts: dict[str, pd.Series] = {}
        for network, scale in product(claim.networks, claim.scales):
            if any(of.method in known and isnan(_cell(claim, network, scale, of)) for of in pair):
                continue  # CSD, say, is in EDSR's table but not in RCAN's
            of_place = (claim, network, scale, pair)
            gains = _printed(*of_place) if scores is None else _scored(*of_place, scores)
            parts |= {f"{NETWORKS[network]} ×{scale} {at}".strip(): g for at, g in gains.items()}
        absent += [f"{at}, {over}" for at, part in parts.items() if part.empty]
        parts = {at: part for at, part in parts.items() if not part.empty}
        if claim.over == "mean" and parts:
            names = str(len(parts)) if scores is None else ", ".join(parts)
            mean = pd.DataFrame(parts).dropna().mean(axis=1)  # of what all of them have
            if mean.empty:
                raise UserError(f"claim {claim.id}: no seed or image was scored in all of {names}")
            parts = {names if names in parts else f"mean of {names}": mean}
        for at, part in parts.items():
            point = round(float(part.iloc[0]), 9)
            gain = Gain(point, point, point, draws=np.array([point]))
            found[f"{at}, {over}"] = gain if scores is None else bootstrap_gain(part)
    return found, absent


@lru_cache
def _cells(tables: tuple[int, ...], metric: str) -> list[dict[Any, Any]]:
    """The students' numbers of the paper's tables in one metric."""
    cells = [cell for number in tables for cell in load_table(number).to_dict("records")]
    return [cell for cell in cells if (cell["metric"], cell["role"]) == (metric, "student")]


def _cell(claim: Claim, network: str, scale: int, of: Operand, dataset: str = "") -> float:
    """A printed number, nan if there is none; a table without scales has each of them."""
    keys = {"network": network, "method": of.method, "dataset": dataset}
    keys |= {"teacher": of.teacher, "training_set": of.training_set}
    for cell in _cells(claim.tables, claim.metric):
        if all(cell[key] == value for key, value in keys.items() if value) and (
            pd.isna(cell["scale"]) or cell["scale"] == scale
        ):
            return float(cell["value"])
    return nan


def _printed(claim: Claim, network: str, scale: int, pair: Pair) -> dict[str, pd.Series]:
    """Gains in the paper's tables by test set, empty where a number is not printed."""
    gains = {}
    for dataset in claim.datasets or ("",):
        better, worse = (_cell(claim, network, scale, of, dataset) for of in pair)
        gain = worse - better if claim.metric in LOWER_IS_BETTER else better - worse
        gains[dataset] = pd.Series([gain]).dropna()
    return gains


def _scored(
    claim: Claim, network: str, scale: int, pair: Pair, scores: Scores
) -> dict[str, pd.Series]:
    """Paired gains by cohort, where there are several; empty where one of the two was not run.

    Test sets are those of the claim where all of them are at hand, else all that are.
    """
    gains = {}
    place = {"network": network, "scale": scale}
    for cohort in claim.cohorts:
        start = (claim.metric, claim.split, network, scale)
        keys = [(*start, (of.cohort or cohort).format(**place), of.method) for of in pair]
        rows = [scores.get(key, pd.DataFrame(columns=["dataset"])) for key in keys]
        sets = {*rows[0]["dataset"]} & {*rows[1]["dataset"]}
        if claim.datasets and sets.issuperset(claim.datasets):
            sets = {*claim.datasets}
        better, worse = (part[part["dataset"].isin(sets)] for part in rows)
        at = cohort.format(**place) if len(claim.cohorts) > 1 else ""
        gains[at] = differences(better, worse, claim.metric) if sets else pd.Series()
    return gains


def decide(claim: Claim, gains: list[Gain], whole: bool, slack: float) -> Verdict:
    """Weighs comparisons by the table above.

    ``whole``: none is absent; ``slack``: how far rounding may have moved a printed gain.
    """
    if not gains:
        return "undecided"
    margin, value, slack = claim.margin, claim.value, slack + claim.rounding + 1e-9
    strict = [interval(gain.draws, 0.05 / len(gains)) for gain in gains]
    some_above = any(low > margin for low, _ in strict)
    some_below = any(high < margin for _, high in strict)
    apart = any(value < low - slack or value > high + slack for low, high in strict)
    told = all(gain.low > 0 or gain.high < 0 for gain in gains)
    holds, fails = {
        "greater": (whole and all(gain.low > margin for gain in gains), some_below),
        "at_most": (whole and all(gain.high <= margin for gain in gains), some_above),
        "sometimes_greater": (some_above, whole and all(gain.high < 0 for gain in gains)),
        "gain_of": (whole and told and not apart, apart and (whole or claim.over == "each")),
    }[claim.kind]
    return "fails" if fails else "holds" if holds else "undecided"


def _spare(claim: Claim, gain: Gain, verdict: Verdict) -> float:
    """How far a comparison is from straining its claim."""
    low, high = (gain.high, gain.low) if verdict == "fails" else (gain.low, gain.high)
    spare = {"greater": low, "at_most": -high, "sometimes_greater": -gain.low}
    return spare.get(claim.kind, -abs(gain.mean - claim.value))


def judge_paper(claims: Iterable[Claim]) -> pd.DataFrame:
    """Each claim against the paper's own tables, as ``judge``; gains have no intervals.

    A claim that its tables have no numbers for (Figures 2 and 6 print none) is undecided.
    """
    return pd.DataFrame([_row(claim, None) for claim in claims]).assign(low=nan, high=nan)


def judge(claims: Iterable[Claim], scores: pd.DataFrame, *, sizes: bool = True) -> pd.DataFrame:
    """Each claim against our scores, tidy rows of any cohorts: one row a claim.

    ``sizes``: whether the scores can speak of the size of a gain, as those of the paper's own
    networks and schedule can. Without, a claim that states a size (``gain_of``) is undecided.

    Columns: claim, topic, title, section, quote, kind, verdict (holds, fails, undecided, not
    run); gain, low, high (95 %) in unit, with seeds, images and datasets, of the comparison that
    strains the claim most; compared and absent count its comparisons; note says what to mind.
    """
    tables: Scores = dict(list(scores.groupby(KEYS)))
    return pd.DataFrame([_row(claim, tables, sizes) for claim in claims])


def _row(claim: Claim, scores: Scores | None, sizes: bool = True) -> dict[str, Any]:
    printed, unit = scores is None, UNITS.get(claim.metric, "dB")
    found, absent = compare(claim, scores)
    slack = 10.0 ** -DECIMALS[unit] if printed else 0.0  # two numbers, each off by half of that
    verdict = decide(claim, [*found.values()], not absent, slack) if found or printed else "not run"
    known = {at: gain for at, gain in found.items() if not isnan(gain.low)} or found
    telling = min(known, key=lambda at: _spare(claim, known[at], verdict), default="")
    gain = found.get(telling, Gain())
    sets = claim.datasets if printed else gain.datasets
    other = bool(found) and set(sets) != set(claim.datasets)  # images stand in for its own
    unsized = claim.kind == "gain_of" and bool(found) and not sizes
    near = any(abs(g.mean - claim.margin) <= slack + 1e-9 for g in found.values())
    listed = "; ".join(absent[:3]) + f" and {len(absent) - 3} more" * (len(absent) > 3)
    lacks = f"absent: {listed}" if found else f"needs {', '.join(claim.needs) or listed}"
    notes = {
        claim.stand_in: other,
        f"on {', '.join(sets)} in place of {', '.join(claim.datasets)}": other and claim.datasets,
        f"of {len(found)}, the telling one: {telling}" if len(found) > 1 else telling: True,
        "states a size, and these are not the paper's networks": unsized,
        "within the rounding of the printed numbers": printed and near and claim.kind != "gain_of",
        "one seed: another training may differ": any(g.seeds == 1 for g in found.values()),
        "a lone number has no interval": found and isnan(gain.low),
        f"no printed number for {listed}" if printed else lacks: absent,
        claim.reading: True,
    }
    note = "; ".join(note for note, applies in notes.items() if note and applies)
    texts = claim.model_dump(include={"topic", "title", "section", "quote", "kind"})
    return (
        {"claim": claim.id, **texts, "verdict": "undecided" if unsized else verdict}
        | {"gain": gain.mean, "low": gain.low, "high": gain.high, "unit": unit}
        | {"seeds": gain.seeds, "images": gain.images, "datasets": ", ".join(sets)}
        | {"compared": len(found), "absent": len(absent), "note": note}
    )
