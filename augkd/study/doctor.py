"""Is this machine ready? Each check is a line: what was found, or what is missing and its mend."""

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from augkd.errors import UserError

FREE_GB = 5  # the environment and the default budget's outputs
Result = tuple[Literal["ok", "missing", "none"], str]


class Finding(NamedTuple):
    """``state`` "none" is for what the study can do without; only "missing" stops it."""

    name: str
    state: str
    text: str


def examine(folder: Path) -> Iterator[Finding]:
    """Makes every check for a study in ``folder``; none of them writes anything."""
    for check in (_python, _torch, _device, _disk, _photographs, _benchmarks, _dvc, _git):
        name = check.__name__.removeprefix("_")
        try:
            yield Finding(name, *check(folder))
        except UserError as error:
            yield Finding(name, "missing", str(error))


def _python(folder: Path) -> Result:
    return "ok", sys.version.split()[0]  # an older one cannot install this


def _torch(folder: Path) -> Result:
    try:
        import torch
    except ImportError as error:
        return "missing", f"{error}: run make .venv/.installed"
    return "ok", torch.__version__


def _device(folder: Path) -> Result:
    try:
        import torch
    except ImportError:
        return "none", "not checked: it needs torch"
    if not torch.cuda.is_available():
        return "ok", f"CPU, {torch.get_num_threads()} threads (no CUDA)"
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        return "missing", f"CUDA fails ({str(error).splitlines()[0]}): mend the driver"
    gpu, count = torch.cuda.get_device_properties(0), torch.cuda.device_count()
    return "ok", f"{count} CUDA: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB each"


def _disk(folder: Path) -> Result:
    free = shutil.disk_usage(folder).free / 1e9
    if free < FREE_GB:
        return "missing", f"{free:.1f} GB free: make room for {FREE_GB} GB"
    return "ok", f"{free:.0f} GB free"


def _photographs(folder: Path) -> Result:
    """Every listed photograph is installed and unchanged."""
    from augkd.study.prepare import photographs

    counts = []
    for split in ("train", "test"):
        found = list(photographs(split))
        for photograph in found:
            photograph.locate()  # names the one that is missing or changed
        counts.append(f"{len(found)} to {split} on")
    return "ok", ", ".join(counts)


def _benchmarks(folder: Path) -> Result:
    """Sets laid out as SET/HR; the study runs without any."""
    place = Path(os.environ.get("AUGKD_BENCHMARKS") or folder / "data" / "benchmarks")
    sets = sorted(hr.parent.name for hr in place.glob("*/HR"))
    if not sets:
        return "none", f"no sets in {place}: put Set5/HR there if you have it"
    return "ok", f"{', '.join(sets)} in {place}"


def _dvc(folder: Path) -> Result:
    try:
        return "ok", version("dvc")
    except PackageNotFoundError:
        return "missing", "not installed: run make .venv/.installed"


def _git(folder: Path) -> Result:
    if shutil.which("git") is None:
        return "missing", "not found: install git (apt install git)"
    return "ok", "found"
