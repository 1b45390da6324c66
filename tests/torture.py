"""The smoke pipeline, stopped at random moments again and again: does it end as one never stopped?

    python tests/torture.py FOLDER --minutes 15 --kills 50

In FOLDER, throw-away copies of the repository, each with a DVC cache of its own. The first runs
undisturbed. In the second, what runs is killed (all of it, the first process, or any one), or told
to stop by SIGTERM or Ctrl-C, and started again; once it ends, its weights, scores and report must
be the first one's, and it begins anew. A longer training is killed too: how much of it is lost?
reports/torture.json says what came of it, for notebooks/computed.ipynb.
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

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, it imports its neighbours

from benchmarks.__main__ import machine
from tests.study_copy import ROOT, copy_study, environment

KILLS, STOPS = ("all killed", "first killed", "one killed"), ("SIGTERM", "Ctrl-C")
MADE = ("runs", "build", "reports/smoke", "reports/index.html", "dvc.lock", ".dvc/cache", ".state")
STEPS = 25_000  # of the longer training: minutes
LAW = {"lost": 60, "left": 10}  # seconds at most
WEIGHTS = "runs/smoke/teach/edsr_x2/teacher.safetensors"
# what no two runs share: when, how long, and bars that show it
CLOCK = rb'<pre class="stderr">.*?</pre>|[\d-]{10} \d\d:\d\d UTC|(?:data-value="[\d.]+">)?\d+ s<'
PIPELINE, TRAINING = ("augkd.study.pipeline.side_by_side",), ("augkd", "train", "edsr_x2", "-t")


def start(study: Path, *command: str) -> "subprocess.Popen[bytes]":
    """As from a terminal of its own, but that what is said goes into a file."""
    own = environment(study, study) | {"AUGKD_JOBS": "2"}
    with said(study).open("ab") as log:
        into: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT}
        line = [sys.executable, "-m", *command]
        return subprocess.Popen(line, cwd=study, env=own, start_new_session=True, **into)


def said(study: Path) -> Path:
    """The file of all that was said in it."""
    return study.with_suffix(".log")


def alive(study: Path) -> list[psutil.Process]:
    """Whatever runs in the study, whoever started it."""
    found = psutil.process_iter(["cwd", "cmdline", "status"])
    there = (p for p in found if (p.info["cwd"] or "").startswith(str(study)))
    return [p for p in there if p.info["status"] != psutil.STATUS_ZOMBIE]


def running(processes: list[psutil.Process]) -> list[str]:
    """What the stages among them do: their notebooks, or what DVC is at between two."""
    lines = [" ".join(process.info["cmdline"] or []) for process in processes]
    stages = {found[1] for line in lines if (found := re.search(r"pipeline\.stage (\w+)", line))}
    return sorted(stages) or ["between stages"]


def strike(study: Path, first: "subprocess.Popen[bytes]", how: str) -> float | None:
    """Stops what runs; returns the seconds until nothing did, if it was asked to leave."""
    begun = time.monotonic()
    if how in STOPS:
        os.killpg(first.pid, signal.SIGINT) if how == "Ctrl-C" else first.terminate()
        while first.poll() is None or alive(study):
            time.sleep(0.05)
        return round(time.monotonic() - begun, 2)
    while how == "all killed" and (left := alive(study)):
        for process in left:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    if how == "one killed":
        random.choice(alive(study) or [psutil.Process(first.pid)]).kill()
    if how == "first killed":
        first.kill()
    first.wait()
    return None


def results(study: Path) -> dict[str, bytes]:
    """All files by name; of weights, scores and the report what is in them, but for the clock's."""
    compared = re.compile(r"reports/.*(?<!\.zip)|.*\.safetensors|.*/scores/.*csv")  # zip: of pages
    files = [file for part in ("runs", "reports", ".state") for file in study.glob(f"{part}/**/*")]
    names = {str(file.relative_to(study)): file for file in files if file.is_file()}
    return {
        name: re.sub(CLOCK, b"", file.read_bytes(), flags=re.S) if compared.fullmatch(name) else b""
        for name, file in names.items()
    }


def torture_training(whole: Path, kills: int) -> dict[str, Any]:
    """A training of minutes in two copies, one of them killed when states of it were saved."""
    lost = list[float]()
    straight, resumed = (Path(shutil.copytree(whole, whole.with_name(n))) for n in ("s", "r"))
    for study in (straight, resumed):
        values = yaml.safe_load((study / "params.yaml").read_text())
        longer = {"steps": STEPS, "decay_every": STEPS, "validate_every": 1000}
        values["budgets"]["smoke"]["teach"] |= longer
        (study / "params.yaml").write_text(yaml.safe_dump(values))
    beside = start(straight, *TRAINING)
    while (process := start(resumed, *TRAINING)) and len(lost) < kills:
        begun, moment = time.time(), float("inf")
        while process.poll() is None and time.time() < moment:
            time.sleep(0.1)
            saved = max((f.stat().st_mtime for f in resumed.glob(".state/*/state.pt")), default=0)
            if saved > begun and moment == float("inf"):
                moment = time.time() + random.uniform(0, 70)
        if process.poll() is not None:
            break
        process.kill()
        lost.append(round(time.time() - saved, 1))
        process.wait()
    done = [process.wait(), beside.wait()] == [0, 0]
    weights = {(study / WEIGHTS).read_bytes() for study in (straight, resumed)} if done else {}
    return {"steps": STEPS, "lost": lost, "identical": len(weights) == 1}


def torture_pipeline(whole: Path, strikes: int, end: float, took: float) -> dict[str, Any]:
    """Until ``end`` by the clock, or so many strikes; then it is left to end."""
    study, struck, rounds = whole.with_name("tortured"), list[dict[str, Any]](), list[Any]()
    expected, failed, begin = results(whole), list[str](), True
    while True:
        if begin:
            shutil.rmtree(study, ignore_errors=True)
            shutil.copytree(whole, study)
            for made in MADE:
                shutil.rmtree(study / made, ignore_errors=True)
                (study / made).unlink(missing_ok=True)
        first, going = start(study, *PIPELINE), len(struck) < strikes and time.monotonic() < end
        begin, delay = False, random.uniform(0, took / 4)
        try:
            code = first.wait(delay if going else None)
        except subprocess.TimeoutExpired:
            how = random.choice(KILLS) if len(struck) % 6 else random.choice(STOPS)
            hit = running(alive(study))
            struck.append({"how": how, "after": round(delay, 1), "hit": hit})
            struck[-1]["left"] = strike(study, first, how)
            print(len(struck), *struck[-1].values(), flush=True)
            continue
        while alive(study):  # what the first left behind when it was killed
            time.sleep(0.1)
        if code:
            failed.append(said(study).read_text().strip().splitlines()[-1])
            if len(failed) > 2 and len({*failed[-3:]}) == 1:
                break
            continue
        found = results(study)
        rounds.append(sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k)))
        print("ended:", rounds[-1] or "identical", flush=True)
        begin = True
        if not going:
            break
    return {"struck": struck, "rounds": rounds, "failed": failed}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/torture.py")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "torture.json")
    given = parser.parse_args()
    random.seed(given.seed)
    report: dict[str, Any] = {"machine": machine(), "seed": given.seed}
    begun, whole = time.monotonic(), copy_study(given.folder.resolve() / "whole")
    if start(whole, *PIPELINE).wait():
        sys.exit(f"{said(whole)}: the pipeline failed before it was touched")
    report["uninterrupted"] = took = round(time.monotonic() - begun)
    print(f"uninterrupted: {took} s", flush=True)
    report["training"] = torture_training(whole, 2)
    print(report["training"], flush=True)
    end = begun + 60 * given.minutes - took
    report |= torture_pipeline(whole, given.kills * 6 // 5, end, took)
    left = [one["left"] for one in report["struck"] if one["left"] is not None]
    met = {"identical": report["training"]["identical"] and not any(report["rounds"])}
    met |= {"lost": 0 < max(report["training"]["lost"], default=0) <= LAW["lost"] + 5}
    met |= {"left": 0 < max(left, default=0) <= LAW["left"], "no hand": not report["failed"]}
    report["met"] = met
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(met)
    return int(not all(met.values()))


if __name__ == "__main__":
    sys.exit(main())
