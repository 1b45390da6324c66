"""Times enlarging a photograph by the default student: ``python benchmarks/bench_upscale.py``.

What ``augkd upscale`` calls, and the command itself less its start and its image's decoding and
encoding, against the same network called plainly in torch. All compute on one core, in turn.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from augkd.data.images import read_image, write_image
from augkd.degrade import bicubic
from augkd.models import create_model, load_network, save_checkpoint
from augkd.models.upscale import fitting_tile, upscale

HEIGHT, WIDTH, SCALE = 1536, 2048, 2


def texture(height: int, width: int) -> torch.Tensor:
    """Noise at five sizes of grain, as a uint8 image; neither side's time depends on the pixels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(3, height, width)
    for grain in (1, 4, 16, 64, 256):
        noise = torch.randn(3, -(-height // grain), -(-width // grain), generator=generator)
        image += bicubic(noise, grain, up=True)[:, :height, :width]
    return (128 + 25 * image).round().clamp(0, 255).to(torch.uint8)


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Seconds on the clock and of the processor, those of processes that it waits for included."""

    def used() -> float:
        each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in each)

    wall, cpu = time.perf_counter(), used()
    run()
    return {"wall": time.perf_counter() - wall, "cpu": used() - cpu}


def measure(rounds: int = 5, weights: Path | None = None) -> dict[str, Any]:
    """Medians over ``rounds`` in seconds, and ratios of processor time to the plain call's.

    ``weights``: of an EDSR student at x2, else random ones; the time does not depend on them.
    """
    torch.manual_seed(0)
    network = create_model("edsr", scale=SCALE, channels=16, blocks=4, res_scale=1.0)
    network = (load_network(weights) if weights else network).eval()
    image, cores = texture(HEIGHT, WIDTH), torch.get_num_threads()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder / "student.safetensors", network)
        write_image(folder / "large.png", image)
        write_image(folder / "tiny.png", image[:, :8, :8])

        @torch.no_grad()
        def plain() -> torch.Tensor:
            enlarged: torch.Tensor = network(image[None].float() / 255)
            return enlarged[0]

        def ours() -> torch.Tensor:
            return upscale(network, image, fitting_tile(network, HEIGHT, WIDTH))

        def command(size: str) -> None:
            line = f"-m augkd upscale {size}.png -o {size}x.png -w student.safetensors --device cpu"
            subprocess.run(
                [sys.executable, *line.split()], cwd=folder, env=environment, check=True,
                capture_output=True,
            )  # fmt: skip

        def files() -> None:  # the command reads twice: once before anything is written
            read_image(folder / "large.png"), read_image(folder / "large.png")
            write_image(folder / "again.png", large)

        large, difference = ours(), float((ours() - plain()).abs().max())
        runs: dict[str, Callable[[], object]] = {
            "plain": plain,
            "ours": ours,
            "command": lambda: command("large"),
            "start": lambda: command("tiny"),
            "files": files,
        }
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                taken[name].append(timed(run))
    torch.set_num_threads(cores)
    seconds = {
        name: {kind: round(statistics.median(t[kind] for t in times), 3) for kind in times[0]}
        for name, times in taken.items()
    }
    used = {name: of["cpu"] for name, of in seconds.items()}
    return {
        "image": f"{WIDTH} x {HEIGHT} pixels of textured noise, x{SCALE}",
        "seconds": seconds,
        "ratio": round(used["ours"] / used["plain"], 3),
        "ratio_command": round(
            (used["command"] - used["start"] - used["files"]) / used["plain"], 3
        ),
        "largest_difference": difference,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", type=Path)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))
