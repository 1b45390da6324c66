"""Is this machine ready? Each check is a line: what was found, or what is missing and its mend."""

import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from augkd.errors import UserError

FREE_GB = 5  # the environment and the default budget's outputs


def examine(say: Callable[[str], None]) -> bool:
    """Says what each check finds for a study in this folder; True if nothing is missing.

    Nothing is written. A line begins with ok, MISSING, or - for what the study can do without.
    """
    missing = []
    for name, check in CHECKS.items():
        try:
            text = check()
            mark = "-" if text.startswith("no ") else "ok"
        except (ImportError, RuntimeError, UserError) as error:
            mend = "" if isinstance(error, UserError) else ": run make .venv/.installed"
            mark, text = "MISSING", str(error).partition("\n")[0] + mend
            missing.append(name)
        say(f"{mark:8}{name:12}{text}")
    say(f"not ready: {', '.join(missing)}" if missing else "ready")
    return not missing


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads (no CUDA)"
    torch.ones(8, device="cuda").sum().item()  # fails where driver and library do not agree
    gpu, count = torch.cuda.get_device_properties(0), torch.cuda.device_count()
    return f"{count} CUDA: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB each"


def _disk() -> str:
    free = shutil.disk_usage(".").free / 1e9
    if free < FREE_GB:
        raise UserError(f"{free:.1f} GB free: make room for {FREE_GB} GB")
    return f"{free:.0f} GB free"


def _photographs() -> str:
    from augkd.study.prepare import photographs

    listed = {split: list(photographs(split)) for split in ("train", "test")}
    for photograph in listed["train"] + listed["test"]:
        photograph.locate()  # names the one that is missing or changed
    return ", ".join(f"{len(found)} to {split} on" for split, found in listed.items())


def _benchmarks() -> str:
    place = Path(os.environ.get("AUGKD_BENCHMARKS") or Path.cwd() / "data" / "benchmarks")
    sets = sorted(hr.parent.name for hr in place.glob("*/HR"))
    said = ", ".join(sets) or "no sets"
    return f"{said} in {place}" + ("" if sets else ": put Set5/HR there if you have it")


def _git() -> str:
    if shutil.which("git") is None:
        raise UserError("not found: install git (apt install git)")
    return "found"


CHECKS = {
    "python": lambda: sys.version.split()[0],  # an older one cannot install this
    "torch": lambda: version("torch"),
    "device": _device,
    "disk": _disk,
    "photographs": _photographs,
    "benchmarks": _benchmarks,
    "dvc": lambda: version("dvc"),
    "git": _git,
}
