"""Scores of every image by every network of a cohort: a tidy table, never only means."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from augkd.config import Study
from augkd.data.store import ImageStore
from augkd.degrade.bicubic import bicubic
from augkd.metrics import psnr_y, ssim_y
from augkd.models import load_checkpoint
from augkd.models.ensemble import SelfEnsemble
from augkd.study import build, centre, load_teacher, pick_device, student_path

COLUMNS = [
    "cohort", "network", "scale", "method", "seed",
    "dataset", "split", "image", "metric", "value",
]  # fmt: skip


def scored_images(study: Study, scale: int) -> Iterator[tuple[str, str, str, Tensor, Tensor]]:
    """(dataset, split, image, lr, hr) of all test images and of the centres of some training ones.

    Training images are spread evenly over the list: they answer how well a student fits.
    """
    chosen = study.budget.score
    for part in ("test", "benchmarks"):
        store = ImageStore(study.folder("prepare") / part)
        for dataset, image in store.keys:
            yield dataset, "test", image, *store.pair(dataset, image, scale)
    store = ImageStore(study.folder("prepare") / "train")
    stride = max(1, len(store.keys) // chosen.train_images)
    for dataset, image in store.keys[::stride][: chosen.train_images]:
        lr, hr = centre(*store.pair(dataset, image, scale), scale, chosen.train_crop)
        yield dataset, "train", image, lr, hr


@torch.no_grad()
def score_cohort(study: Study, name: str) -> pd.DataFrame:
    """PSNR-Y and SSIM-Y against HR, and PSNR-Y against the teacher, in dB, image by image.

    Rows for every student, the teacher and bicubic enlargement (seed -1 for these two). Where
    ``self_ensemble`` of the budget's ``score`` asks for it, an answer is the mean over eight
    flips and transpositions. Nearness to the teacher compares like with like: single passes,
    unless students are ensembles too.
    """
    cohort, device = study.cohort(name), pick_device()
    scale = cohort.scale
    teacher = load_teacher(study, cohort, device)
    ensemble = study.budget.score.self_ensemble
    graded: nn.Module = teacher if ensemble == "none" else SelfEnsemble(teacher)
    students: dict[tuple[str, int], nn.Module] = {}
    for method in cohort.methods:
        for seed in range(study.budget.distil.seeds):
            network = build(study, cohort.network, cohort.student, scale, seed)
            load_checkpoint(student_path(study, name, method, seed), network)
            network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            student: nn.Module = network.eval()
            students[method, seed] = SelfEnsemble(student) if ensemble == "all" else student
    rows: list[tuple[Any, ...]] = []
    images = list(scored_images(study, scale))
    for dataset, split, image, lr, hr in tqdm(images, desc=f"score {name}", unit="image", ncols=88):
        low = lr[None].to(device).float().div(255)
        high = hr[None].to(device)
        grade = graded(low)
        taught = teacher(low) if ensemble == "teacher" else grade
        answers = {("bicubic", -1): bicubic(lr[None], scale, study.params.data.edges, up=True)}
        answers["teacher", -1] = grade
        answers |= {key: network(low) for key, network in students.items()}
        for (method, seed), sr in answers.items():
            sr = sr.to(device)
            values = {"psnr_y": psnr_y(sr, high, scale), "ssim_y": ssim_y(sr, high, scale)}
            if method != "teacher":
                values["psnr_y_teacher"] = psnr_y(sr, _as_8_bit(taught), scale)
            key = (name, cohort.network, scale, method, seed, dataset, split, image)
            rows += [(*key, metric, round(float(value), 6)) for metric, value in values.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _as_8_bit(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def write_scores(study: Study, name: str) -> pd.DataFrame:
    """Scores a cohort into runs/BUDGET/score/NAME: scores.csv, and metrics.json of their means."""
    scores = score_cohort(study, name)
    folder = study.folder("score", name)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "scores.csv.partial"
    scores.to_csv(partial, index=False)
    os.replace(partial, folder / "scores.csv")
    (folder / "metrics.json").write_text(json.dumps(means(scores), indent=2) + "\n")
    return scores


def means(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean PSNR-Y by method and test set, as ``dvc metrics`` shows it."""
    chosen = scores[(scores.metric == "psnr_y") & (scores.split == "test")]
    table = chosen.groupby(["method", "dataset"])["value"].mean().round(4).unstack()
    return {str(m): {str(d): float(v) for d, v in row.items()} for m, row in table.iterrows()}
