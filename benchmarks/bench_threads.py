"""Do two threads give what one gives? The study trains in one: this is why.

    python -m benchmarks.bench_threads

A cohort is trained in one thread, in one again, and in two. ``measure`` is part of what
benchmarks/torture.py writes into reports/torture.json.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from augkd.data.store import ImageStore
from benchmarks.bench_precision import score
from benchmarks.bench_training import TEACHER, cohort, network, write_images

METHODS, STEPS = ("scratch", "augkd"), 40


def trained(
    train: ImageStore, test: ImageStore, threads: int, precision: str
) -> list[tuple[dict[str, Tensor], float]]:
    """Weights of each method's student, and its PSNR-Y in dB; the first step is in one thread."""

    def spread(done: int) -> None:
        torch.set_num_threads(threads)

    teacher = network(TEACHER, 0)
    members = cohort(train, METHODS, [0], STEPS, teacher, spread, precision)
    torch.set_num_threads(1)
    return [(m.result().state_dict(), score(m.result(), test)) for m in members]


def measure() -> dict[str, Any]:
    """By precision: whether one thread gave the same bytes twice, two the same as one, and how far
    weights (of their own scale) and PSNR-Y (dB) of one and two are apart at most."""
    found: dict[str, Any] = {"steps": STEPS, "methods": METHODS}
    with tempfile.TemporaryDirectory() as name:
        train, test = (write_images(Path(name, s), s, 8) for s in ("train", "test"))
        for precision in ("float32", "bfloat16"):
            one, again, two = (trained(train, test, n, precision) for n in (1, 1, 2))
            line: dict[str, Any] = {}
            for what, others in (("again", again), ("two", two)):
                pairs = [
                    (a[k], b[k]) for (a, _), (b, _) in zip(one, others, strict=True) for k in a
                ]
                line[f"{what} identical"] = all(torch.equal(a, b) for a, b in pairs)
                apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
                line[f"{what} weights"] = apart
                scores = zip(one, others, strict=True)
                line[f"{what} psnr_y"] = max(abs(a - b) for (_, a), (_, b) in scores)
            found[precision] = line
    return found


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
