"""Is this machine ready? Each check is a line: what was found, or what is missing and its mend."""

import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from augkd.errors import UserError

CHECKS = ("python", "torch", "device", "disk", "photographs", "benchmarks", "dvc", "git")
FREE_GB = 5  # the environment and the default budget's outputs


def examine(say: Callable[[str], None]) -> bool:
    """Says a line a check: ok, MISSING, or - for what one can do without. True if all is there."""
    missing = []
    for name in CHECKS:
        try:
            text = _find(name)
            mark = "-" if text.startswith("no ") else "ok"
        except (ImportError, RuntimeError, UserError) as error:
            mend = "" if isinstance(error, UserError) else ": make, or pip install 'augkd[study]'"
            mark, text = "MISSING", str(error).partition("\n")[0] + mend
            missing.append(name)
        say(f"{mark:8}{name:12}{text}")
    say(f"not ready: {', '.join(missing)}" if missing else "ready")
    return not missing


def _find(name: str) -> str:
    """What there is of it. UserError, or what a library raises: it is missing."""
    if name == "python":
        return sys.version.split()[0]  # an older one cannot install this
    if name == "device":
        import torch

        if not torch.cuda.is_available():
            return f"CPU, {torch.get_num_threads()} threads (no CUDA)"
        torch.ones(8, device="cuda").sum().item()  # fails where driver and library do not agree
        gpu, count = torch.cuda.get_device_properties(0), torch.cuda.device_count()
        return f"{count} CUDA: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB each"
    if name == "disk":
        free = shutil.disk_usage(".").free / 1e9
        if free < FREE_GB:
            raise UserError(f"{free:.1f} GB free: make room for {FREE_GB} GB")
        return f"{free:.0f} GB free"
    if name == "photographs":
        from augkd.study.prepare import photographs

        train, test = photographs("train"), photographs("test")
        for photograph in train + test:
            photograph.locate()  # names the one that is missing or changed
        return f"{len(train)} to train on, {len(test)} to test on"
    if name == "benchmarks":
        place = Path(os.environ.get("AUGKD_BENCHMARKS") or Path.cwd() / "data" / "benchmarks")
        sets = ", ".join(sorted(hr.parent.name for hr in place.glob("*/HR"))) or "no sets"
        return f"{sets} in {place}" + ": put Set5/HR there if you have it" * (sets == "no sets")
    if name == "git":
        if shutil.which("git") is None:
            raise UserError("not found: install git (apt install git)")
        return "found"
    return version(name)
