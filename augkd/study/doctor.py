"""Is this machine ready? Each check is a line: what was found, or what is missing and its mend."""

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from augkd.errors import UserError

FREE_GB = 5  # the environment and the default budget's outputs


@dataclass(frozen=True)
class Finding:
    """``state`` "none" is for what the study can do without; only "missing" stops it."""

    name: str
    state: Literal["ok", "missing", "none"]
    text: str


def examine(folder: Path) -> Iterator[Finding]:
    """Makes every check for a study in ``folder``; none of them writes anything."""
    checks: list[tuple[str, Callable[[Path], Finding]]] = [
        ("python", _python),
        ("torch", _torch),
        ("device", _device),
        ("disk", _disk),
        ("photographs", _photographs),
        ("benchmarks", _benchmarks),
        ("dvc", _dvc),
        ("git", _git),
    ]
    for name, check in checks:
        try:
            yield check(folder)
        except UserError as error:
            yield Finding(name, "missing", str(error))


def _python(folder: Path) -> Finding:
    return Finding("python", "ok", sys.version.split()[0])  # an older one cannot install this


def _torch(folder: Path) -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "missing", f"{error}: run pip install -r requirements.lock")
    return Finding("torch", "ok", torch.__version__)


def _device(folder: Path) -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("device", "none", "not checked: it needs torch")
    if not torch.cuda.is_available():
        return Finding("device", "ok", f"CPU, {torch.get_num_threads()} threads (no CUDA)")
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Finding("device", "missing", f"CUDA fails ({reason}): mend the driver")
    gpu = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    return Finding(
        "device", "ok", f"{count} CUDA: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB each"
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    if free < FREE_GB:
        return Finding("disk", "missing", f"{free:.1f} GB free: make room for {FREE_GB} GB")
    return Finding("disk", "ok", f"{free:.0f} GB free")


def _photographs(folder: Path) -> Finding:
    """Every listed photograph is installed and unchanged."""
    if importlib.util.find_spec("augkd.study.prepare") is None:
        return Finding("photographs", "none", "not checked: this build has no list of them")
    listed = importlib.import_module("augkd.study.prepare").photographs
    counts = []
    for split in ("train", "test"):
        found = list(listed(split))
        for photograph in found:
            photograph.locate()  # names the one that is missing or changed
        counts.append(f"{len(found)} to {split} on")
    return Finding("photographs", "ok", ", ".join(counts))


def _benchmarks(folder: Path) -> Finding:
    """Sets laid out as SET/HR; the study runs without any."""
    place = Path(os.environ.get("AUGKD_BENCHMARKS") or folder / "data" / "benchmarks")
    sets = sorted(hr.parent.name for hr in place.glob("*/HR"))
    if not sets:
        return Finding(
            "benchmarks", "none", f"no sets in {place}: put Set5/HR there if you have it"
        )
    return Finding("benchmarks", "ok", f"{', '.join(sets)} in {place}")


def _dvc(folder: Path) -> Finding:
    try:
        return Finding("dvc", "ok", version("dvc"))
    except PackageNotFoundError:
        return Finding("dvc", "missing", "not installed: run pip install -r requirements.lock")


def _git(folder: Path) -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "missing", "not found: install git (apt install git)")
    return Finding("git", "ok", "found")
