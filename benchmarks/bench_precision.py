"""Does bfloat16 move results? The core cohort in float32 and in bfloat16, paired by seed.

    python -m benchmarks.bench_precision --steps 3000 --seeds 10

In both, students of a seed start from the same weights and see the same batches. What they reach
on the test photographs goes into reports/precision.json after every training, a seed in one
precision; started again, it goes on from there. On the page: notebooks/computed.ipynb.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from augkd.data.store import ImageStore
from augkd.metrics.fidelity import psnr_y
from augkd.models import SRNetwork, load_network
from benchmarks.__main__ import machine
from benchmarks.bench_training import BATCH, CORE, PATCH, SCALE, STUDENT, cohort, write_images

PRECISIONS = ("float32", "bfloat16")
LAW = 0.02  # dB


@torch.no_grad()
def score(network: SRNetwork, store: ImageStore) -> float:
    """Mean PSNR-Y over all of the images, in dB."""
    pairs = (store.pair(*key, SCALE) for key in store.keys)
    shaped = ((network(lr[None].float() / 255), hr[None]) for lr, hr in pairs)
    return float(torch.cat([psnr_y(sr, hr, SCALE) for sr, hr in shaped]).mean())


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line a method: bfloat16 minus float32 in dB, with a 95 % t interval over seeds.

    ``met``: the mean is within the law, and the interval holds 0. With one seed there is no
    interval, and neither is known.
    """
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        plain, fast = (
            {r["seed"]: r["psnr_y"] for r in rows if (r["method"], r["precision"]) == (method, p)}
            for p in PRECISIONS
        )
        apart = np.array([fast[seed] - plain[seed] for seed in plain if seed in fast])
        line = {"method": method, "seeds": len(apart), "low": None, "high": None, "met": None}
        if len(apart) > 1:
            half = stats.t.ppf(0.975, len(apart) - 1) * stats.sem(apart)
            low, high = apart.mean() - half, apart.mean() + half
            met = bool(abs(apart.mean()) <= LAW and low <= 0 <= high)
            line |= {"low": float(low), "high": float(high), "met": met}
        if len(apart):
            level = float(np.mean([plain[seed] for seed in plain if seed in fast]))
            found.append(line | {"psnr_y": level, "difference": float(apart.mean())})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_precision")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--images", type=int, help="of the photographs; all, if not given")
    taught = Path("runs/cpu/teach/edsr_x2/teacher.safetensors")
    parser.add_argument("--teacher", type=Path, default=taught, help=f"a file; else {taught}")
    parser.add_argument("--out", type=Path, default=Path("reports/precision.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_network(given.teacher)
    digest = hashlib.sha256(given.teacher.read_bytes()).hexdigest()
    settings = {"steps": given.steps, "batch": BATCH, "patch": PATCH, "images": given.images}
    settings |= {"student": [*STUDENT], "teacher": digest}
    rows: list[dict[str, Any]] = []
    if given.out.exists():
        report = json.loads(given.out.read_text())
        if (rows := report["rows"]) and report["settings"] != settings:
            parser.error(f"{given.out} is of other settings: remove it, or name another with --out")
    with tempfile.TemporaryDirectory() as name:
        train, test = (write_images(Path(name, s), s, given.images) for s in ("train", "test"))
        for seed in range(given.seeds):
            for precision in PRECISIONS:
                if any((row["seed"], row["precision"]) == (seed, precision) for row in rows):
                    continue
                for member in cohort(
                    train, CORE, [seed], given.steps, teacher, precision=precision
                ):
                    value = score(member.result(), test)
                    method = member.name.rpartition("-")[0]
                    key = {"seed": seed, "precision": precision, "method": method}
                    rows.append(key | {"psnr_y": value})
                    print(*key.values(), f"{value:.4f} dB", flush=True)
                report = {"machine": machine(), "settings": settings}
                report |= {"law": LAW, "table": table(rows), "rows": rows}
                given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
