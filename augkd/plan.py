"""What a budget asks for, before it is run: ``augkd plan``. See docs/plan.md."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pandas as pd
import torch
from tqdm import tqdm

from augkd.config import Study
from augkd.plan_disk import Disk, disk
from augkd.record import device_name
from augkd.stage import stage_commands
from augkd.step_count import count_step
from augkd.step_time import Timed, time_steps
from augkd.untrained import schedule

LIMIT = 60.0  # seconds, after which no training is timed but the first of its kind


@dataclass(frozen=True)
class Plan:
    """A budget's plan.

    Attributes:
        stages: how many DVC runs.
        trainings: a row each. stage, name, students, steps, updates (the optimisers', of all
            students), operations (multiply-accumulates) and operations_apart (were each student
            trained by itself), memory, weights, resume (bytes); draw, update (seconds of a step),
            share (of a step's operations that was timed), hours and hours_apart. The last five
            are NaN where nothing was measured.
        chain: names of the trainings that wait for one another for longest.
        device: what was, or would be, measured on; None if nothing was.
    """

    budget: str
    stages: int
    trainings: pd.DataFrame
    chain: tuple[str, ...]
    disk: Disk
    device: str | None


def make_plan(study: Study, measure: bool = True, limit: float = LIMIT) -> Plan:
    """Counts every training of a budget, and times steps of each if ``measure``.

    Raises:
        UserError: the study's files are not as they should be.
    """
    commands = stage_commands(study.budget.name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainings = list(_trainings(study, commands))
    rows, steps = [], {}
    for stage, name in tqdm(trainings, desc="counting", unit="training", ncols=88, disable=None):
        step, length = count_step(study, stage, name), schedule(study, stage, name).steps
        steps[stage, name] = step
        rows.append(
            {
                "stage": stage,
                "name": name,
                "students": step.count,
                "steps": length,
                "updates": length * step.updates,
                "operations": length * step.operations(),
                "operations_apart": length * step.operations_apart(),
                "memory": step.memory,
                "weights": step.seeds * sum(s.weights for s in step.students),
                "resume": step.seeds * sum(s.resume for s in step.students),
            }
        )
    frame = pd.DataFrame(rows)
    timed: list[Timed] = []
    if measure:
        each = time_steps(study, steps, device, limit)
        bar = tqdm(each, "timing", len(steps), unit="training", ncols=88, disable=None)
        found = dict(bar)
        timed = [found[training] for training in trainings]
    frame = _with_hours(frame, timed)
    place = _describe(device) if measure else None
    return Plan(study.budget.name, len(commands), frame, _chain(study, frame), disk(study), place)


def _trainings(study: Study, commands: dict[str, str]) -> Iterator[tuple[str, str]]:
    """("teach" or "distil", name) of every stage that trains, in the order of dvc.yaml."""
    for command in commands.values():
        stage, *names = command.split("augkd.stage ")[-1].split()
        if stage == "distil" or (stage == "teach" and study.teacher(names[-1]).trained):
            yield stage, names[-1]


def _with_hours(frame: pd.DataFrame, timed: list[Timed]) -> pd.DataFrame:
    """Hours together and apart; apart, every student draws its own batches."""
    columns = {
        c: [getattr(t, c) for t in timed] or float("nan") for c in ("draw", "update", "share")
    }
    frame = frame.assign(**columns)
    ratio = frame["operations_apart"] / frame["operations"]
    together = frame["draw"] + frame["update"]
    apart = frame["students"] * frame["draw"] + ratio * frame["update"]
    hours = frame["steps"] / 3600
    return frame.assign(hours=hours * together, hours_apart=hours * apart)


def _chain(study: Study, frame: pd.DataFrame) -> tuple[str, ...]:
    """The trainings that wait for one another for longest: by hours, or else by operations."""
    key = "operations" if frame["hours"].isna().any() else "hours"
    cost = {
        (r.stage, r.name_): getattr(r, key)
        for r in frame.rename(columns={"name": "name_"}).itertuples()
    }

    @cache
    def longest(stage: str, name: str) -> tuple[float, tuple[str, ...]]:
        if (stage, name) not in cost:
            return 0.0, ()
        before: list[tuple[str, str | None]]
        if stage == "teach":
            before = [("teach", study.teacher(name).start)]
        else:
            cohort = study.cohort(name)
            before = [("teach", cohort.teacher.trained), ("distil", cohort.teacher.student)]
            before += [("distil", cohort.start.cohort)] if cohort.start else []
        seconds, names = max((longest(s, n) for s, n in before if n), default=(0.0, ()))
        return seconds + cost[stage, name], (*names, _label(stage, name))

    return max(longest(*training) for training in cost)[1]


def _label(stage: str, name: str) -> str:
    return f"teacher {name}" if stage == "teach" else name


def _describe(device: torch.device) -> str:
    threads = torch.get_num_threads()
    note = f", {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else ""
    return device_name(device) + note


def show(plan: Plan) -> str:
    """The plan in at most 100 columns."""
    frame, timed = plan.trainings, plan.device is not None
    ratio = frame["operations_apart"] / frame["operations"]
    table = pd.DataFrame(
        {
            "training": [_label(s, n) for s, n in zip(frame["stage"], frame["name"], strict=True)],
            "students": frame["students"],
            "updates": frame["updates"].map("{:,}".format),
            "operations": frame["operations"].map("{:.3g}".format),
            "apart": ratio.map("{:.2f} x".format),
            "memory": (frame["memory"] / 2**30).map("{:.2f} GiB".format),
        }
    )
    if timed:
        table["hours"] = frame["hours"].map(_number)
        table["apart "] = (frame["hours_apart"] / frame["hours"]).map("{:.2f} x".format)
        table["timed"] = frame["share"].map(_share)
    total = frame[["students", "updates", "operations", "operations_apart"]].sum()
    lines = [
        f"budget {plan.budget}: {plan.stages} stages, of which {len(frame)} train "
        f"{total['students']:.0f} networks",
        "",
        *table.to_string(index=False).splitlines(),
        "",
        f"updates      {total['updates']:,.0f} of optimisers",
        f"operations   {total['operations']:.3g} multiply-accumulates; "
        f"{total['operations_apart']:.3g} apart, "
        f"{total['operations_apart'] / total['operations']:.2f} x",
        f"memory       {frame['memory'].max() / 2**30:.2f} GiB at most "
        f"({frame['name'].iloc[frame['memory'].argmax()]})",
        *_disk_lines(plan),
        *_hour_lines(plan),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _disk_lines(plan: Plan) -> list[str]:
    sizes, frame = plan.disk, plan.trainings
    runs, resume = sizes.prepared + int(frame["weights"].sum()), 2 * int(frame["resume"].max())
    how = "as they lie there" if sizes.measured else "estimated"
    lines = [
        f"disk         {_gb(sizes.fetched + 2 * runs + resume)}: fetched {_gb(sizes.fetched)}, "
        f"prepared {_gb(sizes.prepared)} ({how}),",
        f"             weights {_gb(int(frame['weights'].sum()))}, both again in DVC's cache; "
        f"state of a run {_gb(resume)}",
    ]
    if sizes.unknown:
        lines.append(f"             besides {len(sizes.unknown)} files of unpublished size")
    return lines


def _hour_lines(plan: Plan) -> list[str]:
    frame, names = plan.trainings, " > ".join(plan.chain)
    labels = [_label(s, n) for s, n in zip(frame["stage"], frame["name"], strict=True)]
    chain = frame[[label in plan.chain for label in labels]]
    if plan.device is None:
        part = chain["operations"].sum() / frame["operations"].sum()
        return [
            "hours        not measured (--no-measure)",
            *_wrapped(f"longest chain  {part:.0%} of the operations: {names}"),
        ]
    hours, apart = frame["hours"].sum(), frame["hours_apart"].sum()
    lines = [
        f"hours        {_number(hours)} of training on {plan.device}; {_number(apart)} apart, "
        f"{apart / hours:.2f} x",
        *_wrapped(
            f"{'':13}{_number(chain['hours'].sum())} on devices enough (augkd spread): {names}"
        ),
    ]
    if (frame["share"] < 1).any():
        lines.append(
            "             extrapolated by operations where less than a whole step was timed"
        )
    if (frame["share"] == 0).any():
        lines.append("             (-: not timed, taken to be as fast as one of its kind)")
    return lines


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 100, subsequent_indent=13 * " ", drop_whitespace=True)


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float) -> str:
    if value in (0, 1):
        return "whole" if value else "-"
    return f"1/{1 / value:,.0f}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
