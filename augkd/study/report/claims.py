"""The paper's claims, and one judge for them: on its own printed numbers, and on our scores.

A claim is unrolled into its single comparisons (``compare``), each of which speaks for it or
against it with a p-value, and has premises. docs/protocol.md says how they are weighed together,
and what the verdicts mean; thresholds are those of protocol.yaml.

The paper's numbers have no interval, so points are compared. Equal printed numbers leave an order
undecided, and a stated gain holds if rounding can explain the difference.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from importlib.resources import files
from itertools import chain, product
from math import ceil, inf, isnan, nan
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, BeforeValidator, Field

from augkd.errors import UserError
from augkd.study.paper import load_table
from augkd.study.report.premises import RULES, Place, Premises
from augkd.study.report.stats import (
    LOWER_IS_BETTER,
    PROTOCOL,
    TINY,
    Gain,
    correct,
    differences,
    doubts,
    estimate,
)
from augkd.study.report.style import DECIMALS, METHOD_NAMES, NETWORKS

OWN, HERE = ("holds", "fails"), ("seen here", "opposite seen here")  # for and against a claim
VERDICTS = (*OWN, *HERE, "no difference", "undecided", "not tested here", "not run")
UNITS = {"ssim_y": "SSIM", "niqe": "NIQE", "seconds_per_step": "s"}  # of others: dB
_CALLED = METHOD_NAMES | {"csd": "CSD"}  # no other is judged
KEYS = ["metric", "split", "network", "scale", "cohort", "method"]
FACTS = ["claim", "comparison", "premise", "met", "value", "measured"]
GAINS = ["claim", "comparison", "weight", "label", "gain", "low", "high", "seeds", "images"]
GAINS += ["met", "unit"]
Scores = Mapping[tuple[object, ...], pd.DataFrame]  # tidy rows by ``KEYS``
Part = tuple[pd.Series, list[tuple[Place, Place]]]  # paired gains, and of what they are
Rows = list[dict[str, Any]]


class Operand(BaseModel, extra="forbid", frozen=True):
    """One side of a comparison: a method, and where it is if not where the claim says.

    ``teacher`` and ``training_set`` are keys of the paper's Tables 4 and 9, ``cohort`` of ours.
    """

    method: str
    teacher: str = ""
    training_set: str = ""
    cohort: str = ""

    def __str__(self) -> str:
        return self._called(self.method)

    @property
    def label(self) -> str:
        """For readers: the method by its name."""
        return self._called(_CALLED.get(self.method, self.method))

    def _called(self, name: str) -> str:
        marks = (self.teacher and f"teacher {self.teacher}", self.training_set)
        detail = ", ".join(filter(None, marks))
        return f"{name} ({detail})" if detail else name


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
    whole: bool = False
    needs: tuple[str, ...] = ()
    alone: str = ""
    stand_in: str = ""
    reading: str = ""


def load_claims() -> list[Claim]:
    """The paper's claims."""
    source = files("augkd.study.paper").joinpath("claims.yaml")
    return [Claim(**entry) for entry in yaml.safe_load(source.read_text(encoding="utf-8"))]


def compare(claim: Claim, scores: Scores | None) -> tuple[Rows, list[str]]:
    """What a claim compares: its gains, and the comparisons that are absent.

    ``scores``: ours, where some may not have been run; None for the paper's tables, whose gains
    are points.

    Returns:
        Rows of a comparison ("EDSR ×4 Urban100, augkd over kd") at one weight of both methods: at,
        weight (its number), methods, label (with their names), the fields of its Gain, sides.
    """
    rows: Rows = []
    absent: list[str] = []
    if scores is None and not claim.tables:
        return rows, [f"{b} over {w}" for b, w in product(claim.better, claim.worse)]
    for pair in product(claim.better, claim.worse):
        over, whole = " over ".join(map(str, pair)), set[str]()
        for weight, weights in enumerate(_weighted(pair)):
            every = _parts(claim, pair, weights, scores)
            parts = {at: part for at, part in every.items() if not part[0].empty}
            if not weight:
                absent += [f"{at}, {over}" for at in every if at not in parts]
                whole = {*parts}
            if claim.over == "mean" and parts:
                if {*parts} != whole:
                    continue  # the mean of some at one weight is not that of all at another
                parts = _mean(claim, parts, printed=scores is None)
            for at, (part, sides) in parts.items():
                point = Gain(round(float(part.iloc[0]), 9), error=TINY)
                gain = point if scores is None else estimate(part)
                label = f"{at}, {' over '.join(of.label for of in weights)}"
                names = {"at": f"{at}, {over}", "weight": weight, "label": label, "sides": sides}
                names["methods"] = tuple(of.method for of in weights)
                rows.append(names | gain._asdict())
    return rows, absent


def _weighted(pair: Pair) -> list[Pair]:
    """Two methods at the weights of a teacher's answers that the paper may mean, one for both."""
    names = [PROTOCOL["variants"].get(of.method, [of.method]) for of in pair]
    count = max(map(len, names))
    sides = [
        [of.model_copy(update={"method": name}) for name in (own * count)[:count]]
        for of, own in zip(pair, names, strict=True)
    ]
    return list(zip(*sides, strict=True))


def _parts(claim: Claim, pair: Pair, weights: Pair, scores: Scores | None) -> dict[str, Part]:
    """Single gains by network, scale, and test set or cohort; empty where a number is absent."""
    parts: dict[str, Part] = {}
    known = {cell["method"] for cell in _cells(claim.tables, claim.metric)}
    for network, scale in product(claim.networks, claim.scales):
        if any(of.method in known and isnan(_cell(claim, network, scale, of)) for of in pair):
            continue  # CSD, say, is in EDSR's table but not in RCAN's
        place = (claim, network, scale, weights)
        gains = _printed(*place) if scores is None else _scored(*place, scores)
        parts |= {f"{NETWORKS[network]} ×{scale} {at}".strip(): g for at, g in gains.items()}
    return parts


def _mean(claim: Claim, parts: dict[str, Part], printed: bool) -> dict[str, Part]:
    """The mean of gains, over what all of them have."""
    names = str(len(parts)) if printed else ", ".join(parts)
    mean = pd.DataFrame({at: part for at, (part, _) in parts.items()}).dropna().mean(axis=1)
    if mean.empty:
        raise UserError(f"claim {claim.id}: no seed or image was scored in all of {names}")
    sides = [pair for _, sides in parts.values() for pair in sides]
    return {names if names in parts else f"mean of {names}": (mean, sides)}


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


def _printed(claim: Claim, network: str, scale: int, pair: Pair) -> dict[str, Part]:
    """Gains in the paper's tables by test set, empty where a number is not printed."""
    gains: dict[str, Part] = {}
    for dataset in claim.datasets or ("",):
        better, worse = (_cell(claim, network, scale, of, dataset) for of in pair)
        gain = worse - better if claim.metric in LOWER_IS_BETTER else better - worse
        gains[dataset] = pd.Series([gain]).dropna(), []
    return gains


def _scored(claim: Claim, network: str, scale: int, pair: Pair, scores: Scores) -> dict[str, Part]:
    """Paired gains by cohort, where there are several; empty where one of the two was not run.

    Test sets are those of the claim where all of them are at hand, else all that are.
    """
    gains = {}
    place = {"network": network, "scale": scale}
    for cohort in claim.cohorts:
        start = (claim.metric, claim.split, network, scale)
        a, b = (((of.cohort or cohort).format(**place), of.method) for of in pair)
        deep = [(PROTOCOL["deep"].get(name), method) for name, method in (a, b)]
        if all((*start, *of) in scores for of in deep):
            a, b = deep
        rows = [scores.get((*start, *of), pd.DataFrame(columns=["dataset"])) for of in (a, b)]
        sets = {*rows[0]["dataset"]} & {*rows[1]["dataset"]}
        if claim.datasets and sets.issuperset(claim.datasets):
            sets = {*claim.datasets}
        better, worse = (part[part["dataset"].isin(sets)] for part in rows)
        at = cohort.format(**place) if len(claim.cohorts) > 1 else ""
        part = differences(better, worse, claim.metric) if sets else pd.Series()
        gains[at] = part, [(a, b)]
    return gains


def speak(claim: Claim, gains: pd.DataFrame, slack: float = 0.0) -> tuple[Any, Any]:
    """p-values that each gain does not speak for the claim, and does not speak against it.

    ``slack``: how far rounding may have moved a printed gain.
    """
    above, below = doubts(gains, claim.margin)
    if claim.kind == "gain_of":  # apart from zero; apart from what is stated
        reach = slack + claim.rounding
        beyond, short = doubts(gains, claim.value + reach)[0], doubts(gains, claim.value - reach)[1]
        return np.minimum(above, below), np.minimum(beyond, short)
    return (below, above) if claim.kind == "at_most" else (above, below)


def weigh(kind: str, pro: Any, contra: Any) -> tuple[Any, Any]:
    """p-values that a claim is not so, and is not refuted, of arrays (..., comparisons).

    One comparison refutes a claim, or shows what is so sometimes: the smallest of m counts m
    times. All have to speak for a claim, or against what is so sometimes: the largest counts.
    """
    if kind == "sometimes_greater":
        return weigh("", contra, pro)[::-1]
    return pro.max(-1), np.minimum(contra.shape[-1] * contra.min(-1), 1)


def judge_paper(claims: Iterable[Claim]) -> pd.DataFrame:
    """Each claim against the paper's own tables, as ``judge``; gains have no intervals.

    A claim that its tables have no numbers for (Figures 2 and 6 print none) is undecided.
    """
    table = pd.DataFrame([_row(claim, None, None, True)[0] for claim in claims])
    table["p"] = table[["pro", "contra"]].min(axis=1)
    table["verdict"] = [_verdict(row, True) for row in table.to_dict("records")]
    return table.assign(low=nan, high=nan).replace({"verdict": {"not run": "undecided"}})


def judge(
    claims: Iterable[Claim], scores: pd.DataFrame, past: pd.DataFrame, *, own: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Each claim against our scores, tidy rows of any cohorts, and its premises.

    Args:
        past: how their students learnt, as ``premises.histories`` has it.
        own: whether this is the paper's own setting, its networks and its schedule.

    Returns:
        Verdicts, one row a claim: claim, topic, title, section, quote, kind, verdict, shown (the
        same in full), reason (why it is not tested), scope (of what is tested); pro, contra
        (p-values for and against), p (the smaller, corrected for the page's others); gain, low,
        high (95 %) in unit, seeds, images and datasets of the comparison that strains the claim
        most; compared, tested and absent count its comparisons; note says what to mind.
        Premises, one row each: claim, comparison, premise, met, value, measured.
        Comparisons, one row each at one weight: those of ``GAINS``; met: whether premises hold.
    """
    tables: Scores = dict(list(scores.groupby(KEYS)))
    premises = Premises(scores, past)
    made = (_row(claim, tables, premises, own) for claim in claims)
    rows, facts, compared = zip(*made, strict=True)
    gains = pd.concat([part for part in compared if len(part)] or compared)[GAINS]
    table = pd.DataFrame(rows)
    table["p"] = correct(table[["pro", "contra"]].min(axis=1).where(table["tested"] > 0))
    table["verdict"] = [_verdict(row, own) for row in table.to_dict("records")]
    at_weights = (table["verdict"] == "undecided") & table["split"]
    shown = table["verdict"].mask(at_weights, "undecided (depends on λ)")
    shown = shown.mask(shown == "no difference", shown + " larger than " + table["within"])
    whole = table["kind"].isin(["greater", "at_most"]) & (table["tested"] > 1)
    shown = shown.mask(whole & (shown == HERE[1]), shown + ": a counter-example")
    lone = shown.str.contains("seen") & table["one_weight"]
    table["shown"] = shown.mask(lone, shown + ", at one λ")
    return table, pd.DataFrame([*chain(*facts)], columns=FACTS), gains


def _verdict(row: dict[Any, Any], own: bool) -> str:
    if not row["tested"]:
        return "not tested here" if row["compared"] else "not run"
    if row["p"] <= PROTOCOL["error"]:
        return (OWN if own else HERE)[row["contra"] <= row["pro"]]
    return "no difference" if row["alike"] and not own else "undecided"


def _row(
    claim: Claim, scores: Scores | None, premises: Premises | None, own: bool
) -> tuple[dict[str, Any], Rows, pd.DataFrame]:
    """All that a claim's verdict rests on, but for the correction, its premises and gains."""
    unit, printed = UNITS.get(claim.metric, "dB"), premises is None
    decimals = DECIMALS[unit]
    slack = 10.0**-decimals if printed else 0.0  # two numbers, each off by half of that
    rows, absent = compare(claim, scores)
    sides = {(row["at"], pair): None for row in rows for pair in row.pop("sides")}  # each once
    facts: Rows = [
        dict(zip(FACTS, (claim.id, at, one.name, one.met, one.value, str(one)), strict=True))
        for at, pair in sides
        for one in (premises.of(*pair) if premises else ())
    ]
    unmet = [fact for fact in facts if not fact["met"]]
    found = pd.DataFrame(rows, columns=["at", "weight", "label", "methods", *Gain._fields])
    found["pro"], found["contra"] = speak(claim, found, slack)
    sometimes = claim.kind == "sometimes_greater"
    if not printed and sometimes:  # a weight that nobody chose shows nothing of a method
        found.loc[_uses(found, PROTOCOL["untuned"]), "pro"] = 1.0
    found["met"] = ~found["at"].isin([fact["comparison"] for fact in unmet])
    tested, out = found[found["met"]], found[~found["met"]]
    reason = RULES[unmet[0]["premise"]]["lacks"] if unmet and tested.empty else ""
    if rows and not own and (claim.margin or claim.value or claim.alone):
        tested, reason = tested.iloc[:0], claim.alone or PROTOCOL["sizes"]
    places = found["at"].nunique()
    part = bool(absent) or tested["at"].nunique() < places
    against = not sometimes and bool((out["contra"] <= PROTOCOL["error"]).any())
    weighed = partial(_weighed, claim, part=part, own=own, against=against)
    pro, contra = weighed(tested)
    each, one_weight = _by_weight(tested)
    split = min(map(min, map(weighed, each))) <= PROTOCOL["error"] < min(pro, contra)
    within = float(np.abs(tested[["low", "high"]].to_numpy(float)).max(initial=0.0))
    alike = within <= PROTOCOL["same"].get(unit, 0.0) and not (part and claim.whole)
    alike = alike and len(tested) > 0
    fine = 10 ** (decimals + 1)
    known = tested if len(tested) else found
    low, high = (known[end] for end in ("low", "high")[:: -1 if contra < pro else 1])
    if printed:
        low = high = known["mean"]
    strains = {"greater": low, "at_most": -high, "sometimes_greater": -low}
    strain = strains.get(claim.kind, -(known["mean"] - claim.value).abs()).fillna(inf)
    told = known.iloc[strain.argmin()].to_dict() if rows else Gain()._asdict() | {"label": ""}
    sets = claim.datasets if printed else told["datasets"]
    other = bool(rows) and set(sets) != set(claim.datasets)  # images stand in for its own
    near = bool((found["mean"].sub(claim.margin).abs() <= slack + 1e-9).any())
    untuned = {*chain(*tested["methods"])}.intersection(PROTOCOL["untuned"])
    handicapped = ", ".join(sorted(_CALLED[method] for method in untuned))
    listed, unfit = _listed(absent), _listed([*dict.fromkeys(f["comparison"] for f in unmet)])
    lacks = f"absent: {listed}" if rows else f"needs {', '.join(claim.needs) or listed}"
    notes = {
        claim.stand_in: other,
        f"on {', '.join(sets)} in place of {', '.join(claim.datasets)}": other and claim.datasets,
        f"of {len(found)}, the telling one: " * (len(found) > 1) + told["label"]: True,
        "; ".join(f["measured"] for f in unmet if f["comparison"] == told.get("at")): True,
        f"left out, since a premise fails: {unfit}": len(tested) and unmet,
        "what was left out speaks against it": len(tested) and against,
        "at one weight λ of the teacher's answers alone": not printed and one_weight,
        f"at weights that nobody chose for such students: {handicapped}": not printed and untuned,
        "within the rounding of the printed numbers": printed and near and claim.kind != "gain_of",
        f"no printed number for {listed}" if printed else lacks: absent,
        claim.reading: True,
    }
    row = claim.model_dump(include={"topic", "title", "section", "quote", "kind"})
    row |= {"claim": claim.id, "reason": reason, "pro": pro, "contra": contra, "split": split}
    row |= {key: told[key] for key in ("low", "high", "seeds", "images")}
    nearness = " to the teacher" * (claim.metric == "psnr_y_teacher")
    row |= {"gain": told["mean"], "unit": unit + nearness, "absent": len(absent)}
    row |= {"telling": told["label"], "one_weight": one_weight, "datasets": ", ".join(sets)}
    row["scope"] = ", ".join(dict.fromkeys(at.partition(",")[0] for at in tested["at"]))
    row |= {"compared": places, "tested": tested["at"].nunique(), "alike": alike}
    row["within"] = f"{ceil(within * fine) / fine:.{decimals + 1}f} {unit}" if alike else ""
    row["note"] = "; ".join(note for note, applies in notes.items() if note and applies)
    gains = found.rename(columns={"at": "comparison", "mean": "gain"})
    return row, facts, gains.assign(claim=claim.id, unit=row["unit"])


def _uses(gains: pd.DataFrame, methods: Iterable[str]) -> pd.Series:
    """Whether each gain is of one of these methods."""
    return gains["methods"].map(lambda of: not {*of}.isdisjoint(methods)).astype(bool)


def _by_weight(gains: pd.DataFrame) -> tuple[list[pd.DataFrame], bool]:
    """The comparisons at each weight, and whether one that could have several has one."""
    several = gains["at"].isin(gains["at"][gains["weight"] > 0])
    each = [gains[~several | (gains["weight"] == weight)] for weight in (0, 1)]
    return each, bool((_uses(gains, PROTOCOL["variants"]) & ~several).any())


def _listed(names: list[str]) -> str:
    """The first three, and how many more."""
    return "; ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _weighed(
    claim: Claim, gains: pd.DataFrame, *, part: bool, own: bool, against: bool
) -> list[float]:
    """p-values for and against a claim; of several weights, the larger counts.

    ``part``: it compares more than these gains, so that what "all" of them say is not enough.
    ``against``: some of what it compares beside them speaks against it.
    """
    if gains.empty:
        return [1.0, 1.0]
    each = gains.fillna({"pro": 1.0, "contra": 1.0}).groupby("at")[["pro", "contra"]].max()
    pro, contra = map(float, weigh(claim.kind, *each.to_numpy().T))
    sometimes, stated = claim.kind == "sometimes_greater", claim.kind == "gain_of"
    if part and (sometimes or (stated and claim.over == "mean")):
        contra = 1.0
    needed = not sometimes and (own or claim.whole)
    if against or (part and needed) or (stated and contra <= PROTOCOL["error"]):
        pro = 1.0
    return [pro, contra]
