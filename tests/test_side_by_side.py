"""Stages side by side, on this machine and over Dask's workers, against DVC's own record."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import Future
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from augkd.errors import UserError
from augkd.study.pipeline import side_by_side as side
from augkd.study.pipeline.stage import Stage
from tests.study_copy import ROOT, environment

dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="distributed is not installed"
)
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
MEET = "touch {0}.here; for i in $(seq 200); do test -e {1}.here && {2}; sleep 0.05; done; exit 7"


def pipeline(folder: Path, stages: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder, stages)
    (folder / "params.yaml").write_text("budget: {}\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    return folder


def write(folder: Path, stages: dict[str, Any]) -> None:
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def locked(folder: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return stages


def diamond(a: str, b: str) -> dict[str, Any]:
    """Two stages between a first and a last one."""
    return {
        "last": {"cmd": "cat a b > last", "deps": ["a", "b"], "outs": ["last"]},
        "a": {"cmd": f"echo a > a; {a}", "deps": ["first"], "outs": ["a"]},
        "b": {"cmd": f"echo b > b; {b}", "deps": ["first"], "outs": ["b"]},
        "first": {"cmd": "echo 1 > first", "outs": ["first"]},
    }


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_stages_that_do_not_wait_run_at_once(tmp_path: Path) -> None:
    """Each waits for the other to have begun: one after the other, the first would give up."""
    study = pipeline(tmp_path / "both", diamond(MEET.format("a", "b", "exit"), ":"))
    write(study, diamond(MEET.format("a", "b", "exit"), MEET.format("b", "a", "exit")))
    assert side.here(study, 2) == 4
    assert (study / "last").read_text() == "a\nb\n"
    assert list(locked(study))[0::3] == ["first", "last"]
    assert "up to date" in dvc(study, "status")  # for DVC itself too
    assert side.here(study, 2) == 0
    (study / "a").write_text("c\n")
    assert side.stale(study) == {"a", "last"}  # no more than these is handed out again
    assert side.here(study, 2) == 2


def test_one_job_is_dvc_itself(tmp_path: Path) -> None:
    study = pipeline(tmp_path / "study", diamond(":", ":"))
    running = program(study, "1")
    out, _ = running.communicate()
    assert (running.returncode, out.count("Running stage")) == (0, 4)


def program(study: Path, jobs: str) -> "subprocess.Popen[str]":
    """What ``make repro`` starts, in a process group of its own."""
    command = [sys.executable, "-m", "augkd.study.pipeline.side_by_side"]
    env = os.environ | {side.JOBS: jobs, "PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=study, env=env, start_new_session=True, **pipes)


@pytest.mark.slow
def test_a_failure_lets_the_others_end(tmp_path: Path, capsys: Capture) -> None:
    stages = diamond(MEET.format("a", "b", "exit 3"), MEET.format("b", "a", "sleep 1 && exit"))
    study = pipeline(tmp_path / "study", stages)
    with pytest.raises(UserError, match="a: failed: see above, mend it"):
        side.here(study, 2)
    assert "a failed; b ends first" in capsys.readouterr().out
    assert set(locked(study)) == {"first", "b"}
    assert not (study / "last").exists()
    stages["a"]["cmd"] = "echo a > a"
    write(study, stages)
    assert side.here(study, 2) == 2


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["terminal", "process alone"])
def test_ctrl_c_ends_all_and_leaves_no_lock(tmp_path: Path, whole: bool) -> None:
    # a shell goes on where the signal comes as one of its short sleeps ends: so none is left
    last = "{{ touch {}.last; exec sleep 60; }}"
    stages = (MEET.format(*names, last.format(names[0])) for names in ("ab", "ba"))
    study = pipeline(tmp_path / "study", diamond(*stages))
    running = program(study, "2")
    for _ in range(600):
        if (study / "a.last").exists() and (study / "b.last").exists():
            break
        time.sleep(0.1)
    (os.killpg if whole else os.kill)(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err.endswith("augkd: stopped; run this again to go on\n")
    assert "Traceback" not in out + err
    assert set(locked(study)) == {"first"}
    held = json.loads((study / ".dvc" / "tmp" / "rwlock").read_text())
    assert not any(infos for paths in held.values() for infos in paths.values()), held
    write(study, diamond(":", ":"))
    assert side.here(study, 2) == 3


@pytest.mark.slow
def test_what_a_killed_run_leaves_needs_no_hand(tmp_path: Path, capsys: Capture) -> None:
    """A stage that goes on without it, and files that DVC writes in place, cut anywhere."""
    study = pipeline(tmp_path / "study", diamond("touch a.here; sleep 8", ":"))
    assert side.here(study, 2) == 4
    lock, users = study / "dvc.lock", study / ".dvc" / "tmp" / "rwlock"
    text, before = lock.read_text(), locked(study)
    for size in range(len(text)):
        lock.write_text(text[:size])
        side._mend(study)
        kept = locked(study) if lock.exists() else {}
        assert list(kept) == list(before)[: len(kept)]
        assert [*kept.values()][:-1] == [*before.values()][: len(kept)][:-1]
        assert text.startswith(lock.read_text() if kept else "")
        assert not side._mend(study)
    lock.write_text(text.replace("last:", "<<<<<<< HEAD\n  last:"))
    assert not side._mend(study)  # what a merge has left is the user's
    lock.write_text(text[: text.index("path: b")])
    users.write_text('{"read": {')
    assert side.here(study, 2)
    assert locked(study) == before
    (study / "a.here").unlink()
    with subprocess.Popen([*side._DVC, "repro", "-s", "--force", "a"], cwd=study):
        while not (study / "a.here").exists():
            time.sleep(0.1)
        assert side.here(study, 2) == 0
    assert "A stage of an earlier run goes on" in capsys.readouterr().out


def test_a_number_of_jobs_that_is_none(tmp_path: Path, monkeypatch: Patch) -> None:
    for text in ("none", "0", "-1", "1.5"):
        monkeypatch.setenv(side.JOBS, text)
        with pytest.raises(UserError, match=f"{side.JOBS}={text}: give a number"):
            side.wanted_jobs()
    study = pipeline(tmp_path / "study", diamond(":", ":"))
    running = program(study, "0")
    said = f"augkd: {side.JOBS}=0: give a number of stages from 1 on (make repro JOBS=2)\n"
    assert running.communicate()[1] == said
    assert running.returncode == 1
    assert not (study / "first").exists()


def test_jobs_are_as_many_as_cores_unless_said(monkeypatch: Patch) -> None:
    monkeypatch.delenv(side.JOBS, raising=False)
    monkeypatch.setattr(side, "cores", lambda: 3)
    assert side.wanted_jobs() == 3
    monkeypatch.setattr(side, "cores", lambda: 64)
    assert side.wanted_jobs() == 4
    monkeypatch.setattr("os.sysconf", lambda name: 3 * 2**30 if name == "SC_PHYS_PAGES" else 1)
    assert side.wanted_jobs() == 1
    monkeypatch.setenv(side.JOBS, "6")
    assert side.wanted_jobs() == 6


# --- the order


def stage(notebook: str) -> Stage:
    return Stage(notebook, "", notebook=notebook)


def test_what_others_wait_for_longest_comes_first() -> None:
    graph = {"a": set[str](), "b": {"a"}, "c": set[str](), "d": {"b"}}
    assert side.heights(graph) == {"a": 3, "b": 2, "c": 1, "d": 1}


def test_pages_that_wait_for_the_same_are_run_by_one_dvc() -> None:
    names = ["score", "audit", *"abcdef", "table_01", "site"]
    graph = {"score": set[str](), "audit": set[str](), "site": {*names} - {"site"}}
    graph |= {name: {"score"} for name in (*"abcdef", "table_01")}
    stages, joined = side.together({name: stage(name) for name in names}, graph)
    pages = {"a b c d": {"score"}, "e f": {"score"}}  # four at most; who measures seconds is alone
    rest = {"score": set(), "audit": set(), "table_01": {"score"}}
    assert joined == {**rest, **pages, "site": {*rest, *pages}}
    assert {name: one.name for name, one in stages.items()} == {name: name for name in joined}


@pytest.mark.parametrize(
    ("notebook", "beside", "apart", "may"),
    [
        ("table_11", [], False, True),
        ("table_11", ["backbone"], False, False),  # who measures seconds runs alone
        ("backbone", ["table_11"], False, False),
        ("backbone", ["figure_02"], False, True),
        ("distil", ["teach"], True, False),  # a GPU is used by one at a time
        ("distil", ["teach"], False, True),
        ("backbone", ["teach"], True, True),
    ],
)
def test_who_may_start_beside(notebook: str, beside: list[str], apart: bool, may: bool) -> None:
    assert side.may_start(2, apart, stage(notebook), beside) is may
    assert not side.may_start(1, apart, stage(notebook), ["prepare"])  # no more than so many


def test_none_starts_before_what_it_needs(tmp_path: Path, monkeypatch: Patch) -> None:
    """Sources first: only then DVC can tell what else is stale."""
    module = "python -m augkd.study.pipeline.stage"
    study = pipeline(
        tmp_path / "study",
        {
            "sources": {"cmd": f"{module} sources smoke", "outs": ["build"]},
            "prepare": {"cmd": f"{module} prepare smoke", "deps": ["build"], "outs": ["p"]},
            "audit": {"cmd": f"{module} audit smoke", "deps": ["build"], "outs": ["x"]},
            "teach": {"cmd": f"{module} teach smoke a", "deps": ["p/train"], "outs": ["t"]},
        },
    )
    answers = iter([{"sources", "prepare", "audit", "teach"}, {"prepare"}])
    monkeypatch.setattr(side, "stale", lambda root: next(answers))
    order: list[str] = []
    futures: list[weakref.ref[Future[side.Done]]] = []

    def submit(stage: Stage) -> "Future[side.Done]":
        order.append(stage.name)
        assert not any(kept() for kept in futures)  # Dask makes again what is kept, and lost later
        future: Future[side.Done] = Future()
        futures.append(weakref.ref(future))
        future.set_result(side.Done(0, "", 0))
        return future

    assert side.run(study, submit, partial(side.may_start, 3, False), order.append) == 3
    assert order == ["sources", "prepare", "teach"]


# --- what a stage prints


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_appear_whole_and_bars_once(size: int, capsys: Capture) -> None:
    class Pipe(BytesIO):
        def read1(self, _: int | None = None) -> bytes:
            return super().read1(size)

    side.show(Pipe("first\nbar:  0%\rbar: 50% é█\rbar: 100% é█\nlast".encode()))
    assert capsys.readouterr().out == "first\nbar: 100% é█\nlast\n"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_stays_below(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    side.show(BytesIO(b"\rbar: 10%\rbar: 20%\rbar: 30%\nlast\n"))
    assert screen.getvalue().index("bar: 10%") < screen.getvalue().index("bar: 20%")
    assert capsys.readouterr().out == "bar: 30%\nlast\n"


def test_without_a_terminal_a_bar_is_seen(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(side, "PAUSE", -1.0)
    side.show(BytesIO(b"\rbar: 10%\rbar: 20%"))
    assert capsys.readouterr().out == "bar: 10%\nbar: 20%\n"


# --- Dask

# counts to 6, leaving its count behind as a training leaves its state; "right" kills its worker
# once, on the way, and leaves a child of its own
COUNT = """
import os, subprocess, sys, time
from pathlib import Path
import psutil
name = sys.argv[1]
state, once, child = Path(f"{name}.state"), Path("killed"), Path("child")
begun = int(state.read_text()) if state.exists() else 0
for i in range(begun, 6):
    state.write_text(str(i + 1))
    if name == "right" and i == 2 and not once.exists():
        once.touch()
        sleeper = subprocess.Popen(["sleep", "60"])
        child.write_text(str(sleeper.pid))
        runner = "augkd.study.pipeline.side_by_side"
        (task,) = [p for p in psutil.Process().parents() if runner in p.cmdline()]
        task.parent().kill()
        time.sleep(60)
    time.sleep(0.05)
Path(f"{name}.txt").write_text("6\\n")
Path(f"{name}.log").write_text(f"from {begun}\\n")
"""
COUNTING: dict[str, Any] = {
    "left": {"cmd": "python count.py left", "outs": ["left.txt"]},
    "right": {"cmd": "python count.py right", "outs": ["right.txt"]},
    "both": {
        "cmd": "cat left.txt right.txt > both.txt",
        "deps": ["left.txt", "right.txt"],
        "outs": ["both.txt"],
    },
}


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: Patch) -> Path:
    for name, value in environment(tmp_path, ROOT).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "count.py").write_text(COUNT)
    return pipeline(tmp_path, COUNTING)


def test_local_workers_have_gpus_of_their_own(monkeypatch: Patch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    name = "CUDA_VISIBLE_DEVICES"
    for visible, gpus, mine in (("", 2, ["0,1", "2,3", "0,1"]), ("6,7,2,3", 1, ["6", "7", "2"])):
        monkeypatch.setenv(name, visible)
        assert [side._devices(worker, gpus)[name] for worker in range(3)] == mine
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert side._devices(0, 1) == {}


@dask
@pytest.mark.slow
def test_a_lost_workers_stage_goes_on_elsewhere(counting: Path) -> None:
    import psutil

    said = list[str]()
    side.spread(counting, workers=2, say=said.append)
    assert (counting / "both.txt").read_text() == "6\n6\n"
    assert (counting / "killed").exists()
    assert (counting / "left.log").read_text() == "from 0\n"
    assert (counting / "right.log").read_text() == "from 3\n"  # it went on
    assert not psutil.pid_exists(int((counting / "child").read_text()))  # nothing is left behind
    assert [line.split(":")[0] for line in sorted(said)][-1] == "[3/3] both"
    assert sum("after 1 lost worker" in line for line in said) == 1
    assert "up to date" in dvc(counting, "status")  # dvc.lock has all three


@dask
@pytest.mark.slow
def test_a_stage_that_fails_stops_what_rests_on_it(counting: Path) -> None:
    left = {**COUNTING["left"], "cmd": "echo 6 > left.txt"}
    right = {**COUNTING["right"], "cmd": "python -c 'raise SystemExit(\"no luck\")'"}
    write(counting, {**COUNTING, "left": left, "right": right})
    with pytest.raises(UserError, match=r"right: failed: see .*build/spread, mend it") as error:
        side.spread(counting, workers=2, say=lambda _: None)
    assert "\n" not in str(error.value)
    assert "no luck" in (counting / "build" / "spread" / "right.txt").read_text()
    assert (counting / "left.txt").exists()  # what ran beside it is done
    assert not (counting / "both.txt").exists()


@dask
@pytest.mark.parametrize("options", [{}, {"workers": 2, "scheduler": "tcp://127.0.0.1:1"}])
def test_one_cluster_is_asked_for(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="give either --workers N"):
        side.spread(tmp_path, **options)


@dask
@pytest.mark.slow
def test_workers_without_gpus_are_refused(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(UserError, match="no worker offers GPU=1"):
            side.spread(tmp_path, scheduler=address)
