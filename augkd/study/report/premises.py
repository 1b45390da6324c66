"""What has to be so before a comparison tests anything, computed from the run: protocol.yaml."""

import re
from collections.abc import Iterator
from functools import cache
from math import isfinite, nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from augkd.study.params import Study
from augkd.study.report.stats import PROTOCOL, Gain, by_image, differences, estimate, trainings
from augkd.study.report.style import signed

RULES: dict[str, dict[str, Any]] = PROTOCOL["premises"]
Place = tuple[str, str]  # cohort, method
_QUANTISED = re.compile(r"_\d+bit$")  # students of one cohort, whose other rows they share
_NOTHING = pd.DataFrame(columns=["step", "value", "zoomed"], dtype=float)


class Premise(NamedTuple):
    """One of a comparison: its name in protocol.yaml, whether it holds, and what was measured."""

    name: str
    met: bool
    value: float = nan
    low: float = nan
    high: float = nan

    def __str__(self) -> str:
        title, unit = RULES[self.name]["title"], RULES[self.name]["unit"]
        if not isfinite(self.value):
            return f"{title}: not measured"
        shown = signed(self.value, 2) if unit == "dB" else f"{self.value:.3g}"
        ends = f" [{signed(self.low, 2)}, {signed(self.high, 2)}]" if isfinite(self.low) else ""
        way = (" (rising)" if self.value > 0 else " (falling)") * (self.name == "settled")
        return f"{title}: {shown}{ends} {unit}".strip() + way * (not self.met)


def histories(study: Study, *cohorts: str) -> pd.DataFrame:
    """What the students of cohorts, or of all, were while they were trained.

    Returns:
        cohort and method as scores have them, step, value (validation PSNR-Y of averaged weights,
        dB; of each seed), zoomed (side of a zoomed-out patch, LR pixels; nan
        for methods that do not zoom out).
    """
    tables = [pd.DataFrame(columns=["cohort", "method", "step", "value", "zoomed"])]
    for name in study.trained(*cohorts):
        cohort = study.cohort(name)
        folders = (study.folder("distil", training) / "curves" for training in study.parts(name))
        curves = pd.concat([pd.read_csv(folder / "validation.csv") for folder in folders])
        students = curves["member"].str.replace(r"-\d+$", "", regex=True)
        for student, (method, bits) in cohort.variants().items():
            options = {"method": method} | cohort.methods[method]
            out = options["method"] in PROTOCOL["zooms_out"] and options.get("zoom_out", True)
            side = study.schedule(cohort).patch / cohort.scale if out else nan
            own = {"cohort": f"{name}_{bits}bit" if bits else name, "method": method}
            tables.append(curves[students == student].assign(**own, zoomed=side))
    return pd.concat(tables[1:] or tables, ignore_index=True)


class Premises:
    """Those of any comparison among students that were scored.

    Args:
        scores: tidy rows of cohorts; those on test images are read, by PSNR-Y, or where it cannot
            be had (Table 5) by NIQE.
        past: as ``histories`` gives it.
    """

    def __init__(self, scores: pd.DataFrame, past: pd.DataFrame) -> None:
        tests = scores[(scores["split"] == "test") & scores["metric"].isin(["psnr_y", "niqe"])]
        self.rows: dict[Any, pd.DataFrame] = {
            place: rows[rows["metric"] == rows["metric"].max()]
            for place, rows in tests.groupby(["cohort", "method"])
        }
        stopped = scores[scores["metric"] == "stopped"]
        self.stopped = stopped.groupby(["cohort", "method"]).size().to_dict()
        self.past: dict[Any, pd.DataFrame] = dict(list(past.groupby(["cohort", "method"])))
        self.of, self._gain = cache(self._of), cache(self._compare)

    def _of(self, better: Place, worse: Place) -> tuple[Premise, ...]:
        """In the order of protocol.yaml; of several of one kind, that which is met least."""
        found = [*self._all(better, worse)]
        kinds = ([one for one in found if one.name == name] for name in RULES)
        return tuple(min(kind, key=lambda one: (one.met, one.value)) for kind in kinds if kind)

    def _all(self, *sides: Place) -> Iterator[Premise]:
        for cohort, method in sides:
            both = [(name, "scratch") for name in (cohort, *dict(sides))]  # its own, the other's
            scratch = next((place for place in both if place in self.rows), both[0])
            bicubic = self._gain(scratch, (_QUANTISED.sub("", scratch[0]), "bicubic"))
            measured = {"scratch": bicubic}
            if method != "scratch":
                teacher = _QUANTISED.sub("", cohort), "teacher"
                measured["teacher"] = self._gain(teacher, scratch)
            for name, gain in measured.items():
                met = gain.low > 0 and gain.mean >= RULES[name]["least"]
                yield Premise(name, met, gain.mean, gain.low, gain.high)
            if (cohort, method) in self.rows:
                count = len(trainings(by_image(self.rows[cohort, method])))
                count -= self.stopped.get((cohort, method), 0)
                yield Premise("trainings", count >= RULES["trainings"]["least"], count)
            side = self.past.get((cohort, method), _NOTHING)["zoomed"].max()
            if isfinite(side):
                yield Premise("zoomed", side >= RULES["zoomed"]["least"], side)
        yield self._settled(*sides)

    def _settled(self, better: Place, worse: Place) -> Premise:
        gain, changes = self._gain(better, worse), []
        for place in (better, worse):
            curve = self.past.get(place, _NOTHING).groupby("step")["value"].mean()
            early = curve[curve.index <= PROTOCOL["late"] * curve.index.max()]
            changes.append(curve.iloc[-1] - early.iloc[-1] if len(early) else nan)
        value, most = changes[0] - changes[1], RULES["settled"]["most"]
        reach = (gain.high - gain.low) / 2
        return Premise("settled", abs(value) < np.fmax(most, reach), value)

    def _compare(self, better: Place, worse: Place) -> Gain:
        if not (better in self.rows and worse in self.rows):
            return Gain()
        a, b = self.rows[better], self.rows[worse]
        return estimate(differences(a, b, str(a["metric"].iloc[0])))
