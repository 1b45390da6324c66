"""What a budget asks for, before it is run: ``augkd plan``. See docs/plan.md.

What a training's step takes on this device: timed, whole or on a smaller batch.

The room that a budget takes on the disk: what is fetched, prepared, and written by trainings.
"""

import itertools
import statistics
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from augkd.data.sampler import Batch, PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.distill import Teacher
from augkd.study.acquire.registry import Registry, RemoteFile, load_registry
from augkd.study.cost.passes import Step, count_step, schedule, untrained
from augkd.study.params import Cohort, Study, TeacherEntry, Training
from augkd.study.pipeline.stage import stage_commands
from augkd.study.prepare import SCALES, Photograph, photographs
from augkd.study.record import device_name
from augkd.train import side_by_side

FEWEST = 3  # images that RKD compares
SIDES = (12, 24)  # of patches, multiples of every scale
ROUNDS = 5

Key = tuple[str, str]
"""A training: its stage ("teach" or "distil") and name."""


@dataclass(frozen=True)
class Timed:
    """Seconds of a step.

    Attributes:
        draw: of the batch, timed at its full size.
        update: of teacher and students, timed or extrapolated by operations.
        share: how much of the step's operations was timed; 1 is all of them, 0 where another
            training's step was.
    """

    draw: float
    update: float
    share: float

    def scaled(self, times: float) -> "Timed":
        """Another training's step of so many times the operations, if it is as fast."""
        return Timed(self.draw, self.update * times, 0.0)


def time_steps(
    study: Study,
    steps: Mapping[Key, Step],
    device: torch.device,
    limit: float,
) -> Iterator[tuple[Key, Timed]]:
    """Times a step of each training while ``limit`` seconds last, those of least work first.

    The smallest training of each kind (by network and what it learns from) is always timed.
    Later ones of a kind, once time is up, are taken to be as fast as the one timed of their kind
    that is nearest in operations.

    Args:
        steps: of ``count_step``, by stage and name.
    """
    end = time.perf_counter() + limit
    order = sorted(steps, key=lambda training: steps[training].operations())
    kinds = {training: _kind(study, *training) for training in order}
    first = [t for i, t in enumerate(order) if kinds[t] not in {kinds[o] for o in order[:i]}]
    found: dict[Key, Timed] = {}
    queue = [*first, *(t for t in order if t not in first)]
    for i, training in enumerate(queue):
        step, left = steps[training], end - time.perf_counter()
        if left > 0 or training in first:
            share = max(left, 0.0) / (len(queue) - i)
            timed = found[training] = time_step(study, *training, step, device, share)
        else:
            work = step.operations()
            alike = [t for t in found if kinds[t] == kinds[training]]
            times, nearest = min(
                ((work / steps[t].operations(), t) for t in alike), key=lambda pair: pair[0]
            )
            timed = found[nearest].scaled(times)
        yield training, timed


def _kind(study: Study, stage: str, name: str) -> tuple[object, ...]:
    """What makes a training's steps as fast as another's."""
    if stage == "teach":
        entry = study.teacher(name)
        return stage, entry.network, entry.degradation
    cohort = study.cohort(name)
    return stage, cohort.network, cohort.degradation, bool(cohort.bits)


def time_step(
    study: Study, stage: str, name: str, step: Step, device: torch.device, limit: float
) -> Timed:
    """Times steps of a training, untrained networks on noise, of each method one student.

    It begins with the smallest batch and patch, and goes on to larger ones, at last the
    training's own, while three such steps fit into what is left of ``limit`` seconds.

    Args:
        step: of ``count_step``.
    """
    end = time.perf_counter() + limit
    training = schedule(study, stage, name)
    entry = study.teacher(name) if stage == "teach" else study.cohort(name)
    with TemporaryDirectory() as folder:
        store = _noise(Path(folder), training.patch)
        full = _sampler(study, entry, training, store, device)
        draws = itertools.count()
        draw = _median(lambda: full.draw(next(draws)), device, limit / 4)
        members, network = untrained(study, stage, name, device)
        teacher = Teacher(network) if network else None
        rate, timed = 0.0, Timed(draw, 0.0, 0.0)
        with side_by_side(device.type == "cpu") as each:
            for images, side in _sizes(training):
                part = step.operations(images / training.batch, side / training.patch, seeds=1)
                left = end - time.perf_counter()
                if rate and 3 * part / rate > left:
                    break
                smaller = training.model_copy(update={"batch": images, "patch": side})
                batch = _sampler(study, entry, smaller, store, device).draw(0)

                def update(batch: Batch = batch) -> None:
                    if teacher:
                        teacher.see(batch)
                    list(
                        each(
                            partial.__call__,
                            [partial(m.update, batch, teacher, 1e-6) for m in members],
                        )
                    )

                seconds = _median(update, device, left / 2)
                rate, whole = part / seconds, step.operations()
                timed = Timed(draw, whole / rate, part / whole)
    return timed


def _sizes(training: Training) -> list[tuple[int, int]]:
    """(images, side of a patch) from the least that can be timed to the training's own."""
    few = min(FEWEST, training.batch)
    sides = [side for side in SIDES if side < training.patch]
    sizes = [(few, side) for side in (*sides, training.patch)]
    return list(dict.fromkeys([*sizes, (training.batch, training.patch)]))


def _median(call: Callable[[], object], device: torch.device, limit: float) -> float:
    """Seconds of a call, the median of some after one that warms up, while ``limit`` lasts."""
    seconds: list[float] = []
    end = time.perf_counter() + limit
    for _ in range(1 + ROUNDS):
        begun = _now(device)
        call()
        seconds.append(_now(device) - begun)
        if len(seconds) > 1 and time.perf_counter() + seconds[-1] > end:
            break
    return statistics.median(seconds[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _noise(folder: Path, patch: int) -> ImageStore:
    """Four images of noise, twice as wide as a patch."""
    generator = torch.Generator().manual_seed(0)

    def image(side: int) -> torch.Tensor:
        return torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator)

    prepared = [
        Prepared("noise", f"{i}", image(2 * max(SCALES) * patch), {}, "bicubic") for i in range(4)
    ]
    for one in prepared:
        one.lr.update({scale: image(2 * patch) for scale in SCALES})
    write_store(folder / "train", prepared)
    return ImageStore(folder / "train")


def _sampler(
    study: Study,
    entry: Cohort | TeacherEntry,
    training: Training,
    store: ImageStore,
    device: torch.device,
) -> PatchSampler:
    augment = study.params.augment
    return PatchSampler(
        store,
        scale=entry.scale,
        patch=training.patch,
        batch=training.batch,
        seed=study.params.seed,
        edges=study.params.data.edges,
        crops=augment.crops,
        probability=augment.probability,
        degradation=entry.degradation,
        device=device,
    )


LARGE = 2040 * 1356  # pixels of an image of DIV2K and Flickr2K, nearly all of which are 2K wide
SMALL = 1024 * 768  # of a test image whose size is not known before it is fetched
WITH_LR = 1 + sum(1 / scale**2 for scale in SCALES)


@dataclass(frozen=True)
class Disk:
    """Bytes.

    Attributes:
        fetched: archives and checkpoints.
        unknown: names of files among them whose size nobody has published; not in ``fetched``.
        prepared: the stores of pixels.
        measured: whether those are there, so that it is their size; else it is an estimate.
    """

    fetched: int
    unknown: tuple[str, ...]
    prepared: int
    measured: bool


def disk(study: Study) -> Disk:
    """Raises UserError where the registry, or a listed photograph, is not as it should be."""
    datasets = study.budget.images.datasets
    stores = [study.folder("prepare") / name for name in ("train", "test", "benchmarks")]
    there = [store / "pixels.u8" for store in stores]
    measured = all(file.is_file() for file in there)
    files: list[RemoteFile] = []
    if datasets or study.budget.checkpoints:
        registry = load_registry(study.root / study.params.data.registry)
        files = _files(study, registry)
    if measured:
        prepared = sum(file.stat().st_size for file in there)
    elif datasets:
        registered = [registry.dataset(name) for name in datasets.names()]
        pixels = sum(d.images * (SMALL if d.role == "test" else LARGE) for d in registered)
        prepared = round(3 * WITH_LR * pixels)
    else:
        images = study.budget.images
        listed = [*photographs("train", images.train), *photographs("test", images.test)]
        prepared = round(3 * WITH_LR * sum(_pixels(listed)))
    sizes = {file.name: file.bytes or file.about_bytes for file in files}
    unknown = tuple(name for name, size in sizes.items() if not size)
    return Disk(sum(size or 0 for size in sizes.values()), unknown, prepared, measured)


def _files(study: Study, registry: Registry) -> list[RemoteFile]:
    """Of the budget's datasets, teachers and VGG19: of several sources, one of known size."""
    budget = study.budget
    names = budget.images.datasets.names() if budget.images.datasets else ()
    whole = [registry.dataset(name) for name in names]
    parts = [registry.dataset(part) for dataset in whole for part in dataset.parts]
    choices = [[source.files for source in d.sources] for d in (*whole, *parts) if d.sources]
    chosen = [registry.checkpoint(name) for name in budget.checkpoints.values()]
    choices += [[source.files for source in checkpoint.sources] for checkpoint in chosen]
    read = [options["vgg"] for options in budget.methods.values() if options.get("vgg")]
    choices += [[(name,)] for path in read if (name := str(path).split("/")[-1]) in registry.files]
    found: dict[str, RemoteFile] = {}
    for sources in choices:
        known = [s for s in sources if all(_known(registry.file(name)) for name in s)]
        found |= {name: registry.file(name) for name in (known or sources)[0]}
    return list(found.values())


def _known(file: RemoteFile) -> bool:
    return bool(file.bytes or file.about_bytes)


def _pixels(listed: Iterable[Photograph]) -> Iterable[float]:
    for photograph in listed:
        with Image.open(photograph.locate()) as image:
            yield image.width * image.height / photograph.shrink**2


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
        stage, *names = command.split("augkd.study.pipeline.stage ")[-1].split()
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
