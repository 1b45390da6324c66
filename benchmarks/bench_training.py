"""Training beside the practice of benchmarks/reference.py, on one core: seconds an update.

EDSR x2, students of 16 channels and 4 blocks, a teacher of 48 channels, 16 patches of 24 pixels,
photographs of the packages. The reference's loader has the other core.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.distill import METHODS, Teacher
from augkd.models import SRNetwork, create_model
from augkd.options import Optimiser, Training
from augkd.study.prepare import degrade, photographs
from augkd.train import Member, train
from benchmarks import reference

CORE = ("scratch", "kd", "fitnet", "at", "rkd", "fakd", "augkd")
SCALE, PATCH, BATCH = reference.SCALE, 24, 16
STUDENT, TEACHER = (16, 4), (48, 4)  # channels and blocks
WARM, STEPS = 2, 6  # of each round: steps before the clock runs, and timed ones
Seconds = dict[str, float]


def write_images(folder: Path, split: str = "train", first: int | None = None) -> ImageStore:
    """The photographs of a split, as ours has them, in folder/store."""

    def images() -> Iterator[Prepared]:
        for photograph in photographs(split, first):
            hr = photograph.read()
            yield Prepared(split, photograph.name, hr, {2: degrade(hr, 2, "replicate")}, "bicubic")

    write_store(folder / "store", images())
    return ImageStore(folder / "store")


def network(size: tuple[int, int], seed: int) -> SRNetwork:
    torch.manual_seed(seed)
    channels, blocks = size
    return create_model("edsr", scale=SCALE, channels=channels, blocks=blocks, res_scale=1.0)


def sampler(store: ImageStore, patch: int = PATCH, batch: int = BATCH) -> PatchSampler:
    return PatchSampler(store, scale=SCALE, patch=patch, batch=batch, seed=1)


def cohort(
    store: ImageStore,
    methods: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    teacher: SRNetwork,
    after_step: Callable[[int], None] | None = None,
    precision: Any = "auto",
) -> list[Member]:
    """Our cohort, trained: a student a method and seed. All that is asked of augkd's training."""
    counts = {"steps": steps, "decay_every": max(1, steps * 4 // 5), "validate_every": 10 * steps}
    counts |= {"batch": BATCH, "patch": PATCH, "seeds": len(seeds)}
    training = Training(**counts, lr=2e-3, ema=0.999, precision=precision)
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    common = teacher, Optimiser(), training, torch.device("cpu")
    members = [
        Member(f"{method}-{seed}", network(STUDENT, seed), METHODS[method](), *common, seed)
        for seed in seeds
        for method in methods
    ]
    of: Any = members, Teacher(teacher), sampler(store), training, Optimiser()
    with tempfile.TemporaryDirectory() as state, redirect_stderr(io.StringIO()):  # its bar
        train(*of, state=Path(state), after_step=after_step)
    return members


def ours(store: ImageStore, methods: Sequence[str], seeds: int = 1) -> Seconds:
    """Seconds a step of the whole cohort, by the clock and of the processor."""
    marks: list[tuple[float, float]] = []
    mark, teacher = lambda done: marks.append(_now()), network(TEACHER, 0)
    cohort(store, methods, range(seeds), WARM + STEPS, teacher, mark)
    return _each(marks[WARM - 1], marks[-1])


def theirs(run: reference.Run, batches: Iterator[list[Tensor]]) -> Seconds:
    """Seconds a step of a reference run; processor seconds are without its loader's."""
    for _ in range(WARM):
        run.step(*next(batches))
    begun = _now()
    for _ in range(STEPS):
        run.step(*next(batches))
    return _each(begun, _now())


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _each(begun: tuple[float, float], done: tuple[float, float]) -> Seconds:
    clock, processor = ((b - a) / STEPS for a, b in zip(begun, done, strict=True))
    return {"clock": clock, "processor": processor}


def drawing(images: PatchSampler, step: int, count: int = 40) -> float:
    """Seconds of a core a batch, of ``count`` from ``step`` on."""
    begun = time.process_time()
    for number in range(step, step + count):
        images.draw(number)
    return (time.process_time() - begun) / count


def loading(folder: Path, turn: int) -> float:
    """Seconds of a core a batch, in the reference's loader."""
    images = reference.SubImages(folder, PATCH)
    begun = time.process_time()
    for number in range(2 * BATCH):
        images[(2 * BATCH * turn + number) % len(images)]
    return (time.process_time() - begun) / 2


def measure(rounds: int = 5) -> dict[str, dict[str, list[float]]]:
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}

    def note(case: str, **sides: float) -> None:
        for side, value in sides.items():
            found.setdefault(case, {}).setdefault(side, []).append(value)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = write_images(folder)
        pairs = (store.pair(*key, SCALE) for key in store.keys)
        reference.write_sub_images(pairs, folder / "png")
        batches = reference.batches(folder / "png", PATCH, BATCH)
        large = reference.EDSR(*TEACHER)
        runs = {name: reference.Run(name, reference.EDSR(*STUDENT), large) for name in CORE}
        small, core = sampler(store, 12, 4), sampler(store)
        drawing(small, 0, 400), drawing(core, 0, 200)  # pages come into memory
        for turn in range(rounds):
            slow = {name: theirs(run, batches) for name, run in runs.items()}
            seven, more = ours(store, CORE), ours(store, CORE, 3)
            one, csd = ours(store, ["scratch"]), ours(store, ["csd"])
            for kind, case in (("clock", ""), ("processor", ", computing alone")):
                total = sum(seconds[kind] for seconds in slow.values())
                note(f"cohort{case}", reference=total, ours=seven[kind])
                # not run: runs one after the other, so that three seeds take three times as long
                note(f"three seeds{case}", reference=3 * total, ours=more[kind])
                note(f"one student{case}", reference=slow["scratch"][kind], ours=one[kind])
            note("loader", reference=loading(folder / "png", turn))
            drawn = drawing(core, 1000 + 40 * turn)
            note("draw 4 of 12", ours=drawing(small, 1000 + 40 * turn))
            note("draw 16 of 24", ours=drawn)
            note("draw, share of a step", ours=drawn, step=seven["processor"])
            note("csd", csd=csd["processor"], scratch=one["processor"])
    return found
