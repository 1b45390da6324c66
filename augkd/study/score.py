"""Scores of every image by every network of a cohort: a tidy table, never only means."""

import json
from collections.abc import Iterator
from itertools import chain, groupby
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from augkd.data.store import ImageStore, evenly
from augkd.degrade.bicubic import bicubic
from augkd.errors import replacing
from augkd.metrics.fidelity import Reference
from augkd.models.checkpoint import read_header
from augkd.models.upscale import SelfEnsemble
from augkd.study.params import NAMES, Cohort, Study
from augkd.study.runs import load_student, load_teacher, pick_device, read_pair, student_path
from augkd.train import single_core

KEY = ["cohort", "network", "scale", "method", "seed", "dataset", "split", "image"]
# dataset, split, image, lr (3, h, w), and hr (3, s*h, s*w) or None; uint8
Scored = tuple[str, str, str, Tensor, Tensor | None]


def scored_images(study: Study, cohort: Cohort) -> Iterator[Scored]:
    """All test images that a cohort is scored on, and the centres of some training ones.

    Training images are spread evenly over the list: they answer how well a student fits. Where the
    budget names real datasets, cohorts of another degradation are tested on those alone (Table 5).
    """
    chosen, datasets = study.budget.score, study.budget.images.datasets
    real, bicubic_lr = datasets.real if datasets else (), cohort.degradation == "bicubic"
    for part in ("benchmarks",) if datasets else ("test", "benchmarks"):
        store = ImageStore(study.folder("prepare") / part)
        keys = [key for key in store.keys if not real or (key[0] in real) != bicubic_lr]
        for dataset, image in keys:
            if dataset not in real:
                yield dataset, "test", image, *read_pair(store, (dataset, image), cohort)
            elif store.has(dataset, image, 1):
                yield dataset, "test", image, *store.pair(dataset, image, cohort.scale)
            else:
                yield dataset, "test", image, store.image(dataset, image, cohort.scale), None
    store = ImageStore(study.folder("prepare") / "train")
    for key in evenly(store.keys, chosen.train_images):
        yield key[0], "train", key[1], *read_pair(store, key, cohort, chosen.train_crop)


@torch.no_grad()
def score_cohort(study: Study, name: str) -> pd.DataFrame:
    """PSNR-Y and SSIM-Y against HR, and PSNR-Y against the teacher, in dB, image by image.

    Rows for every student, the teacher and bicubic enlargement (seed -1 for these two); in the
    cohort that a teacher shares its name with, for its self-ensemble too (Table 12). Of cohorts of
    another degradation (Table 5), NIQE too, of images large enough; without HR, it alone.
    Quantised students count as cohorts of their own: quantized_x4_2bit and so on. A student that
    was stopped in training has a row "stopped", the step.
    """
    cohort, device = study.cohort(name), pick_device()
    scale, limit = cohort.scale, study.budget.score.ensemble_images
    teacher = load_teacher(study, cohort, device)
    students: dict[tuple[str, str, int], nn.Module] = {}
    rows: list[tuple[Any, ...]] = []
    for student, (method, bits) in cohort.variants().items():
        place = f"{name}_{bits}bit" if bits else name
        for seed in study.seeds_of(name):
            students[place, method, seed] = load_student(study, name, student, seed, device)
            header = read_header(student_path(study, name, student, seed))
            if "stopped" in header:
                entry = (place, cohort.network, scale, method, seed, "all", "train", "all")
                rows.append((*entry, "stopped", header["stopped"]))
    images = list(scored_images(study, cohort))
    few = ensembled(images, limit) if cohort.teacher.trained == name else set()
    with single_core(device):
        for dataset, split, image, lr, hr in tqdm(images, f"score {name}", unit="image", ncols=88):
            low = lr[None].to(device).float().div(255)
            taught = teacher(low)
            enlarged = bicubic(lr[None], scale, study.params.data.edges, up=True).to(device)
            answers = {(name, "bicubic", -1): enlarged, (name, "teacher", -1): taught}
            if (dataset, image) in few:
                answers[name, "teacher_ensemble", -1] = SelfEnsemble(teacher)(low)
            near = Reference((taught * 255).round().clamp(0, 255).to(torch.uint8), scale)
            truth = None if hr is None else Reference(hr[None].to(device), scale)
            others = ((key, network(low)) for key, network in students.items())
            for (place, method, seed), sr in chain(answers.items(), others):
                by_teacher = method.startswith("teacher")
                values = grades(sr, truth, None if by_teacher else near) if truth else {}
                if cohort.degradation != "bicubic" and split == "test" and min(sr.shape[2:]) >= 192:
                    from augkd.metrics.niqe import niqe  # here: other cohorts do not rest on it

                    values["niqe"] = niqe(sr)
                entry = (place, cohort.network, scale, method, seed, dataset, split, image)
                rows += [(*entry, key, round(float(value), 6)) for key, value in values.items()]
    return pd.DataFrame(rows, columns=[*KEY, "metric", "value"])


def grades(sr: Tensor, truth: Reference, near: Reference | None = None) -> dict[str, Tensor]:
    """PSNR-Y and SSIM-Y against HR, and PSNR-Y against the teacher's answer where it is given."""
    luma = truth.see(sr)
    values = {"psnr_y": truth.psnr(luma), "ssim_y": truth.ssim(luma)}
    return values | ({"psnr_y_teacher": near.psnr(luma)} if near else {})


def ensembled(images: list[Scored], limit: int | None) -> set[tuple[str, str]]:
    """Dataset and name of ``limit`` images of each test set, spread evenly; of all, if None."""
    tests = [(dataset, image) for dataset, split, image, *_ in images if split == "test"]
    sets = (list(keys) for _, keys in groupby(tests, key=lambda key: key[0]))
    return {key for keys in sets for key in evenly(keys, limit)}


def write_group(study: Study, group: str) -> pd.DataFrame:
    """Scores every cohort of a group into runs/BUDGET/score/GROUP/scores/NAME.csv.

    Beside them metrics.json has mean PSNR-Y by method and test set, as ``dvc metrics`` shows it.
    """
    files = {name: study.scores(name) for name in study.trained() if study.group(name) == group}
    if not study.only_shows("score", group):
        means = {}
        for name, file in files.items():
            scores = score_cohort(study, name)
            with replacing(file) as partial:
                scores.to_csv(partial, index=False)
            shown = scores[(scores.metric == "psnr_y") & (scores.split == "test")]
            means[name] = shown.pivot_table("value", "method", "dataset").round(4).to_dict("index")
        with replacing(study.folder("score", group) / "metrics.json") as partial:
            partial.write_text(json.dumps(means, indent=2) + "\n")
    tables: list[pd.DataFrame] = [pd.read_csv(file, **NAMES) for file in files.values()]
    return pd.concat(tables, ignore_index=True)
