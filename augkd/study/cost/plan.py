"""What a budget asks for, before it is run: ``augkd plan``. See docs/plan.md."""

import math
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from graphlib import TopologicalSorter
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.distill import Teacher
from augkd.options import Training
from augkd.study.acquire.registry import Checkpoint, Dataset, Registry, load_registry
from augkd.study.cost.passes import Step, count_step, entry_of, noise, untrained
from augkd.study.cost.steps import seconds, update
from augkd.study.params import Cohort, Study, TeacherEntry
from augkd.study.pipeline.stage import Stage, pipeline, upstream
from augkd.study.prepare import SCALES, Photograph, photographs
from augkd.study.record import device_name
from augkd.train import single_core

LIMIT = 10.0  # seconds, after which no training is timed but the first of its kind
FEWEST = 3  # images that RKD compares
SIDES = (12, 24)  # of patches, multiples of every scale
ROUNDS = 5
LARGE = 2040 * 1356  # pixels of an image of DIV2K and Flickr2K, nearly all of which are 2K wide
SMALL = 1024 * 768  # of a test image whose size is not known before it is fetched
BESIDE = 13 * " "  # where figures begin
WITH_LR = 1 + sum(1 / scale**2 for scale in SCALES)

Key = tuple[str, str]
"""A training: its stage ("teach" or "distil") and name."""


class Timed(NamedTuple):
    """Seconds of a step."""

    draw: float  # of the batch, timed at its full size
    update: float  # of teacher and students, timed or extrapolated by operations
    share: float  # of the step's operations that was timed; 0 where another training's was


def time_steps(
    study: Study, steps: Mapping[Key, Step], device: torch.device, limit: float
) -> Iterator[tuple[Key, Timed]]:
    """Times a step of each training while ``limit`` seconds last, those of least work first.

    The smallest training of each kind (by network and what it learns from) is always timed.
    Later ones of a kind, once time is up, are taken to be as fast as the one timed of their kind
    that is nearest in operations.

    Args:
        steps: of ``count_step``, by stage and name.
    """
    end = time.perf_counter() + limit
    work = {training: step.operations() for training, step in steps.items()}
    order = sorted(steps, key=lambda training: work[training])
    kinds = {training: _kind(training, entry_of(study, *training)) for training in order}
    first = {kinds[training]: training for training in reversed(order)}
    order.sort(key=lambda training: training not in first.values())
    found: dict[Key, Timed] = {}
    for i, training in enumerate(order):
        left = end - time.perf_counter()
        if left > 0 or training in first.values():
            share = max(left, 0.0) / (len(order) - i)
            timed = found[training] = time_step(study, training, steps[training], device, share)
        else:
            alike = [other for other in found if kinds[other] == kinds[training]]
            nearest = max(alike, key=lambda other: work[other])
            times = work[training] / work[nearest]
            timed = Timed(found[nearest].draw, found[nearest].update * times, 0.0)
        yield training, timed


def _kind(training: Key, entry: Cohort | TeacherEntry) -> tuple[object, ...]:
    """What makes a training's steps as fast as another's."""
    return training[0], entry.network, entry.degradation, bool(getattr(entry, "bits", ()))


def time_step(study: Study, training: Key, step: Step, device: torch.device, limit: float) -> Timed:
    """Times steps of a training, untrained networks on noise, of each method one student.

    It begins with the smallest batch and patch, and goes on to larger ones, at last the
    training's own, while three such steps fit into what is left of ``limit`` seconds.

    Args:
        step: of ``count_step``.
    """
    end, entry = time.perf_counter() + limit, entry_of(study, *training)
    schedule = study.schedule(entry)
    few, sides = min(FEWEST, schedule.batch), [side for side in SIDES if side < schedule.patch]
    sizes = [*((few, side) for side in (*sides, schedule.patch)), (schedule.batch, schedule.patch)]
    with TemporaryDirectory() as folder, single_core(device):
        sampler = _sampler(study, entry, schedule, Path(folder), device)
        draw = _median(partial(next, map(sampler.draw, count())), device, limit / 4)
        members, network = untrained(study, *training, device)
        teacher = Teacher(network) if network else None
        rate, timed = 0.0, Timed(draw, 0.0, 0.0)
        for images, side in dict.fromkeys(sizes):
            part = step.operations(images / schedule.batch, side / schedule.patch, copies=1)
            left = end - time.perf_counter()
            if rate and 3 * part / rate > left:
                break
            smaller = replace(schedule, batch=images, patch=side)
            batch = noise(smaller, entry.scale, study.params.augment.crops, device)
            took = _median(partial(update, members, teacher, batch), device, left / 2)
            rate, whole = part / took, step.operations()
            timed = Timed(draw, whole / rate, part / whole)
    return timed


def _median(call: Callable[[], object], device: torch.device, limit: float) -> float:
    """Seconds of a call, the median of some after one that warms up, while ``limit`` lasts."""
    took, end = [seconds(call, device)], time.perf_counter() + limit
    while len(took) < 2 or (len(took) <= ROUNDS and time.perf_counter() + took[-1] < end):
        took.append(seconds(call, device))
    return statistics.median(took[1:])


def _sampler(
    study: Study,
    entry: Cohort | TeacherEntry,
    training: Training,
    folder: Path,
    device: torch.device,
) -> PatchSampler:
    """Of four images of noise, twice as wide as a patch."""
    scale, side, augment = entry.scale, 2 * training.patch, study.params.augment
    hr, lr = (
        torch.randint(256, (3, length, length), dtype=torch.uint8)
        for length in (scale * side, side)
    )
    write_store(folder / "s", [Prepared("noise", f"{i}", hr, {scale: lr}, "") for i in range(4)])
    return PatchSampler(
        ImageStore(folder / "s"),
        scale=scale,
        patch=training.patch,
        batch=training.batch,
        seed=study.params.seed,
        edges=study.params.data.edges,
        crops=augment.crops,
        probability=augment.probability,
        degradation=entry.degradation,
        device=device,
    )


class Disk(NamedTuple):
    """Bytes."""

    fetched: int  # archives and checkpoints
    unknown: tuple[str, ...]  # files among them whose size nobody has published: not in ``fetched``
    prepared: int  # the stores of pixels
    measured: bool  # whether those are there, so that it is their size; else it is an estimate


def disk(study: Study) -> Disk:
    """Raises UserError where the registry, or a listed photograph, is not as it should be."""
    images, parts = study.budget.images, ("train", "test", "benchmarks")
    stores = [study.folder("prepare") / part / "pixels.u8" for part in parts]
    measured, sizes = all(store.is_file() for store in stores), dict[str, int]()
    if images.datasets:
        registry = load_registry(study.root / study.params.data.registry)
        datasets = [registry.dataset(name) for name in images.datasets.names()]
        pixels: float = sum(d.images * (SMALL if d.role == "test" else LARGE) for d in datasets)
        sizes = _file_sizes(study, registry, datasets)
    else:
        listed = [*photographs("train", images.train), *photographs("test", images.test)]
        pixels = 0 if measured else sum(map(_pixels, listed))
    there = sum(store.stat().st_size for store in stores) if measured else 0
    unknown = tuple(file for file, size in sizes.items() if not size)
    prepared = there or round(3 * WITH_LR * pixels)
    return Disk(sum(sizes.values()), unknown, prepared, measured)


def _file_sizes(study: Study, registry: Registry, datasets: list[Dataset]) -> dict[str, int]:
    """Of all that the budget fetches; 0 where none is published. Of several sources, one of known
    size is taken."""
    budget = study.budget
    entries: list[Dataset | Checkpoint] = [*datasets]
    entries += [registry.dataset(part) for dataset in datasets for part in dataset.parts]
    entries += [registry.checkpoint(name) for name in budget.checkpoints.values()]
    choices = [[source.files for source in entry.sources] for entry in entries if entry.sources]
    vgg = [Path(options["vgg"]).name for options in budget.methods.values() if options.get("vgg")]
    choices += [[(name,)] for name in vgg if name in registry.files]
    sizes = {name: file.bytes or file.about_bytes or 0 for name, file in registry.files.items()}
    chosen = [next((s for s in c if all(sizes[file] for file in s)), c[0]) for c in choices]
    return {file: sizes[file] for source in chosen for file in source}


def _pixels(photograph: Photograph) -> float:
    with Image.open(photograph.locate()) as image:
        return image.width * image.height / photograph.shrink**2


class Plan(NamedTuple):
    """A budget's plan.

    ``trainings`` has a row each: stage, name, students, steps, updates (the optimisers', of all
    students), operations (multiply-accumulates) and operations_apart (were each student trained by
    itself), memory, weights, resume (bytes); and, NaN where nothing was measured, draw, update
    (seconds of a step), share (of a step's operations that was timed), hours and hours_apart.
    """

    budget: str
    stages: int  # that DVC runs
    trainings: pd.DataFrame
    chain: tuple[str, ...]  # names of the trainings that wait for one another for longest
    disk: Disk
    device: str  # on which was measured; "" if nothing was
    cores: int  # of a CPU, each of which may compute a stage; 1 of another device


def make_plan(study: Study, measure: bool = True, limit: float = LIMIT) -> Plan:
    """Counts every training of a budget, and times steps of each if ``measure``.

    Raises:
        UserError: the study's files are not as they should be.
    """
    stages = pipeline(study.root, study.budget.name)
    trainings = [
        (stage.notebook, stage.entry)
        for stage in stages.values()
        if stage.notebook == "distil"
        or (stage.notebook == "teach" and study.teacher(stage.entry).trained)
    ]
    bar = partial(tqdm, total=len(trainings), unit="training", ncols=88, disable=None)
    steps = {training: count_step(study, *training) for training in bar(trainings, "counting")}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = dict.fromkeys(trainings, Timed(math.nan, math.nan, math.nan))
    if measure:
        found |= bar(time_steps(study, steps, device, limit), "timing")
    rows = []
    for (stage, name), step in steps.items():
        length = study.schedule(entry_of(study, stage, name)).steps
        rows.append(
            {
                "stage": stage,
                "name": name,
                "students": step.students,
                "steps": length,
                "updates": length * step.updates,
                "operations": length * step.operations(),
                "operations_apart": length * step.operations_apart(),
                "memory": step.memory,
                "weights": step.weights,
                "resume": step.resume,
                **found[stage, name]._asdict(),
            }
        )
    frame = pd.DataFrame(rows)
    ratio, hours = frame["operations_apart"] / frame["operations"], frame["steps"] / 3600
    frame["hours"] = hours * (frame["draw"] + frame["update"])
    # every student draws its own batches then
    frame["hours_apart"] = hours * (frame["students"] * frame["draw"] + ratio * frame["update"])
    costs = frame["hours" if measure else "operations"]
    chain = _longest(stages, dict(zip(trainings, costs, strict=True)))
    one = device.type == "cpu"
    place = f"one core of {device_name(device)}" if one else device_name(device)
    cores, name = torch.get_num_threads() if one else 1, study.budget.name
    return Plan(name, len(stages), frame, chain, disk(study), place if measure else "", cores)


def _longest(stages: Mapping[str, Stage], costs: Mapping[Key, float]) -> tuple[str, ...]:
    """The trainings that wait for one another for longest."""
    before, longest = upstream(stages), dict[str, tuple[float, tuple[str, ...]]]()
    for name in TopologicalSorter(before).static_order():
        key = stages[name].notebook, stages[name].entry
        cost, path = max((longest[other] for other in before[name]), default=(0.0, ()))
        own = (_label(*key),) if key in costs else ()
        longest[name] = cost + costs.get(key, 0.0), (*path, *own)
    return max(longest.values())[1]


def _label(stage: str, name: str) -> str:
    return f"teacher {name}" if stage == "teach" else name


def show(plan: Plan) -> str:
    """The plan in at most 100 columns."""
    frame, timed = plan.trainings, bool(plan.device)
    labels = [_label(*key) for key in zip(frame["stage"], frame["name"], strict=True)]
    total, most = frame.sum(numeric_only=True), frame.iloc[frame["memory"].argmax()]
    table = pd.DataFrame(
        {
            "training": labels,
            "students": frame["students"],
            "updates": frame["updates"].map("{:,}".format),
            "operations": frame["operations"].map("{:.3g}".format),
            "apart": (frame["operations_apart"] / frame["operations"]).map("{:.2f} x".format),
            "memory": (frame["memory"] / 2**30).map("{:.2f} GiB".format),
        }
    )
    if timed:
        table["hours"] = frame["hours"].map(_number)
        table["apart "] = (frame["hours_apart"] / frame["hours"]).map("{:.2f} x".format)
        table["timed"] = frame["share"].map(_share)
    weights, resume, room = total["weights"], 2 * frame["resume"].max(), plan.disk
    needed = room.fetched + 2 * (room.prepared + weights) + resume
    unknown = f"{BESIDE}besides {len(room.unknown)} files of unpublished size"
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
        f"memory       {most['memory'] / 2**30:.2f} GiB at most ({most['name']})",
        f"disk         {_gb(needed)}: fetched {_gb(room.fetched)}, prepared {_gb(room.prepared)} "
        f"({'as they lie there' if room.measured else 'estimated'}),",
        f"{BESIDE}weights {_gb(weights)}, both again in DVC's cache; state of a run {_gb(resume)}",
        *([unknown] if room.unknown else []),
        *_hours(plan, frame[[label in plan.chain for label in labels]]),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _hours(plan: Plan, chain: pd.DataFrame) -> Iterator[str]:
    frame, names = plan.trainings, " > ".join(plan.chain)
    if not plan.device:
        yield "hours        not measured (--no-measure)"
        part = chain["operations"].sum() / frame["operations"].sum()
        yield _wrapped(f"longest chain  {part:.0%} of the operations: {names}")
        return
    hours, apart, waits = frame["hours"].sum(), frame["hours_apart"].sum(), chain["hours"].sum()
    yield (
        f"hours        {_number(hours)} of training on {plan.device}; {_number(apart)} apart, "
        f"{apart / hours:.2f} x"
    )
    if plan.cores > 1:
        least = max(hours / plan.cores, waits)
        yield f"{BESIDE}{_number(least)} at best on {plan.cores} cores, a stage on each"
    yield _wrapped(f"{BESIDE}{_number(waits)} on devices enough (augkd spread): {names}")
    if (frame["share"] < 1).any():
        yield f"{BESIDE}extrapolated by operations where less than a whole step was timed"
    if (frame["share"] == 0).any():
        yield f"{BESIDE}(-: not timed, taken to be as fast as one of its kind)"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 100, subsequent_indent=BESIDE)


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float) -> str:
    if value in (0, 1):
        return "whole" if value else "-"
    return f"1/{1 / value:,.0f}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
