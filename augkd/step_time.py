"""What a training's step takes on this device: timed, whole or on a smaller batch."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from augkd.config import Cohort, Study, TeacherEntry, Training
from augkd.data.batch import Batch
from augkd.data.prepare import SCALES
from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.distill import Teacher
from augkd.step_count import Step
from augkd.train import side_by_side
from augkd.untrained import schedule, untrained

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
