"""What a budget asks for, before it is run: ``augkd plan``. See docs/plan.md."""

import math
import resource
import time
from collections.abc import Mapping
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import pandas as pd
import torch
from jinja2 import Template
from PIL import Image
from tqdm import tqdm

from augkd.distill import Teacher
from augkd.study.acquire.registry import Checkpoint, Dataset, load_registry
from augkd.study.cost.passes import Key, Step, count_step, entry_of, noise, untrained
from augkd.study.cost.steps import Call, time_rounds, update
from augkd.study.params import Study
from augkd.study.pipeline.stage import Stage, pipeline, upstream
from augkd.study.prepare import SCALES, photographs
from augkd.study.record import device_name

LIMIT = 10.0  # seconds, after which no training is timed but the first of its kind
FEWEST = 3, 12  # images, which RKD compares, and pixels of a patch's side, for every scale
LARGE = 2040 * 1356  # pixels of an image of DIV2K and Flickr2K, nearly all of which are 2K wide
SMALL = 1024 * 768  # of a test image whose size is not known before it is fetched
COLUMNS = [
    *("stage", "name", "students", "steps", "updates", "operations", "operations_apart"),
    *("memory", "weights", "resume", "draw", "update", "share"),
]

bar = partial(tqdm, unit="training", ncols=88, disable=None)


class Timed(NamedTuple):  # seconds of a step
    draw: float  # of the batch, timed at its full size
    update: float  # of teacher and students, timed or extrapolated by operations
    share: float  # of the step's operations that was timed; 0 where another training's was


def time_steps(
    study: Study, steps: Mapping[Key, Step], device: torch.device, limit: float
) -> dict[Key, Timed]:
    """Times a step of each training while ``limit`` seconds last, those of least work first. Later
    ones are as fast as the nearest of their kind in operations, of which one is always timed."""
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
    """Times steps of a training, untrained networks on noise, of each method one student: first a
    small batch of small patches, then larger ones, at last the training's own, while three such
    steps fit into what is left of ``limit`` seconds."""
    end, entry = time.perf_counter() + limit, entry_of(study, *key)
    training = study.schedule(entry)
    whole = training.batch, training.patch

    def median(call: Call, limit: float) -> float:
        return float(time_rounds({"": call}, device, limit, (1, 5))[""].median())

    draw = partial(noise(study, entry, *whole, device).draw, 0)
    timed = Timed(median(draw, limit / 4), 0.0, 0.0)
    members, network = untrained(study, entry, device)
    few, small = map(min, whole, FEWEST)
    for images, side in ((few, small), (few, training.patch), whole):
        part = step._replace(copies=1).operations(images / training.batch, side / training.patch)
        share, left = part / step.operations(), max(0.0, end - time.perf_counter())
        if 3 * share * timed.update > left:
            break
        batch = noise(study, entry, images, side, device).draw(0)
        took = median(partial(update, members, Teacher(network), batch), left / 2)
        timed = Timed(timed.draw, took / share, share)
    return timed


class Disk(NamedTuple):  # bytes
    fetched: int  # archives and checkpoints
    unknown: int  # how many files among them have no published size: not in ``fetched``
    prepared: int  # the stores of pixels
    measured: bool  # whether those are there, so that it is their size; else it is an estimate


def disk(study: Study) -> Disk:
    """Raises UserError where the registry, or a listed photograph, is not as it should be."""
    images, pixels, files = study.budget.images, 0.0, set[str]()
    registry = load_registry(study.root / study.params.data.registry)
    sizes = {name: file.bytes or file.about_bytes or 0 for name, file in registry.files.items()}
    if images.datasets:
        datasets = [registry.dataset(name) for name in images.datasets.names()]
        pixels = sum(d.images * (SMALL if d.role == "test" else LARGE) for d in datasets)
        entries: list[Dataset | Checkpoint] = [*datasets]
        entries += [registry.dataset(part) for dataset in datasets for part in dataset.parts]
        entries += map(registry.checkpoint, study.budget.checkpoints.values())
        vgg = {Path(options.get("vgg") or "").name for options in study.budget.methods.values()}
        files = vgg & sizes.keys()
        for entry in entries:  # of several sources, one of known size
            choices = [source.files for source in entry.sources]
            files.update(max(choices, key=lambda some: all(map(sizes.get, some)), default=()))
    else:
        for photograph in (*photographs("train", images.train), *photographs("test", images.test)):
            with Image.open(photograph.locate()) as image:
                pixels += image.width * image.height / photograph.shrink**2
    fetched = [sizes[file] for file in files]
    there = [file.stat().st_size for file in study.folder("prepare").glob("*/pixels.u8")]
    estimate = round(3 * (1 + sum(1 / scale**2 for scale in SCALES)) * pixels)  # with LR
    return Disk(sum(fetched), fetched.count(0), sum(there) or estimate, bool(there))


class Plan(NamedTuple):
    """Operations are multiply-accumulates; memory, weights, resume bytes; draw and update seconds
    of a step, of which a share was timed: NaN where nothing was measured, as hours are."""

    budget: str
    stages: int  # that DVC runs
    trainings: pd.DataFrame  # a row each, of ``COLUMNS``, hours and hours_apart
    chain: list[Key]  # the trainings that wait for one another for longest
    disk: Disk
    device: str  # on which was measured; "" if nothing was
    cores: int  # of a CPU, each of which may compute a stage; 0 of another device


def make_plan(study: Study, measure: bool = True, limit: float = LIMIT) -> Plan:
    """Counts every training of a budget, and times steps of each if ``measure``."""
    stages = pipeline(study.root, study.budget.name)
    keys = [(s.notebook, s.entry) for s in stages.values() if s.notebook in ("teach", "distil")]
    keys = [key for key in keys if getattr(entry_of(study, *key), "trained", True)]
    steps = {key: count_step(study, *key) for key in bar(keys, "counting")}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # what this process has taken up is what a training's takes on a CPU beside its tensors
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    own = grown if device.type == "cpu" else 0
    timed = time_steps(study, steps, device, limit) if measure else {}
    rows, none = [], Timed(math.nan, math.nan, math.nan)
    for key, step in steps.items():
        n = study.schedule(entry_of(study, *key)).steps
        work = n * step.updates, n * step.operations(), n * step.operations_apart()
        memory = own + step.memory, step.weights, step.resume
        rows.append((*key, step.students, n, *work, *memory, *timed.get(key, none)))
    frame = pd.DataFrame(rows, pd.Index(keys, tupleize_cols=False), COLUMNS)
    ratio, hours = frame["operations_apart"] / frame["operations"], frame["steps"] / 3600
    frame["hours"] = hours * (frame["draw"] + frame["update"])
    # every student draws its own batches then
    frame["hours_apart"] = hours * (frame["students"] * frame["draw"] + ratio * frame["update"])
    chain = _longest(stages, dict(frame["hours" if measure else "operations"]))
    place = device_name(device) if measure else ""
    cores = torch.get_num_threads() if device.type == "cpu" else 0
    return Plan(study.budget.name, len(stages), frame, chain, disk(study), place, cores)


def _longest(stages: Mapping[str, Stage], costs: Mapping[Key, float]) -> list[Key]:
    before, longest = upstream(stages), dict[str, tuple[float, list[Key]]]()
    for name in TopologicalSorter(before).static_order():
        cost, path = max((longest[other] for other in before[name]), default=(0.0, []))
        key = stages[name].notebook, stages[name].entry
        longest[name] = (cost + costs[key], [*path, key]) if key in costs else (cost, path)
    return max(longest.values())[1]


def show(plan: Plan) -> str:
    """The plan in at most 100 columns."""
    frame, chain = plan.trainings, plan.trainings.loc[plan.chain].sum(numeric_only=True)
    labels = frame["name"].mask(frame["stage"] == "teach", "teacher " + frame["name"])
    table = {
        "training": labels,
        "students": frame["students"],
        "updates": frame["updates"].map("{:,}".format),
        "operations": frame["operations"].map("{:.3g}".format),
        "apart": (frame["operations_apart"] / frame["operations"]).map("{:.2f} x".format),
        "memory": (frame["memory"] / 2**30).map("{:.2f} GiB".format),
    }
    if plan.device:
        table["hours"] = frame["hours"].map(_digits)
        table["apart "] = (frame["hours_apart"] / frame["hours"]).map("{:.2f} x".format)
        parts, share = (1 / frame["share"]).map("1/{:,.0f}".format), frame["share"]
        table["timed"] = parts.mask(share == 0, "-").mask(share == 1, "whole")
    shown, total = pd.DataFrame(table).to_string(index=False), frame.sum(numeric_only=True)
    template = Path(__file__).with_name("plan.txt.j2").read_text(encoding="utf-8")
    text = Template(template, trim_blocks=True, lstrip_blocks=True).render(
        plan=plan, frame=frame, total=total, chain=chain, labels=labels, table=shown, digits=_digits
    )
    return "\n".join(fill(line, 100, subsequent_indent=13 * " ") for line in text.splitlines())


def _digits(value: float) -> str:
    """Three, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
