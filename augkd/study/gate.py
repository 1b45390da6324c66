"""Public teachers, and the gate that they pass: Table 12 as published for a single pass.

A student learns from what its teacher answers. A checkpoint that was read wrongly, or images that
were made otherwise than the published ones, would show in no loss; they show here, before any
student is trained.
"""

import hashlib

import pandas as pd
import torch
from torch import nn

from augkd.data.store import ImageStore
from augkd.errors import UserError, replacing
from augkd.metrics.fidelity import psnr_y
from augkd.models import load_checkpoint, save_checkpoint
from augkd.study.acquire.fetch import Fetcher
from augkd.study.acquire.registry import Checkpoint, expected_scores, load_registry
from augkd.study.params import Study
from augkd.study.record import Run
from augkd.study.runs import build, pick_device
from augkd.train import Curves

TOLERANCE = 0.05  # dB
COLUMNS = ["teacher", "checkpoint", "dataset", "images", "expected", "measured", "difference"]


def take(study: Study, *names: str) -> pd.DataFrame:
    """Takes the public teachers ``names``, of one network, if each scores what was published of it.

    Writes teacher.safetensors, empty curves, run.json and gate.csv into runs/BUDGET/teach/NAME.

    Returns:
        The gate's table of all of them: as ``measure`` returns it, and teacher, checkpoint.

    Raises:
        UserError: a checkpoint is missing or of another network, or a measured PSNR-Y is off its
            published figure by more than ``TOLERANCE``. Nothing is written then.
    """
    if names and study.only_shows("take", study.teacher(names[0]).network or ""):
        files = [study.folder("teach", name) / "gate.csv" for name in names]
        return pd.concat(map(pd.read_csv, files), ignore_index=True)
    registry = load_registry(study.root / study.params.data.registry)
    fetcher = Fetcher(study.root / study.budget.origin, registry=registry)
    device, taken = pick_device(), []
    for name in names:
        entry = study.teacher(name)
        if not entry.network or not entry.checkpoint:
            raise UserError(
                f"teacher '{name}': budget '{study.budget.name}' names no checkpoint for it: add "
                "one, or train it (python -m augkd.study.pipeline.stage teach)"
            )
        run = Run(study, "teach", name, 0, ["teacher"], device)
        checkpoint = registry.checkpoint(entry.checkpoint)
        network, source = build(study, entry.network, "teacher", entry.scale, 0), entry.checkpoint
        file = fetcher.checkpoint(source)
        load_checkpoint(file, network)
        table = measure(study, network.to(device).eval(), entry.scale, checkpoint)
        table.insert(0, "teacher", name)
        table.insert(1, "checkpoint", source)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        run.record["source"] = {"file": file.name, "sha256": digest}
        run.record["source"] |= {"checkpoint": source, "page": checkpoint.page}
        taken.append((run, network, table))
    tables = [table for *_, table in taken] or [pd.DataFrame(columns=COLUMNS)]
    gate = pd.concat(tables, ignore_index=True)
    judge(gate)
    for run, network, table in taken:
        with run:
            save_checkpoint(run.out / "teacher.safetensors", network, run.record["source"])
            with replacing(run.out / "gate.csv") as partial:
                table.to_csv(partial, index=False)
            run.end(Curves())
    return gate


@torch.no_grad()
def measure(study: Study, network: nn.Module, scale: int, checkpoint: Checkpoint) -> pd.DataFrame:
    """PSNR-Y (dB) of a single pass over every dataset of which a figure is published.

    Returns:
        dataset, images, expected, measured, difference: measured to as many decimals as expected.
        No row where nobody has published any.

    Raises:
        UserError: such a dataset was not prepared.
    """
    store = ImageStore(study.folder("prepare") / "benchmarks")
    device, rows = next(network.parameters()).device, []
    figures = expected_scores(checkpoint).query("metric == 'psnr_y'")
    for dataset, expected, decimals in figures[["dataset", "value", "decimals"]].to_numpy():
        keys = [key for key in store.keys if key[0] == dataset]
        if not keys:
            raise UserError(
                f"{dataset}: not prepared, and a public teacher is measured on it: add it to "
                f"budgets.{study.budget.name}.images.datasets.test"
            )
        total = 0.0
        for key in keys:
            lr, hr = (image[None].to(device) for image in store.pair(*key, scale))
            total += float(psnr_y(network(lr.float().div(255)), hr, border=scale))
        measured = round(total / len(keys), decimals)
        difference = round(measured - expected, decimals)
        rows.append((dataset, len(keys), expected, measured, difference))
    return pd.DataFrame(rows, columns=COLUMNS[2:])


def judge(gate: pd.DataFrame) -> None:
    """Raises UserError where a teacher is off by more than ``TOLERANCE``: one line for all."""
    off = gate[gate["difference"].abs() > TOLERANCE + 1e-9]
    if off.empty:
        return
    found = "; ".join(
        f"{row.teacher} on {row.dataset} {row.measured:g} dB, published {row.expected:g}"
        for row in off.itertuples()
    )
    raise UserError(
        f"teachers by checkpoint are off by more than {TOLERANCE} dB ({found}): check the "
        "checkpoint and the test images, or train the teacher (budget key teaching)"
    )
