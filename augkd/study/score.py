"""Scores of every image by every network of a cohort: a tidy table, never only means."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from augkd.data.store import ImageStore, evenly
from augkd.degrade.bicubic import bicubic
from augkd.errors import replacing
from augkd.metrics.fidelity import Reference
from augkd.models.upscale import SelfEnsemble
from augkd.study.params import Cohort, Study
from augkd.study.runs import centre, degraded, load_student, load_teacher, pick_device
from augkd.train import single_core

COLUMNS = [
    "cohort", "network", "scale", "method", "seed",
    "dataset", "split", "image", "metric", "value",
]  # fmt: skip


Scored = tuple[str, str, str, Tensor, Tensor | None]
"""Dataset, split, image, lr (3, h, w), and hr (3, s*h, s*w) or None; uint8."""


def scored_images(study: Study, cohort: Cohort) -> Iterator[Scored]:
    """All test images that a cohort is scored on, and the centres of some training ones.

    Training images are spread evenly over the list: they answer how well a student fits. Of a
    cohort of another degradation, LR images are made by it; but where the budget names real
    datasets, such a cohort is tested on those, as they are, and on no others (Table 5).
    """
    chosen, scale = study.budget.score, cohort.scale
    datasets = study.budget.images.datasets
    real = datasets.real if datasets else ()
    degrades = cohort.degradation != "bicubic"
    for part in ("benchmarks",) if datasets else ("test", "benchmarks"):
        store = ImageStore(study.folder("prepare") / part)
        for dataset, image in store.keys:
            if real and (dataset in real) != degrades:
                continue
            if dataset not in real:
                lr, hr = store.pair(dataset, image, scale)
                yield dataset, "test", image, degraded(lr, hr, cohort, dataset, image), hr
            elif store.has(dataset, image, 1):
                yield dataset, "test", image, *store.pair(dataset, image, scale)
            else:
                yield dataset, "test", image, store.image(dataset, image, scale), None
    store = ImageStore(study.folder("prepare") / "train")
    for dataset, image in evenly(store.keys, chosen.train_images):
        lr, hr = centre(*store.pair(dataset, image, scale), scale, chosen.train_crop)
        yield dataset, "train", image, degraded(lr, hr, cohort, dataset, image), hr


@torch.no_grad()
def score_cohort(study: Study, name: str) -> pd.DataFrame:
    """PSNR-Y and SSIM-Y against HR, and PSNR-Y against the teacher, in dB, image by image.

    Rows for every student, the teacher and bicubic enlargement (seed -1 for these two); in the
    cohort that a teacher shares its name with, for its self-ensemble too (Table 12), of as many
    test images a set as the budget's ``score.ensemble_images`` says, spread evenly. Where it says
    ``self_ensemble: all``, each answer is the mean over eight flips and transpositions. Where LR
    images were not made by bicubic reduction (Table 5), NIQE too, with no border cut; of images
    too small for it, none. Of images without HR, NIQE alone.

    Quantised students count as cohorts of their own: quantized_x4_2bit and so on.
    """
    cohort, device = study.cohort(name), pick_device()
    scale, every = cohort.scale, study.budget.score.self_ensemble == "all"
    teacher = load_teacher(study, cohort, device)
    ensemble = SelfEnsemble(teacher)
    students: dict[tuple[str, str, int], nn.Module] = {}
    for student, (method, bits) in cohort.variants().items():
        for seed in range(study.seeds(name)):
            network = load_student(study, name, student, seed, device)
            place = f"{name}_{bits}bit" if bits else name
            students[place, method, seed] = SelfEnsemble(network) if every else network
    images = list(scored_images(study, cohort))
    few = ensembled(images, study.budget.score.ensemble_images)
    few = few if cohort.teacher.trained == name else frozenset()
    rows: list[tuple[Any, ...]] = []
    with single_core(device):
        for scored in tqdm(images, f"score {name}", unit="image", ncols=88):
            dataset, split, image, lr, hr = scored
            low = lr[None].to(device).float().div(255)
            taught = (ensemble if every else teacher)(low)
            enlarged = bicubic(lr[None], scale, study.params.data.edges, up=True).to(device)
            answers = {(name, "bicubic", -1): enlarged, (name, "teacher", -1): taught}
            if (dataset, image) in few:
                answers[name, "teacher_ensemble", -1] = ensemble(low)
            near = Reference(_as_8_bit(taught), scale)
            truth = None if hr is None else Reference(hr[None].to(device), scale)
            others = ((key, network(low)) for key, network in students.items())
            for (place, method, seed), sr in chain(answers.items(), others):
                values = {}
                if truth:
                    luma = truth.see(sr)
                    values = {"psnr_y": truth.psnr(luma), "ssim_y": truth.ssim(luma)}
                    if not method.startswith("teacher"):
                        values["psnr_y_teacher"] = near.psnr(luma)
                if cohort.degradation != "bicubic" and split == "test" and min(sr.shape[2:]) >= 192:
                    from augkd.metrics.niqe import niqe  # here: other cohorts do not rest on it

                    values["niqe"] = niqe(sr)
                entry = (place, cohort.network, scale, method, seed, dataset, split, image)
                rows += [(*entry, key, round(float(value), 6)) for key, value in values.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def ensembled(images: list[Scored], limit: int | None) -> frozenset[tuple[str, str]]:
    """Dataset and name of ``limit`` images of each test set, spread evenly; of all, if None."""
    names: dict[str, list[str]] = {}
    for dataset, split, image, *_ in images:
        if split == "test":
            names.setdefault(dataset, []).append(image)
    return frozenset((dataset, name) for dataset in names for name in evenly(names[dataset], limit))


def _as_8_bit(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def write_scores(study: Study, name: str) -> pd.DataFrame:
    """Scores a cohort into runs/BUDGET/score/GROUP/scores/NAME.csv."""
    scores = score_cohort(study, name)
    with replacing(study.scores(name)) as partial:
        scores.to_csv(partial, index=False)
    return scores


def write_group(study: Study, group: str) -> pd.DataFrame:
    """Scores every cohort of a group, and writes metrics.json of their means beside the scores."""
    folder = study.folder("score", group)
    files = {name: study.scores(name) for name in study.trained() if study.group(name) == group}
    if study.only_shows("score", group):
        tables = [pd.read_csv(file, dtype={"image": str}) for file in files.values()]
        return pd.concat(tables, ignore_index=True)
    found = {name: write_scores(study, name) for name in files}
    for left in set((folder / "scores").glob("*.csv")) - set(files.values()):
        left.unlink()  # of a cohort that is no longer in params.yaml
    with replacing(folder / "metrics.json") as partial:
        table = {name: means(scores) for name, scores in found.items()}
        partial.write_text(json.dumps(table, indent=2) + "\n")
    return pd.concat(found.values(), ignore_index=True)


def means(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean PSNR-Y by method and test set, as ``dvc metrics`` shows it."""
    chosen = scores[(scores.metric == "psnr_y") & (scores.split == "test")]
    table = chosen.groupby(["method", "dataset"])["value"].mean().round(4).unstack()
    return {str(m): {str(d): float(v) for d, v in row.items()} for m, row in table.iterrows()}
