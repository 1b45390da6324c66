"""Provenance: what a training ran on, with which code, and the curves that it left."""

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from augkd.data.shared import joined
from augkd.errors import replacing
from augkd.study.params import Study
from augkd.train import Curves, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def code_hash() -> str:
    """SHA-256 over what the code does that training runs through: the core, and its caller."""
    from augkd.study.pipeline.sources import hash_code  # here, since no weights rest on it

    package = Path(__file__).parents[1]
    outside = {package / "study", package / "cli.py", package / "__main__.py"}
    core = [file for file in package.rglob("*.py") if not outside & {file, *file.parents}]
    return hash_code([*core, Path(__file__).with_name("runs.py")])


class Run:
    """The record of one training: made before it starts, since code may change meanwhile.

    Used as a context, it forgets the resume state at the end, once the result is on disk. Of
    several processes the main one alone writes; the others leave the context after it.
    """

    def __init__(
        self,
        study: Study,
        stage: str,
        name: str,
        steps: int,
        members: list[str],
        device: torch.device,
    ) -> None:
        self.stage, self.name, self.device = stage, name, device
        self.out = study.folder(stage, name)
        self.label = f"{stage}-{study.budget.name}-{name}"
        self.main = joined().main
        self.state: Path | None = None
        self.begun = time.monotonic()
        self.record: dict[str, Any] = {
            "cohort": name,
            "stage": stage,
            "budget": study.budget.name,
            "members": members,
            "steps": steps,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "revision": _git(study.root, "rev-parse", "HEAD"),
            "dirty": bool(_git(study.root, "status", "--porcelain", "--untracked-files=no")),
            "code": code_hash(),
            "device": device_name(device),
            "processes": joined().count,
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def __enter__(self) -> "Run":
        self.out.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            if self.main and self.state:
                finish(self.state)
            joined().wait()  # others read what the main process has written

    def end(self, curves: Curves) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Writes curves and record, in the main process; the training is over."""
        loss = pd.DataFrame(curves.loss, columns=["step", "member", "term", "value"])
        psnr = pd.DataFrame(curves.psnr, columns=["step", "member", "value"])
        if self.main:
            frames = {"terms": loss, "loss": by_method(loss), "psnr": by_method(psnr)}
            for name, frame in frames.items():
                with replacing(self.out / "curves" / f"{name}.csv") as partial:
                    frame.to_csv(partial, index=False)
            self.record["seconds"] = round(time.monotonic() - self.begun, 1)
            with replacing(self.out / "run.json") as partial:
                partial.write_text(json.dumps(self.record, indent=2) + "\n")
        return loss, psnr


def read_curves(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What ``Run.end`` wrote; of the validation, a line a method, the mean over its seeds."""
    psnr = pd.read_csv(folder / "curves" / "psnr.csv").melt("step", var_name="member")
    loss = pd.read_csv(folder / "curves" / "terms.csv", float_precision="round_trip")
    return loss, psnr


def by_method(frame: pd.DataFrame) -> pd.DataFrame:
    """Curves with a column a method: terms summed, then the mean over seeds, as dvc plots wants."""
    if frame.empty:
        return pd.DataFrame({"step": []})
    total = frame.groupby(["step", "member"], sort=False)["value"].sum().reset_index()
    total["method"] = total["member"].str.replace(r"-\d+$", "", regex=True)
    wide = total.pivot_table(index="step", columns="method", values="value", sort=False)
    return wide.round(6).reset_index()


def plot_curves(loss: pd.DataFrame, psnr: pd.DataFrame) -> "Figure":
    """Loss and validation by ``by_method``: a line a method."""
    import matplotlib.pyplot as plt

    from augkd.study.report.style import METHOD_NAMES

    methods = list(psnr.columns.drop("step"))
    size = (9, 3.2 + 0.18 * (1 + len(methods) // 5))
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    for axis, frame in zip(axes, (loss, psnr), strict=True):
        for method in frame.columns.drop("step"):
            axis.plot(frame["step"], frame[method], label=METHOD_NAMES.get(method, method))
    axes[0].set(xlabel="step", ylabel="loss (weighted sum of terms)", yscale="log")
    axes[0].set_title("Training loss")
    axes[1].set(xlabel="step", ylabel="PSNR-Y (dB)", title="Validation")
    if methods:  # networks that were taken from elsewhere have no curves
        axes[1].set_ylim(bottom=psnr.iloc[1:][methods].min().min() - 0.5)
    if len(methods) > 1:
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def _git(root: Path, *arguments: str) -> str:
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
