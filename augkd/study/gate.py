"""The gate that teachers from elsewhere pass: public ones, by Table 12, and those of the study.

A student learns from what its teacher answers. A checkpoint that was read wrongly, or images that
were made otherwise, would show in no loss; they show here, before any student is trained.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from augkd.data.store import ImageStore
from augkd.errors import UserError, replacing
from augkd.metrics.fidelity import psnr_y
from augkd.models import save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.study.acquire.fetch import Fetcher
from augkd.study.acquire.registry import expected_scores, load_registry
from augkd.study.params import Study, TeacherEntry
from augkd.study.record import Run
from augkd.study.runs import Task, open_network, pick_device, read_pair, source_of
from augkd.train import Curves

Key = tuple[str, str]  # dataset and name of an image
TOLERANCE = 0.05  # dB
COLUMNS = ["teacher", "checkpoint", "dataset", "images", "expected", "measured", "difference"]


@torch.no_grad()
def mean_psnr(network: nn.Module, store: ImageStore, keys: Sequence[Key], entry: Task) -> float:
    """Mean PSNR-Y (dB) over images, each in a single pass."""
    device, total = pick_device(), 0.0
    network.to(device).eval()
    for key in keys:
        lr, hr = (image[None].to(device) for image in read_pair(store, key, entry))
        total += float(psnr_y(network(lr.float().div(255)), hr, entry.scale))
    return total / len(keys)


def check_card(study: Study, entry: TeacherEntry, network: nn.Module) -> dict[str, Any]:
    """The card of a teacher that comes with the study, if it still scores what the card says."""
    if not (card := read_header(study.root / str(entry.file)).get("card")):
        raise UserError(f"{entry.file}: has no card: restore it, or run make teachers")
    store = ImageStore(study.folder("prepare") / "test")
    found = mean_psnr(network, store, store.keys, entry)
    if abs(found - card["photographs"]) > TOLERANCE and len(store.keys) == card["images"]:
        off = f"scores {found:.2f} dB on the test photographs, not {card['photographs']:.2f}"
        raise UserError(f"{entry.file}: {off} as on its card: restore it, or run make teachers")
    return dict(card)


def take(study: Study, *names: str) -> pd.DataFrame:
    """Takes the public teachers ``names``, of one network, if each scores what was published of it.

    Writes teacher.safetensors, empty curves, run.json and gate.csv into runs/BUDGET/teach/NAME, and
    returns what gate.csv of all of them say: PSNR-Y (dB) of a single pass over every dataset of
    which a figure is published. Nothing is written where one is off by more than ``TOLERANCE``.
    """
    if study.only_shows("take", study.teacher(names[0]).network or ""):
        shown = [pd.read_csv(study.folder("teach", name) / "gate.csv") for name in names]
        return pd.concat(shown, ignore_index=True)
    registry = load_registry(study.root / study.params.data.registry)
    fetcher = Fetcher(study.root / study.budget.origin, registry=registry)
    store, taken, rows = ImageStore(study.folder("prepare") / "benchmarks"), [], []
    for name in names:
        source, entry = study.budget.checkpoints[name], study.teacher(name)
        file, checkpoint = fetcher.checkpoint(source), registry.checkpoint(source)
        run = Run(study, "teach", name)
        network = open_network(study, entry, file)
        run.record["source"] = source_of(file) | {"checkpoint": source, "page": checkpoint.page}
        taken.append((name, run, network))
        figures = expected_scores(checkpoint).query("metric == 'psnr_y'")
        for dataset, expected, decimals in figures[["dataset", "value", "decimals"]].to_numpy():
            keys = [key for key in store.keys if key[0] == dataset]
            if not keys:
                mend = f"add it to budgets.{study.budget.name}.images.datasets.test"
                raise UserError(f"{dataset}: not prepared, and teachers are measured on it: {mend}")
            measured = round(mean_psnr(network, store, keys, entry), decimals)
            difference = round(measured - expected, decimals)
            rows.append((name, source, dataset, len(keys), expected, measured, difference))
    gate = pd.DataFrame(rows, columns=COLUMNS)
    if len(off := gate[gate["difference"].abs() > TOLERANCE + 1e-9]):
        values = off[["teacher", "dataset", "measured", "expected"]].to_numpy()
        found = "; ".join("{} on {} {:g} dB, published {:g}".format(*row) for row in values)
        mend = "check the checkpoint and the test images, or train the teacher (key teaching)"
        raise UserError(f"public teachers are off by more than {TOLERANCE} dB ({found}): {mend}")
    for name, run, network in taken:
        save_checkpoint(run.out / "teacher.safetensors", network, run.record["source"])
        with replacing(run.out / "gate.csv") as partial:
            gate[gate["teacher"] == name].to_csv(partial, index=False)
        run.end(Curves())
    return gate
