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
"""

from collections.abc import Iterable
from math import isnan, nan
from typing import Literal

import pandas as pd

from augkd.comparisons import Comparison, Pool, compare, compare_paper
from augkd.errors import UserError
from augkd.paper.claim import Claim, load_claims

__all__ = ["Claim", "Comparison", "compare", "compare_paper", "judge", "judge_paper", "load_claims"]

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
    """Each claim against our scores (columns as of ``augkd.score``): one row a claim.

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
