"""Provenance: what a training ran on, with which code, and the curves that it left."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from augkd.data.shared import joined
from augkd.errors import replacing
from augkd.study.params import Study
from augkd.train import Curves, finish

# curves: loss (step, member, term, value) and validation PSNR (step, member, value)
Frames = tuple[pd.DataFrame, pd.DataFrame]


def code_hash() -> str:
    """SHA-256 over what the code does that training runs through: the core, and its caller."""
    from augkd.study.pipeline.sources import hash_code  # here, since no weights rest on it

    room = Path(__file__).parent
    code = [file for file in room.parent.rglob("*.py") if room not in file.parents]
    return hash_code([f for f in code if f.stem not in ("cli", "__main__")] + [room / "runs.py"])


class Run:
    """The record of one run, made before it starts, since code may change meanwhile."""

    def __init__(self, study: Study, stage: str, name: str) -> None:
        group = joined()
        self.study, self.device, self.main = study, group.device(), group.main
        self.out, self.label = study.folder(stage, name), f"{stage}-{study.budget.name}-{name}"
        self.state: Path | None = None  # to resume from, if it is a training
        self.begun = datetime.now(UTC)
        # in a clone of another user too; of no repository that this one lies in, or a hook runs in
        git = "env -u GIT_DIR -u GIT_WORK_TREE git -c safe.directory='*'"
        # what the pipeline itself writes is no change of the code
        git = f"{git} describe --always --abbrev=40 --exclude='*' && {git} diff --quiet HEAD --"
        git += " . ':!dvc.lock' ':!reports'"
        own = os.environ | {"GIT_CEILING_DIRECTORIES": str(study.root.resolve().parent)}
        told = subprocess.run(git, cwd=study.root, env=own, shell=True, capture_output=True)
        revision = told.stdout.decode().strip()
        if not revision:
            why = " ".join(told.stderr.decode(errors="replace").split())
            print(f"augkd: no revision of the code is recorded: {why}", file=sys.stderr)
        self.record: dict[str, Any] = {"cohort": name, "stage": stage, "budget": study.budget.name}
        self.record |= {"members": ["teacher"], "steps": 0, "processes": group.count}
        self.record |= {"started": self.begun.isoformat(timespec="seconds"), "revision": revision}
        self.record |= {"dirty": told.returncode != 0 if revision else None, "code": code_hash()}
        self.record |= {"torch": torch.__version__, "device": device_name(self.device)}
        self.record |= {"python": platform.python_version()}
        self.record |= {"cpu_count": os.cpu_count(), "threads": torch.get_num_threads()}

    def end(self, curves: Curves) -> Frames:
        """Once weights are there: the main process writes curves and record, drops the state."""
        loss = pd.DataFrame(curves.loss, columns=["step", "member", "term", "value"])
        psnr = pd.DataFrame(curves.psnr, columns=["step", "member", "value"])
        if self.main:
            frames = {"terms": loss, "loss": by_method(loss)}
            frames |= {"validation": psnr, "psnr": by_method(psnr)}
            for name, frame in frames.items():
                with replacing(self.out / "curves" / f"{name}.csv") as partial:
                    frame.to_csv(partial, index=False)
            self.record["seconds"] = round((datetime.now(UTC) - self.begun).total_seconds(), 1)
            with replacing(self.out / "run.json") as partial:
                partial.write_text(json.dumps(self.record, indent=2) + "\n")
            if self.state:
                finish(self.state)
        joined().wait()  # others read what the main process has written
        return loss, psnr


def read_curves(folder: Path) -> Frames:
    """What ``Run.end`` returned when it wrote them."""
    files = (folder / "curves" / f"{name}.csv" for name in ("terms", "validation"))
    loss, psnr = (pd.read_csv(file) for file in files)
    return loss, psnr


def by_method(frame: pd.DataFrame) -> pd.DataFrame:
    """Curves with a column a method: terms summed, then the mean over seeds, as dvc plots wants."""
    total = frame.groupby(["step", "member"], sort=False)["value"].sum().reset_index()
    method = total["member"].astype(str).str.replace(r"-\d+$", "", regex=True).rename("method")
    return total.pivot_table("value", "step", method, sort=False).round(6).reset_index()


def plot_curves(loss: pd.DataFrame, psnr: pd.DataFrame) -> Any:
    """A figure of loss and validation by ``by_method``: a line a method."""
    import matplotlib.pyplot as plt

    from augkd.study.report.style import METHOD_NAMES

    loss, psnr = (frame.set_index("step").rename(columns=METHOD_NAMES) for frame in (loss, psnr))
    size = (9, 3.2 + 0.18 * (1 + len(psnr.columns) // 5))
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    for axis, frame in zip(axes, (loss, psnr), strict=True):
        for method, values in frame.items():
            axis.plot(values, label=method)
    axes[0].set(title="Training loss", xlabel="step", ylabel="weighted sum of terms", yscale="log")
    axes[1].set(title="Validation", xlabel="step", ylabel="PSNR-Y (dB)")
    if len(psnr.columns):  # networks that were taken from elsewhere have no curves
        axes[1].set_ylim(bottom=psnr.iloc[1:].min().min() - 0.5)
    if len(psnr.columns) > 1:
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor() or "CPU"
