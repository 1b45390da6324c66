"""Provenance: what a training ran on, with which code, and the curves that it left."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from augkd.data.shared import joined
from augkd.errors import replacing
from augkd.study.params import Study
from augkd.train import Curves, finish

# What a trained network is made of: part of the fingerprint of its resume state, and recorded.
TRAINING_CODE = (
    *("augment.py", "processes.py", "quantize.py", "study.py", "train.py"),
    *("data", "degrade", "distill", "models"),
)


def code_hash() -> str:
    """SHA-256 over the sources that training runs through."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for part in TRAINING_CODE:
        path = package / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


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
        out: Path,
    ) -> None:
        self.stage, self.name, self.device, self.out = stage, name, device, out
        self.label = f"{stage} {study.budget.name} {name}".replace(" ", "-")
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

    def end(self, curves: Curves) -> tuple[pd.DataFrame, ...]:
        """Writes curves and record, in the main process; the training is over."""
        loss, psnr = curves.frames()
        if not self.main:
            return loss, psnr
        frames = {"terms": loss, "loss": by_method(loss), "psnr": by_method(psnr)}
        for name, frame in frames.items():
            with replacing(self.out / "curves" / f"{name}.csv") as partial:
                frame.to_csv(partial, index=False)
        self.record["seconds"] = round(time.monotonic() - self.begun, 1)
        with replacing(self.out / "run.json") as partial:
            partial.write_text(json.dumps(self.record, indent=2) + "\n")
        return loss, psnr


def read_curves(folder: Path) -> tuple[pd.DataFrame, ...]:
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
