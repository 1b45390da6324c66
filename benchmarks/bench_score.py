"""Times scoring images by students: ``python benchmarks/bench_score.py --help``.

The study's way (each image once, all students of a cohort on it) against BasicSR's practice: one
student after the other, plainly in torch, with PSNR-Y and SSIM-Y by numpy and scikit-image. Each
is a process of its own on one core, in turn, so that what one leaves in memory helps no other.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from augkd.data.images import list_images, read_image
from augkd.degrade import bicubic
from augkd.metrics.fidelity import Reference
from augkd.models import create_model
from augkd.study.prepare import photographs
from augkd.study.score import grades

SCALE, BENCHMARK = 4, Path("data/benchmarks/Set14/HR")
Scores = list[list[tuple[float, float]]]  # of each student, of each image: PSNR-Y, SSIM-Y


@cache
def images(folder: Path | None) -> list[tuple[Tensor, Tensor]]:
    """LR and HR, uint8."""
    files = list_images(folder) if folder else [one.locate() for one in photographs("test")]
    cropped = []
    for hr in map(read_image, files):
        height, width = (SCALE * (side // SCALE) for side in hr.shape[1:])
        cropped.append(hr[:, :height, :width].contiguous())
    return [(bicubic(hr, SCALE), hr) for hr in cropped]


def students(count: int) -> list[nn.Module]:
    networks: list[nn.Module] = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = create_model("edsr", scale=SCALE, channels=16, blocks=4, res_scale=1.0)
        networks.append(network.eval())
    return networks


def to_image(x: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] to uint8 (H, W, 3)."""
    pixels: np.ndarray = x.clamp(0, 1).numpy()[0].transpose(1, 2, 0) * 255
    return pixels.round().astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    inside = image[SCALE:-SCALE, SCALE:-SCALE].astype(np.float64)
    weighed: np.ndarray = inside @ (np.array([65.481, 128.553, 24.966]) / 255)
    return weighed + 16


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((luma(a) - luma(b)) ** 2)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(luma(a), luma(b), data_range=255, **window))


@torch.no_grad()
def reference(networks: list[nn.Module], pairs: list[tuple[Tensor, Tensor]]) -> Scores:
    scores: Scores = []
    for network in networks:
        scores.append([])
        for lr, hr in pairs:
            a, b = (to_image(x) for x in (network(lr[None].float() / 255), hr[None].float() / 255))
            scores[-1].append((psnr(a, b), ssim(a, b)))
    return scores


@torch.no_grad()
def ours(networks: list[nn.Module], pairs: list[tuple[Tensor, Tensor]]) -> Scores:
    prepared = [network.to(memory_format=torch.channels_last) for network in networks]  # type: ignore[call-overload]
    scores: Scores = [[] for _ in prepared]
    for lr, hr in pairs:
        low, truth = lr[None].float().div(255), Reference(hr[None], SCALE)
        for network, found in zip(prepared, scores, strict=True):
            values = grades(network(low), truth)
            found.append((float(values["psnr_y"]), float(values["ssim_y"])))
    return scores


def timed(way: Callable[..., Scores], count: int, folder: Path | None) -> tuple[float, Scores]:
    """Seconds of one core, and the scores."""
    torch.set_num_threads(1)
    networks, pairs = students(count), images(folder)
    began = time.process_time()
    scores = way(networks, pairs)
    return time.process_time() - began, scores


def measure(rounds: int = 5, folder: Path | None = None, cohort: int = 8) -> dict[str, Any]:
    """Medians over ``rounds`` in seconds of one core, and how many times faster the study is.

    ``folder`` of HR images; without it Set14, if it is there, else the study's test photographs.
    """
    folder = folder or (BENCHMARK if BENCHMARK.is_dir() else None)
    found, by_count = images(folder), dict[str, Any]()
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as theirs, ProcessPoolExecutor(1, spawn) as own:
        sides = (("reference", theirs, reference), ("ours", own, ours))
        for _, pool, way in sides:
            pool.submit(timed, way, 1, folder).result()  # reads the images, warms up
        for count in (1, cohort):
            seconds: dict[str, list[float]] = {name: [] for name, *_ in sides}
            scores = {}
            for _ in range(rounds):
                for name, pool, way in sides:
                    taken, scores[name] = pool.submit(timed, way, count, folder).result()
                    seconds[name].append(taken)
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            apart = np.abs(np.array(scores["ours"]) - np.array(scores["reference"])).max((0, 1))
            by_count[f"students_{count}"] = {
                **{name: round(median, 3) for name, median in medians.items()},
                "times": round(medians["reference"] / medians["ours"], 2),
                "apart": {"psnr_y": float(apart[0]), "ssim_y": float(apart[1])},
            }
    pixels = sum(hr[0].numel() for _, hr in found) / 1e6
    place = folder.parent.name if folder else "the study's test photographs"
    said = f"{place}: {len(found)} images, {pixels:.1f} megapixels, x{SCALE}"
    return {"images": said, **by_count, "times": by_count[f"students_{cohort}"]["times"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="of HR images; by default Set14's")
    parser.add_argument("--cohort", type=int, default=8)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))
