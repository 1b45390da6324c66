"""What a run has done and is doing, read off the files that it writes: ``augkd watch``.

It locks nothing and calls no DVC, at which a run might stumble.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from graphlib import TopologicalSorter
from hashlib import md5
from pathlib import Path
from subprocess import DEVNULL, Popen
from sys import executable
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
from psutil import pid_exists
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from augkd.errors import UserError
from augkd.study.params import Study, read_params
from augkd.study.pipeline.stage import RUNS, Stage, pipeline, upstream

EVERY, FRESH = 3.0, 300.0  # seconds between looks; after which what is saved each minute has ended
MARKS = {"done": ("■", "green"), "running": ("▶", "yellow"), "waiting": ("·", "")}


class State(NamedTuple):
    """A training that goes on, or can be gone on with; times as of time.time()."""

    label: str  # STAGE-BUDGET-NAME
    step: int
    psnr: list[dict[str, Any]]  # as of ``Curves``
    saved: float  # or begun, if it has not been saved since
    running: bool


def states(root: Path) -> list[State]:
    """The trainings in .state; the one that was begun, or gone on with, last is at the end."""
    found = []
    for lock in root.glob(".state/*/lock"):
        with suppress(OSError):  # it may end while it is read
            file, begun = lock.with_name("state.pt"), lock.stat().st_mtime
            saved, state = begun, dict[str, Any](step=0, psnr=[])
            if file.exists():
                import torch  # here, since it takes long, and not every look needs it

                saved, state = file.stat().st_mtime, torch.load(file, weights_only=True, mmap=True)
            fresh, label = time.time() - max(begun, saved) < FRESH, lock.parent.name[:-17]
            found.append((begun, State(label, state["step"], state["psnr"], saved, fresh)))
    return [state for _, state in sorted(found, key=lambda item: item[0])]


def progress(root: Path, stages: Mapping[str, Stage], running: set[str]) -> dict[str, str]:
    """Of each stage done, running or waiting, as dvc.lock has it: DVC alone knows for certain.

    ``running`` are stages that are known to run; others do by DVC's lock of what they write.
    """
    lock, graph, found = root / "dvc.lock", upstream(stages), dict[str, str]()
    recorded = read_params(lock)[1]["stages"] if lock.exists() else {}
    locked = set[str]()
    with suppress(OSError, ValueError, LookupError, TypeError):  # none, or it is being written
        writing = json.loads((root / ".dvc/tmp/rwlock").read_text())["write"].items()
        locked = {out for out, by in writing if pid_exists(by["pid"])}  # a killed DVC leaves it
    for name in TopologicalSorter(graph).static_order():
        stage, was = stages[name], recorded.get(name, {})
        same = was.get("cmd") == stage.command and all((root / out).exists() for out in stage.outs)
        for dep in was.get("deps", ()) if same else ():  # what code and parameters it rests on
            if dep["path"].startswith("build/sources/"):
                file = root / dep["path"]
                same = file.exists() and md5(file.read_bytes()).hexdigest() == dep["md5"]
        done = same and all(found[other] == "done" for other in graph[name])
        busy = name in running or not locked.isdisjoint(str(root / out) for out in stage.outs)
        found[name] = "running" if busy else "done" if done else "waiting"
    return found


def picture(study: Study, plan: pd.DataFrame | None, first: dict[str, State]) -> tuple[bool, Group]:
    """Whether all is done, and what there is to see.

    ``plan`` has the rows of ``augkd plan``; ``first`` keeps trainings as the first look saw them.
    """
    stages, going = pipeline(study.root, study.budget.name), states(study.root)
    labels = {f"{s.notebook}-{study.budget.name}-{s.entry}": name for name, s in stages.items()}
    mine = {labels[state.label]: state for state in going if state.label in labels}
    found = progress(study.root, stages, {name for name, state in mine.items() if state.running})
    rows, table = dict[str, Text](), Table.grid(padding=(0, 2))
    for name, stage in stages.items():
        group = stage.notebook if stage.notebook in RUNS else "pages and others"
        rows.setdefault(group, Text()).append(*MARKS[found[name]])
    for group, row in rows.items():
        table.add_row(group, row)
    for name, state in mine.items():
        frame = pd.DataFrame(state.psnr, columns=["step", "member", "value"])
        by = frame.pivot_table("value", "step", "member").iloc[1:]  # at step 0 it is far below
        line, best = by.mean(axis=1).tail(30), ""
        if len(by):
            best = f" {by.iloc[-1].max():.2f} dB {by.iloc[-1].idxmax()}, "
            line = (line - line.min()) / max(line.max() - line.min(), 1e-9) * 7.99
        text = f"step {state.step:,}, {'saved' if state.step else 'begun'} "
        text += f"{time.time() - state.saved:.0f} s ago"
        table.add_row(name, "".join("▁▂▃▄▅▆▇█"[int(v)] for v in line) + best + text)
    counts = ", ".join(f"{[*found.values()].count(s)} {mark} {s}" for s, (mark, _) in MARKS.items())
    now = ", ".join(name for name in found if found[name] == "running") or "nothing (make repro)"
    first |= {state.label: state for state in going if state.label not in first}
    pace = {state.label: (first[state.label], state) for state in going}
    left = _left(study, plan, pace)
    text = f"budget {study.budget.name}: {counts}; training left: {left}\nnow: {now}"
    return {*found.values()} == {"done"}, Group(Text(text), table)


def _left(study: Study, plan: pd.DataFrame | None, pace: Mapping[str, tuple[State, State]]) -> str:
    """Hours one after the other: the plan's operations, as fast as trainings were and are."""
    done = left = seconds = 0.0
    columns = ["stage", "name", "steps", "operations"]
    for stage, name, count, work in () if plan is None else plan[columns].to_numpy():
        if now := pace.get(f"{stage}-{study.budget.name}-{name}"):
            left += work * (1 - now[1].step / count)
            done += work * (now[1].step - now[0].step) / count
            seconds += now[1].saved - now[0].saved
        elif (file := study.folder(stage, name) / "run.json").exists():
            done, seconds = done + work, seconds + json.loads(file.read_text())["seconds"]
        else:
            left += work
    return f"{left / done * seconds / 3600:.2g} h" if done else "not known yet"


def watch(study: Study, once: bool) -> None:
    """Shows it until all is done or Ctrl-C; once, if it is to or there is no terminal."""
    live, plan, first = Live(auto_refresh=False), None, dict[str, State]()
    once = once or not live.console.is_terminal
    with TemporaryDirectory() as folder, suppress(KeyboardInterrupt), live:
        file = Path(folder, "plan.csv")
        # counting takes half a minute: in a process of its own, which gives way to the run
        count = ["nice", executable, "-m", "augkd", "plan", "--no-measure", "--csv", str(file)]
        count += ["--budget", study.budget.name]
        with Popen(count, cwd=study.root, stdout=DEVNULL, stderr=DEVNULL) as planning:
            done = False
            while not done:
                done = once and planning.wait() is not None
                plan = pd.read_csv(file) if plan is None and file.exists() else plan
                with suppress(UserError):  # dvc.lock is being written
                    over, shown = picture(study, plan, first)
                    live.update(shown, refresh=True)
                    done = done or over
                time.sleep(0 if done else EVERY)
            planning.kill()
