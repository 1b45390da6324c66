"""Runs benchmarks: ``python -m benchmarks``, or ``python -m benchmarks training`` for some alone.

All of them together write reports/benchmarks.json, which notebooks/computed.ipynb shows.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from augkd.study.record import device_name

OUT = Path("reports/benchmarks.json")
TARGETS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("targets.yaml").read_text())
# those that make matrix products and convolutions faster, of torch.cpu.get_capabilities()
INSTRUCTIONS = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
UNITS = {"×": 1, "%": 100, "ms": 1000}  # of a ratio, a share, seconds
Found = Mapping[str, Any]  # what ``measure`` returns: see benchmarks/__init__.py


def machine() -> dict[str, Any]:
    """What ran, and how busy it was before."""
    able = torch.cpu.get_capabilities()
    return {
        "processor": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if able.get(name)],
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


def judge(target: Mapping[str, Any], found: Found, amx: bool) -> dict[str, Any]:
    """A line of the report, from the rounds of its case.

    ``measured`` is the median of the rounds, ``low`` and ``high`` are their quartiles: of one side,
    or of a ratio of two in each round; all are the number itself where the module gives but that.
    ``met`` is None without a target.
    """
    path = target.get("case") or target["value"]
    of: Any = reduce(lambda part, key: part[key], path.split("."), found)
    case = of if "case" in target else {"value": of}
    sides = {side: np.atleast_1d(rounds) for side, rounds in case.items()}
    unit, pair = target.get("unit", "×"), target.get("ratio")
    values = sides[pair[0]] / sides[pair[1]] if pair else sides[target.get("side", "value")]
    values = values * UNITS[unit]
    low, measured, high = (_short(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    bounds = {key: target[key] for key in ("at_least", "at_most") if key in target}
    for key, bound in bounds.items():
        bounds[key] = bound["amx" if amx else "rest"] if isinstance(bound, dict) else bound
    met = bounds.get("at_least", measured) <= measured <= bounds.get("at_most", measured)
    line = {key: target[key] for key in ("module", "what")} | bounds
    line |= {"unit": unit, "measured": measured, "low": low, "high": high}
    medians = {side: _short(np.median(rounds)) for side, rounds in sides.items()}
    return line | {"met": met if bounds else None, "medians": medians}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    modules = [*dict.fromkeys(target["module"] for target in TARGETS)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(modules)}; all, if none")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "rounds": given.rounds, "lines": []}
    amx = any(name.startswith("amx") for name in report["machine"]["instructions"])
    fresh: Any = {"mp_context": multiprocessing.get_context("spawn"), "max_tasks_per_child": 1}
    with ProcessPoolExecutor(1, **fresh) as pool:
        for name in given.modules or modules:
            measure = import_module(f"benchmarks.bench_{name}").measure
            found = pool.submit(measure, given.rounds).result()
            for target in [target for target in TARGETS if target["module"] == name]:
                line = judge(target, found, amx)
                report["lines"].append(line)
                verdict = {True: "met", False: "not met", None: ""}[line["met"]]
                spread = f"{line['measured']} {line['unit']} ({line['low']} to {line['high']})"
                print(f"{line['what']}: {spread}", verdict, flush=True)
    if not given.modules:
        OUT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
