"""The smoke pipeline, stopped at random moments again and again: does it end as one never stopped?

    python -m benchmarks.torture FOLDER --minutes 15 --kills 50

In FOLDER, throw-away copies of the repository, each with a DVC cache of its own. The first runs
undisturbed. In the second, what runs is killed (all of it, the first process, or any one), or told
to leave, and started again; once it ends, its weights, scores and report must be the first one's,
and it begins anew. A longer training is killed too: how much of it is lost? reports/torture.json
says what came of it, for notebooks/computed.ipynb.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks import bench_threads
from benchmarks.__main__ import machine
from tests.study_copy import copy_study, environment

KILLS, STOPS = ("all killed", "first killed", "one killed"), ("SIGTERM", "Ctrl-C")
MADE = ("runs", "build", "reports/smoke", "reports/index.html", "dvc.lock", ".dvc/cache", ".state")
# what no two runs share: when, how long, and bars that show it
CLOCK = rb'<pre class="stderr">.*?</pre>|[\d-]{10} \d\d:\d\d UTC|(?:data-value="[\d.]+">)?\d+ s<'
COMPARED = re.compile(
    r"reports/.*(?<!\.zip)|.*\.safetensors|.*/scores/.*csv"
)  # zip: the same pages
PIPELINE, TRAINING = ("augkd.study.pipeline.side_by_side",), ("augkd", "train", "edsr_x2", "-t")
# the longer training: some two minutes, in steps that take some time, since a state is saved once
# a minute and every step has its price in what is not computing
LONGER = {"steps": 1000, "batch": 64, "patch": 48, "decay_every": 1000, "validate_every": 500}


def start(study: Path, *command: str) -> "subprocess.Popen[bytes]":
    """As from a terminal of its own, but that what is said goes into a file."""
    with study.with_suffix(".log").open("ab") as log:
        into: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "cwd": study}
        into["env"] = environment(study, study) | {"AUGKD_JOBS": "2"}
        return subprocess.Popen([sys.executable, "-m", *command], start_new_session=True, **into)


def alive(study: Path) -> list[psutil.Process]:
    """Whatever runs in the study, whoever started it."""
    found = psutil.process_iter(["cwd", "cmdline", "status"])
    there = (p for p in found if (p.info["cwd"] or "").startswith(str(study)))
    return [p for p in there if p.info["status"] != psutil.STATUS_ZOMBIE]


def strike(study: Path, first: "subprocess.Popen[bytes]", how: str) -> float | None:
    """Stops what runs; returns the seconds until nothing did, if it was asked to leave."""
    begun = time.monotonic()
    if how in STOPS:
        os.killpg(first.pid, signal.SIGINT) if how == "Ctrl-C" else first.terminate()
        while first.poll() is None or alive(study):
            time.sleep(0.05)
        return round(time.monotonic() - begun, 2)
    if how == "first killed":
        first.kill()
    elif how == "one killed":
        random.choice(alive(study) or [psutil.Process(first.pid)]).kill()
    while how == "all killed" and (left := alive(study)):
        for process in left:
            process.send_signal(signal.SIGKILL)
    first.wait()
    return None


def results(study: Path) -> dict[str, bytes]:
    """All files by name; of weights, scores and the report what is in them, but for the clock's."""
    files = [file for part in ("runs", "reports", ".state") for file in study.glob(f"{part}/**/*")]
    names = {str(file.relative_to(study)): file for file in files if file.is_file()}
    return {
        name: re.sub(CLOCK, b"", file.read_bytes(), flags=re.S) if COMPARED.fullmatch(name) else b""
        for name, file in names.items()
    }


def torture_training(whole: Path, kills: int) -> dict[str, Any]:
    """A training of minutes in two copies, one of them killed when states of it were saved."""
    lost, studies = list[float](), [whole.with_name(name) for name in ("straight", "resumed")]
    for study in studies:
        values = yaml.safe_load((shutil.copytree(whole, study) / "params.yaml").read_text())
        values["budgets"]["smoke"]["teach"] |= LONGER
        (study / "params.yaml").write_text(yaml.safe_dump(values))
    beside = start(studies[0], *TRAINING)
    while (process := start(studies[1], *TRAINING)) and len(lost) < kills:
        begun, moment, saved = time.time(), float("inf"), 0.0
        while process.poll() is None and time.time() < moment:
            time.sleep(0.1)
            saved = max(
                (f.stat().st_mtime for f in studies[1].glob(".state/*/state.pt")), default=0
            )
            if saved > begun and moment == float("inf"):
                moment = time.time() + random.uniform(0, 60)
        if process.poll() is not None:
            break
        lost.append(round(time.time() - saved, 1))
        process.kill()
        process.wait()
    done = [process.wait(), beside.wait()] == [0, 0]
    made = [study / "runs/smoke/teach/edsr_x2/teacher.safetensors" for study in studies]
    same = done and made[0].read_bytes() == made[1].read_bytes()
    return {"steps": LONGER["steps"], "lost": lost, "identical": same}


def torture_pipeline(whole: Path, strikes: int, end: float, took: float) -> dict[str, Any]:
    """Until ``end`` by the clock, or so many strikes; then it is left to end."""
    study, expected, over = whole.with_name("tortured"), results(whole), True
    struck, rounds, refused = list[dict[str, Any]](), list[list[str]](), list[str]()
    going = True
    while going or not over:
        if over:
            shutil.rmtree(study, ignore_errors=True)
            shutil.copytree(whole, study)
            for made in (study / name for name in MADE):
                shutil.rmtree(made, ignore_errors=True)
                made.unlink(missing_ok=True)
        first, over, delay = start(study, *PIPELINE), False, random.uniform(0, took / 9)
        going = len(struck) < strikes and time.monotonic() < end
        try:
            code = first.wait(delay if going else None)
        except subprocess.TimeoutExpired:
            how = random.choice(KILLS) if len(struck) % 6 else random.choice(STOPS)
            lines = " ".join(" ".join(p.info["cmdline"] or ()) for p in alive(study))
            hit = sorted({*re.findall(r"pipeline\.stage (\w+)", lines)}) or ["between stages"]
            struck.append({"how": how, "after": round(delay, 1), "hit": hit})
            struck[-1]["left"] = strike(study, first, how)
            print(len(struck), *struck[-1].values(), flush=True)
            continue
        if code:
            refused.append(study.with_suffix(".log").read_text().strip().splitlines()[-1])
            print("refused:", refused[-1], flush=True)
            if refused[-3:] == 3 * refused[-1:]:
                break
            continue
        found, over = results(study), True
        rounds.append(sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k)))
        print("ended:", rounds[-1] or "identical", flush=True)
    return {"struck": struck, "rounds": rounds, "refused": refused}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reports/torture.json"))
    given = parser.parse_args()
    random.seed(given.seed)
    report: dict[str, Any] = {"machine": machine(), "seed": given.seed}
    begun, whole = time.monotonic(), copy_study(given.folder.resolve() / "whole")
    if start(whole, *PIPELINE).wait():
        sys.exit(f"{whole}.log: the pipeline failed before it was touched")
    report["uninterrupted"] = took = round(time.monotonic() - begun)
    report["training"] = torture_training(whole, 1)
    print(f"uninterrupted: {took} s;", report["training"], flush=True)
    end = begun + 60 * given.minutes - took
    report |= torture_pipeline(whole, given.kills * 6 // 5, end, took)
    report["threads"] = bench_threads.measure()
    left = [one["left"] for one in report["struck"] if one["left"] is not None]
    same = bool(report["rounds"]) and not any(report["rounds"]) and report["training"]["identical"]
    report["met"] = {"identical": same, "no hand": not report["refused"]}
    for name, found, most in (("lost", report["training"]["lost"], 61), ("left", left, 10)):
        report["met"][name] = 0 < max(found, default=0) <= most
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(report["met"])
    return int(not all(report["met"].values()))


if __name__ == "__main__":
    sys.exit(main())
