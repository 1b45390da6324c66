"""The front page's scorecard: the claims, their verdicts twice over, and where the gains lie."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from augkd.errors import UserError
from augkd.style import signed

VERDICTS = ("holds", "fails", "undecided", "not run")


@dataclass(frozen=True)
class Claim:
    """A row of verdicts.csv: what the paper claims, judged on its own numbers and on ours.

    Gains are in ``unit``, positive where they speak for the claim; nan where there is none.
    """

    id: str
    topic: str
    title: str
    section: str
    text: str
    paper_verdict: str
    paper_gain: float
    verdict: str
    gain: float
    low: float
    high: float
    unit: str
    seeds: int
    images: int
    note: str

    @property
    def place(self) -> str:
        """Section 4.2, Appendix A.2, Abstract."""
        if self.section[:1].isdigit():
            return f"Section {self.section}"
        return f"Appendix {self.section}" if self.section[1:2] == "." else self.section

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Axis:
    """Claims whose gains share a unit and so an axis."""

    unit: str
    low: float
    high: float
    ticks: tuple[float, ...]
    decimals: int
    claims: tuple[Claim, ...]

    def at(self, value: float) -> str:
        """Where a value lies along the axis, in percent; values beyond it lie at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{100 * share:.2f}%"

    def beyond(self, value: float) -> int:
        """1 or -1 where a value lies beyond the axis, to the right or to the left; else 0."""
        return (value > self.high) - (value < self.low)

    def leaves(self, claim: Claim) -> set[int]:
        """On which sides something of a claim lies beyond the axis: -1, 1."""
        return {self.beyond(v) for v in (claim.paper_gain, claim.gain, claim.low, claim.high)} - {0}

    @property
    def parts(self) -> list[tuple[str, list[Claim]]]:
        """Its claims by topic."""
        return by_topic(self.claims)

    @property
    def drawn(self) -> bool:
        """Whether any claim has a gain at all."""
        return any(math.isfinite(v) for c in self.claims for v in (c.gain, c.paper_gain))

    def tick(self, value: float) -> str:
        """The label of a tick; where labels are long, the ends and zero alone have one."""
        if self.ticks[1] - self.ticks[0] < 0.005 and value not in (0, self.low, self.high):
            return ""
        return "0" if value == 0 else f"{value:+g}".replace("-", "−")

    def text(self, value: float) -> str:
        return signed(value, self.decimals) if math.isfinite(value) else "–"


def read_claims(path: Path) -> list[Claim]:
    """The rows of verdicts.csv.

    Raises:
        UserError: a missing column, an unknown verdict, or a value that is not a number.
    """
    mend = "remove it and run make repro"
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = sorted({f.name for f in fields(Claim)} - set(rows.fieldnames or ()))
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}': {mend}")
        claims = []
        for row in rows:
            try:
                claims.append(_claim(row))
            except ValueError as error:
                raise UserError(f"{path}, claim '{row['id']}': {error}: {mend}") from None
    return claims


def _claim(row: dict[str, str]) -> Claim:
    for key in ("paper_verdict", "verdict"):
        if row[key] not in VERDICTS:
            raise ValueError(f"{key} is '{row[key]}', not one of {', '.join(VERDICTS)}")
    paper_gain, gain, low, high = (
        float(row[key]) if row[key] else math.nan for key in ("paper_gain", "gain", "low", "high")
    )
    seeds, images = (int(float(row[key] or 0)) for key in ("seeds", "images"))
    return Claim(
        id=row["id"],
        topic=row["topic"],
        title=row["title"] or row["id"].replace("_", " "),
        section=row["section"],
        text=row["text"],
        paper_verdict=row["paper_verdict"],
        paper_gain=paper_gain,
        verdict=row["verdict"],
        gain=gain,
        low=low,
        high=high,
        unit=row["unit"],
        seeds=seeds,
        images=images,
        note=row["note"],
    )


def matrix(claims: Sequence[Claim]) -> list[tuple[str, list[tuple[str, list[Claim]]]]]:
    """Claims by the verdict on the paper's own numbers (rows) and on ours (columns).

    Verdicts that no claim has on the paper's numbers have no row; columns are always all four.
    """
    return [
        (paper, [(ours, [c for c in group if c.verdict == ours]) for ours in VERDICTS])
        for paper in VERDICTS
        if (group := [c for c in claims if c.paper_verdict == paper])
    ]


def by_topic(claims: Sequence[Claim]) -> list[tuple[str, list[Claim]]]:
    """Claims under their topics, in the order in which topics first appear."""
    topics: dict[str, list[Claim]] = {}
    for claim in claims:
        topics.setdefault(claim.topic, []).append(claim)
    return list(topics.items())


def axes(claims: Sequence[Claim]) -> Iterator[Axis]:
    """One axis a unit, in the order in which units first appear."""
    order = {unit: i for i, unit in reversed(list(enumerate(c.unit for c in claims)))}
    for unit, group in groupby(sorted(claims, key=lambda c: order[c.unit]), lambda c: c.unit):
        rows = tuple(group)
        # One vague interval or one huge gain must not flatten all others: nine points in ten set
        # the range. What leaves it is drawn with an arrow and read from its numbers.
        points = [v for c in rows for v in (c.paper_gain, c.gain) if math.isfinite(v)] or [1.0]
        sizes = sorted(map(abs, points))
        most = sizes[math.ceil(0.9 * len(sizes)) - 1]
        if sizes[-1] > 2 * most:
            points = [min(max(v, -most), most) for v in points]
        step = _step(max(0.0, *points) - min(0.0, *points))
        low = step * math.floor(min(0.0, *points) / step - 0.35)
        high = step * math.ceil(max(0.0, *points) / step + 0.35)
        ticks = [round(low + step * k, 9) for k in range(round((high - low) / step) + 1)]
        decimals = min(max(2, 1 - math.floor(math.log10(step))), 4)
        yield Axis(unit, low, high, tuple(ticks), decimals, rows)


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, such that a span has about five steps."""
    if span <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(span / 5))
    return next((m * power for m in (1, 2, 5) if span / (m * power) <= 5), 10 * power)
