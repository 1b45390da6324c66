"""Stages side by side, against what DVC does one after the other."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import pytest
import yaml
from dvc.exceptions import ReproductionError
from dvc.repo import Repo
from dvc.repo.reproduce import _reproduce as plainly

from augkd.errors import UserError
from augkd.study.pipeline.abreast import JOBS, Abreast, heights, reproduce, show, wanted_jobs

ROOT = str(Path(__file__).parent.parent)

MEET = "touch {0}.here; for i in $(seq 200); do test -e {1}.here && {2}; sleep 0.05; done; exit 7"


def pipeline(folder: Path, stages: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    return folder


Repro = Callable[..., list[str]]


@pytest.fixture
def repro(monkeypatch: pytest.MonkeyPatch) -> Repro:
    """``dvc repro`` in a folder, side by side; the stages that were not up to date."""

    def run(folder: Path, jobs: int = 2, how: Any = reproduce) -> list[str]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv(JOBS, str(jobs))
        monkeypatch.setattr("dvc.repo.reproduce._reproduce", how)
        with Repo(str(folder)) as repo:
            return [stage.addressing for stage in repo.reproduce()]

    return run


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


def test_stages_that_do_not_wait_run_at_once(tmp_path: Path, repro: Repro) -> None:
    """Each waits for the other to have begun: one after the other, the first would give up."""
    stages = diamond(MEET.format("a", "b", "exit"), MEET.format("b", "a", "exit"))
    study = pipeline(tmp_path / "both", stages)
    done = repro(study)
    assert (done[0], set(done[1:3]), done[3]) == ("first", {"a", "b"}, "last")
    assert (study / "last").read_text() == "a\nb\n"
    assert list(locked(study))[0::3] == ["first", "last"]
    assert repro(study) == repro(study, how=plainly) == []  # up to date for DVC itself too

    plain = pipeline(tmp_path / "plain", diamond(":", ":"))
    assert len(repro(plain, how=plainly)) == 4
    assert {n: s.get("outs") for n, s in locked(study).items()} == {
        n: s.get("outs") for n, s in locked(plain).items()
    }


def test_a_pipeline_without_stages_has_nothing_to_do(tmp_path: Path, repro: Repro) -> None:
    assert repro(pipeline(tmp_path / "study", {})) == []


def test_one_job_is_one_after_the_other(tmp_path: Path, repro: Repro) -> None:
    stages = diamond("test ! -e b.runs", "touch b.runs; sleep 0.2; rm b.runs")
    study = pipeline(tmp_path / "study", stages)
    assert len(repro(study, 1)) == 4


def test_a_failure_lets_the_others_end_and_starts_nothing_more(
    tmp_path: Path, repro: Repro, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = diamond(MEET.format("a", "b", "exit 3"), MEET.format("b", "a", "sleep 1 && exit"))
    study = pipeline(tmp_path / "study", stages)
    with pytest.raises(ReproductionError, match="failed to reproduce 'a'"):
        repro(study)
    assert "a failed; b ends first" in capsys.readouterr().out
    assert set(locked(study)) == {"first", "b"}
    assert not (study / "last").exists()
    stages["a"]["cmd"] = "echo a > a"
    (study / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    assert repro(study) == ["a", "last"]


def test_ctrl_c_ends_all_and_leaves_no_lock(tmp_path: Path, repro: Repro) -> None:
    stages = diamond(MEET.format("a", "b", "sleep 60"), MEET.format("b", "a", "sleep 60"))
    study = pipeline(tmp_path / "study", stages)
    running = subprocess.Popen(
        [sys.executable, "-m", "augkd.study.pipeline.warm", "dvc", "repro"],
        cwd=study,
        env=os.environ | {JOBS: "2", "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if (study / "a.here").exists() and (study / "b.here").exists():
            break
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    out, err = running.communicate(timeout=30)
    assert running.returncode not in (0, 130)  # DVC's own word, not that it was killed
    assert "interrupted by the user" in err
    assert "Traceback" not in out + err
    assert set(locked(study)) == {"first"}
    held = json.loads((study / ".dvc" / "tmp" / "rwlock").read_text())
    assert not any(infos for paths in held.values() for infos in paths.values()), held
    (study / "dvc.yaml").write_text(yaml.safe_dump({"stages": diamond(":", ":")}, sort_keys=False))
    assert set(repro(study)) == {"a", "b", "last"}


def test_a_number_of_jobs_that_is_none_ends_with_one_line(tmp_path: Path) -> None:
    study = pipeline(tmp_path / "study", diamond(":", ":"))
    done = subprocess.run(
        [sys.executable, "-m", "augkd.study.pipeline.swift", "repro"],
        cwd=study,
        env=os.environ | {JOBS: "0", "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"augkd: {JOBS}=0: give a number of stages from 1 on (make repro JOBS=2)"
    ]
    assert not (study / "first").exists()


def test_jobs_are_as_many_as_cores_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOBS, raising=False)
    monkeypatch.setattr("augkd.study.pipeline.abreast.cores", lambda: 3)
    assert wanted_jobs() == 3
    monkeypatch.setattr("augkd.study.pipeline.abreast.cores", lambda: 64)
    assert wanted_jobs() == 4
    monkeypatch.setattr("os.sysconf", lambda name: 3 * 2**30 if name == "SC_PHYS_PAGES" else 1)
    assert wanted_jobs() == 1
    monkeypatch.setenv(JOBS, "6")
    assert wanted_jobs() == 6
    for text in ("none", "0", "-1", "1.5"):
        monkeypatch.setenv(JOBS, text)
        with pytest.raises(UserError, match=f"{JOBS}={text}: give a number"):
            wanted_jobs()


class Fake(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def fakes(*notebooks: str) -> list[Any]:
    return [
        Fake(addressing=n, cmd=f"python -m augkd.study.pipeline.stage {n} smoke") for n in notebooks
    ]


def graph_of(stages: list[Any], *edges: tuple[Any, Any]) -> Any:
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(stages)
    return graph


def test_what_others_wait_for_longest_comes_first() -> None:
    a, b, c, d = stages = fakes("prepare", "teach", "audit", "distil")
    assert heights(stages, graph_of(stages, (b, a), (d, b))) == {a: 3, b: 2, c: 1, d: 1}


def test_who_measures_seconds_runs_alone() -> None:
    run = Abreast(None, 2, print)
    timed, page, other = stages = fakes("table_11", "table_02", "table_03")
    graph = graph_of(stages)
    assert run.next([timed, page, other], [], graph) is timed
    assert run.next([timed, other], [page], graph) is other
    assert run.next([page, other], [timed], graph) is None
    assert run.next([timed], [page], graph) is None


def test_nobody_starts_before_what_it_rests_on() -> None:
    run = Abreast(None, 3, print)
    first, second, third = stages = fakes("prepare", "teach", "audit")
    graph = graph_of(stages, (second, first))
    assert run.next([second, third], [first], graph) is third
    assert run.next([second], [third], graph) is second
    assert run.next([second], [first, third], graph) is None


def test_a_gpu_is_used_by_one_at_a_time() -> None:
    run = Abreast(None, 3, print)
    teach, distil, page = stages = fakes("teach", "distil", "table_02")
    graph = graph_of(stages)
    run.one_gpu = True
    assert run.next([distil, page], [teach], graph) is page
    run.one_gpu = False
    assert run.next([distil, page], [teach], graph) is distil


def test_cores_are_shared_out_but_to_who_measures_seconds() -> None:
    seen: list[Any] = []
    lock = SimpleNamespace(lock=lambda: None, unlock=lambda: None, is_locked=True)
    run = Abreast(SimpleNamespace(lock=lock), 2, lambda stage, **options: seen.append(options))
    for stage in fakes("distil", "table_01"):
        run.work(stage)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert seen == [{"run_env": {"OMP_NUM_THREADS": str(share)}}, {}]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_appear_whole_and_bars_once(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    text = "first\nbar:  0%\rbar: 50% é█\rbar: 100% é█\nlast".encode()
    out, into = os.pipe()
    os.write(into, text)
    os.close(into)
    with os.fdopen(out, "rb", buffering=0) as stream:
        read = os.read
        try:
            os.read = lambda fd, _: read(fd, size)
            show(stream)
        finally:
            os.read = read
    assert capsys.readouterr().out == "first\nbar: 100% é█\nlast\n"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_stays_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    out, into = os.pipe()
    for text in (b"\rbar: 10%", b"\rbar: 20%", b"\nlast\n"):
        os.write(into, text)
    os.close(into)
    with os.fdopen(out, "rb", buffering=0) as stream:
        read = os.read
        monkeypatch.setattr("os.read", lambda fd, _: read(fd, 9))
        show(stream)
    assert screen.getvalue().index("bar: 10%") < screen.getvalue().index("bar: 20%")
    assert capsys.readouterr().out == "bar: 20%\nlast\n"


def test_without_a_terminal_a_bar_is_seen_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("augkd.study.pipeline.abreast.PAUSE", -1.0)
    out, into = os.pipe()
    os.write(into, b"\rbar: 10%\rbar: 20%")
    os.close(into)
    with os.fdopen(out, "rb", buffering=0) as stream:
        show(stream)
    assert capsys.readouterr().out.startswith("bar: 20%\n")
