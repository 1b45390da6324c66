"""What a budget asks for, before it is run: ``augkd plan``. See docs/plan.md."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import NamedTuple

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.distill import Teacher
from augkd.study.acquire.registry import Checkpoint, Dataset, load_registry
from augkd.study.cost.passes import Step, count_step, entry_of, noise, untrained
from augkd.study.cost.steps import time_rounds, update
from augkd.study.params import Study
from augkd.study.pipeline.stage import Stage, pipeline, upstream
from augkd.study.prepare import SCALES, photographs
from augkd.study.record import device_name

LIMIT = 10.0  # seconds, after which no training is timed but the first of its kind
FEWEST = 3  # images that RKD compares
SIDES = (12, 24)  # of patches, multiples of every scale
LARGE = 2040 * 1356  # pixels of an image of DIV2K and Flickr2K, nearly all of which are 2K wide
SMALL = 1024 * 768  # of a test image whose size is not known before it is fetched
WITH_LR = 1 + sum(1 / scale**2 for scale in SCALES)
BESIDE = 13 * " "  # where figures begin

Key = tuple[str, str]
"""A training: its stage ("teach" or "distil") and name."""

bar = partial(tqdm, unit="training", ncols=88, disable=None)


class Timed(NamedTuple):
    """Seconds of a step."""

    draw: float  # of the batch, timed at its full size
    update: float  # of teacher and students, timed or extrapolated by operations
    share: float  # of the step's operations that was timed; 0 where another training's was


def time_steps(
    study: Study, steps: Mapping[Key, Step], device: torch.device, limit: float
) -> dict[Key, Timed]:
    """Times a step of each training while ``limit`` seconds last, those of least work first.

    Once time is up, one is taken to be as fast as the nearest of its kind (by network and what it
    learns from) in operations, and timed if it is the first of its kind.
    """
    end, found, kinds = time.perf_counter() + limit, dict[Key, Timed](), dict[Key, object]()
    work = {key: step.operations() for key, step in steps.items()}
    for i, key in enumerate(bar(sorted(steps, key=work.__getitem__), "timing")):
        entry, left = entry_of(study, *key), max(0.0, end - time.perf_counter())
        kinds[key] = key[0], entry.network, entry.degradation, bool(getattr(entry, "bits", ()))
        alike = [other for other in found if kinds[other] == kinds[key]]
        if left or not alike:
            found[key] = time_step(study, key, steps[key], device, left / (len(steps) - i))
        else:
            near = found[alike[-1]]
            found[key] = Timed(near.draw, near.update * work[key] / work[alike[-1]], 0.0)
    return found


def time_step(study: Study, key: Key, step: Step, device: torch.device, limit: float) -> Timed:
    """Times steps of a training, untrained networks on noise, of each method one student.

    It begins with the smallest batch and patch, and goes on to larger ones, at last the
    training's own, while three such steps fit into what is left of ``limit`` seconds.
    """
    end, entry = time.perf_counter() + limit, entry_of(study, *key)
    training, scale = study.schedule(entry), entry.scale

    def median(call: Callable[[], object], limit: float) -> float:
        return float(time_rounds({"": call}, device, limit, (1, 5))[""].median())

    with TemporaryDirectory() as folder:
        low = 2 * training.patch
        hr, lr = (torch.randint(256, (3, n, n), dtype=torch.uint8) for n in (scale * low, low))
        write_store(Path(folder, "noise"), [Prepared("noise", "", hr, {scale: lr}, "")])
        sampler = PatchSampler(
            ImageStore(Path(folder, "noise")),
            scale=scale,
            patch=training.patch,
            batch=training.batch,
            seed=study.params.seed,
            edges=study.params.data.edges,
            degradation=entry.degradation,
            device=device,
            **study.params.augment.model_dump(),
        )
        timed = Timed(median(partial(sampler.draw, 0), limit / 4), 0.0, 0.0)
    members, network = untrained(study, entry, device)
    few = min(FEWEST, training.batch)
    sizes = [(few, side) for side in SIDES if side < training.patch]
    for images, side in (*sizes, (few, training.patch), (training.batch, training.patch)):
        part = step.operations(images / training.batch, side / training.patch, copies=1)
        share, left = part / step.operations(), max(0.0, end - time.perf_counter())
        if 3 * share * timed.update > left:
            break
        batch = noise(study, scale, images, side, device)
        took = median(partial(update, members, Teacher(network), batch), left / 2)
        timed = Timed(timed.draw, took / share, share)
    return timed


class Disk(NamedTuple):
    """Bytes."""

    fetched: int  # archives and checkpoints
    unknown: int  # how many files among them have no published size: not in ``fetched``
    prepared: int  # the stores of pixels
    measured: bool  # whether those are there, so that it is their size; else it is an estimate


def disk(study: Study) -> Disk:
    """Raises UserError where the registry, or a listed photograph, is not as it should be."""
    images, parts, sizes, pixels = study.budget.images, ("train", "test", "benchmarks"), [], 0.0
    if images.datasets:
        sizes, pixels = _fetched(study, images.datasets.names())
    else:
        for photograph in (*photographs("train", images.train), *photographs("test", images.test)):
            with Image.open(photograph.locate()) as image:
                pixels += image.width * image.height / photograph.shrink**2
    stores = [study.folder("prepare") / part / "pixels.u8" for part in parts]
    measured = all(store.is_file() for store in stores)
    there = sum(store.stat().st_size for store in stores) if measured else 0
    return Disk(sum(sizes), sizes.count(0), there or round(3 * WITH_LR * pixels), measured)


def _fetched(study: Study, names: tuple[str, ...]) -> tuple[list[int], float]:
    """Bytes of each file that the budget fetches, 0 where none are published; pixels of the images.

    Of several sources, one of known size is taken.
    """
    registry = load_registry(study.root / study.params.data.registry)
    sizes = {name: file.bytes or file.about_bytes or 0 for name, file in registry.files.items()}
    datasets = [registry.dataset(name) for name in names]
    entries: list[Dataset | Checkpoint] = [*datasets]
    entries += [registry.dataset(part) for dataset in datasets for part in dataset.parts]
    entries += map(registry.checkpoint, study.budget.checkpoints.values())
    vgg = {Path(options.get("vgg") or "").name for options in study.budget.methods.values()}
    files = vgg & sizes.keys()
    for entry in entries:
        choices = [source.files for source in entry.sources]
        files.update(max(choices, key=lambda some: all(map(sizes.get, some)), default=()))
    pixels = sum(d.images * (SMALL if d.role == "test" else LARGE) for d in datasets)
    return [sizes[file] for file in files], pixels


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
    chain: tuple[Key, ...]  # the trainings that wait for one another for longest
    disk: Disk
    device: str  # on which was measured; "" if nothing was
    cores: int  # of a CPU, each of which may compute a stage; 1 of another device


def make_plan(study: Study, measure: bool = True, limit: float = LIMIT) -> Plan:
    """Counts every training of a budget, and times steps of each if ``measure``.

    Raises:
        UserError: the study's files are not as they should be.
    """
    stages = pipeline(study.root, study.budget.name)
    keys = [(s.notebook, s.entry) for s in stages.values() if s.notebook in ("teach", "distil")]
    keys = [key for key in keys if getattr(entry_of(study, *key), "trained", True)]
    steps = {key: count_step(study, *key) for key in bar(keys, "counting")}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timed = time_steps(study, steps, device, limit) if measure else {}
    rows = []
    for key, step in steps.items():
        length = study.schedule(entry_of(study, *key)).steps
        rows.append(
            {
                "stage": key[0],
                "name": key[1],
                "students": step.students,
                "steps": length,
                "updates": length * step.updates,
                "operations": length * step.operations(),
                "operations_apart": length * step.operations_apart(),
                "memory": step.memory,
                "weights": step.weights,
                "resume": step.resume,
                **timed.get(key, Timed(math.nan, math.nan, math.nan))._asdict(),
            }
        )
    frame = pd.DataFrame(rows, keys)
    ratio, hours = frame["operations_apart"] / frame["operations"], frame["steps"] / 3600
    frame["hours"] = hours * (frame["draw"] + frame["update"])
    # every student draws its own batches then
    frame["hours_apart"] = hours * (frame["students"] * frame["draw"] + ratio * frame["update"])
    chain = _longest(stages, frame["hours" if measure else "operations"].to_dict())
    one = device.type == "cpu"
    place = "one core of " * one + device_name(device) if measure else ""
    cores = torch.get_num_threads() if one else 1
    return Plan(study.budget.name, len(stages), frame, chain, disk(study), place, cores)


def _longest(stages: Mapping[str, Stage], costs: Mapping[Key, float]) -> tuple[Key, ...]:
    before, longest = upstream(stages), dict[str, tuple[float, tuple[Key, ...]]]()
    for name in TopologicalSorter(before).static_order():
        cost, path = max((longest[other] for other in before[name]), default=(0.0, ()))
        key = stages[name].notebook, stages[name].entry
        longest[name] = (cost + costs[key], (*path, key)) if key in costs else (cost, path)
    return max(longest.values())[1]


def show(plan: Plan) -> str:
    """The plan in at most 100 columns."""
    frame, room = plan.trainings, plan.disk
    total, chain = frame.sum(numeric_only=True), frame.loc[list(plan.chain)]
    labels = frame["name"].mask(frame["stage"] == "teach", "teacher " + frame["name"])
    waits = " > ".join(labels[list(plan.chain)])
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
    weights, resume = total["weights"], 2 * frame["resume"].max()
    needed = room.fetched + 2 * (room.prepared + weights) + resume
    lines = [
        f"updates      {total['updates']:,.0f} of optimisers",
        f"operations   {total['operations']:.3g} multiply-accumulates; "
        f"{total['operations_apart']:.3g} apart, "
        f"{total['operations_apart'] / total['operations']:.2f} x",
        f"memory       {frame['memory'].max() / 2**30:.2f} GiB at most "
        f"({frame['name'].iloc[frame['memory'].argmax()]})",
        f"disk         {_gb(needed)}: fetched {_gb(room.fetched)}, prepared {_gb(room.prepared)} "
        f"({'as they lie there' if room.measured else 'estimated'}),",
        f"{BESIDE}weights {_gb(weights)}, both again in DVC's cache; state of a run {_gb(resume)}",
    ]
    if room.unknown:
        lines.append(f"{BESIDE}besides {room.unknown} files of unpublished size")
    if plan.device:
        hours, apart, least = total["hours"], total["hours_apart"], chain["hours"].sum()
        table["hours"] = frame["hours"].map(_number)
        table["apart "] = (frame["hours_apart"] / frame["hours"]).map("{:.2f} x".format)
        table["timed"] = frame["share"].map(_share)
        lines.append(
            f"hours        {_number(hours)} of training on {plan.device}; {_number(apart)} apart, "
            f"{apart / hours:.2f} x"
        )
        if plan.cores > 1:
            best = _number(max(hours / plan.cores, least))
            lines.append(f"{BESIDE}{best} at best on {plan.cores} cores, a stage on each")
        lines.append(f"{BESIDE}{_number(least)} on devices enough (augkd spread): {waits}")
        if (frame["share"] < 1).any():
            lines.append(f"{BESIDE}extrapolated by operations where less than a whole step was timed")
        if (frame["share"] == 0).any():
            lines.append(f"{BESIDE}(-: not timed, taken to be as fast as one of its kind)")
    else:
        part = chain["operations"].sum() / total["operations"]
        lines.append("hours        not measured (--no-measure)")
        lines.append(f"longest chain  {part:.0%} of the operations: {waits}")
    head = f"budget {plan.budget}: {plan.stages} stages, of which {len(frame)} train "
    text = [f"{head}{total['students']:.0f} networks", "", table.to_string(index=False), ""]
    return "\n".join(text + [fill(line, 100, subsequent_indent=BESIDE) for line in lines])


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float) -> str:
    return {0: "-", 1: "whole"}.get(value) or f"1/{1 / value:,.0f}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
