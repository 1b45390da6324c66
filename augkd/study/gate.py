"""Public teachers, and the gate that they pass: Table 12 as published for a single pass.

A student learns from what its teacher answers. A checkpoint that was read wrongly, or images that
were made otherwise, would show in no loss; they show here, before any student is trained.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch

from augkd.data.store import ImageStore
from augkd.errors import UserError, replacing
from augkd.metrics.fidelity import psnr_y
from augkd.models import save_checkpoint
from augkd.study.acquire.fetch import Fetcher
from augkd.study.acquire.registry import Checkpoint, expected_scores, load_registry
from augkd.study.params import Study
from augkd.study.record import Run
from augkd.study.runs import open_network, source_of
from augkd.train import Curves

TOLERANCE = 0.05  # dB
COLUMNS = ["teacher", "checkpoint", "dataset", "images", "expected", "measured", "difference"]


def take(study: Study, *names: str) -> pd.DataFrame:
    """Takes the public teachers ``names``, of one network, if each scores what was published of it.

    Writes teacher.safetensors, empty curves, run.json and gate.csv into runs/BUDGET/teach/NAME, and
    returns what gate.csv of all of them say. Nothing is written where a measured PSNR-Y is off its
    published figure by more than ``TOLERANCE``: that is a UserError.
    """
    if study.only_shows("take", study.teacher(names[0]).network or ""):
        shown = [pd.read_csv(study.folder("teach", name) / "gate.csv") for name in names]
        return pd.concat(shown, ignore_index=True)
    registry = load_registry(study.root / study.params.data.registry)
    fetcher = Fetcher(study.root / study.budget.origin, registry=registry)
    taken, rows = [], []
    for name in names:
        source, run = study.budget.checkpoints[name], Run(study, "teach", name)
        file, checkpoint = fetcher.checkpoint(source), registry.checkpoint(source)
        network = open_network(study, study.teacher(name), file).to(run.device).eval()
        rows += [(name, source, *row) for row in measure(study, network, checkpoint)]
        run.record["source"] = source_of(file) | {"checkpoint": source, "page": checkpoint.page}
        taken.append((name, run, network))
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


@torch.no_grad()
def measure(study: Study, network: Any, checkpoint: Checkpoint) -> Iterator[tuple[Any, ...]]:
    """PSNR-Y (dB) of a single pass over every dataset of which a figure is published.

    Yields ``COLUMNS`` from the dataset on; measured has as many decimals as expected.
    """
    store = ImageStore(study.folder("prepare") / "benchmarks")
    device, scale = next(network.parameters()).device, network.scale
    figures = expected_scores(checkpoint).query("metric == 'psnr_y'")
    for dataset, expected, decimals in figures[["dataset", "value", "decimals"]].to_numpy():
        keys = [key for key in store.keys if key[0] == dataset]
        if not keys:
            mend = f"add it to budgets.{study.budget.name}.images.datasets.test"
            raise UserError(f"{dataset}: not prepared, and teachers are measured on it: {mend}")
        total = 0.0
        for key in keys:
            lr, hr = (image[None].to(device) for image in store.pair(*key, scale))
            total += float(psnr_y(network(lr.float().div(255)), hr, border=scale))
        measured = round(total / len(keys), decimals)
        yield dataset, len(keys), expected, measured, round(measured - expected, decimals)
