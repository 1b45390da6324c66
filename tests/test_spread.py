"""Stages over workers of a local cluster: order, a lost worker, a stage that fails."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from augkd.errors import UserError
from augkd.study.pipeline.spread import Task, _devices, levels, spread
from tests.study_copy import environment

dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="distributed is not installed"
)

# counts to 6, leaving its count behind as a training leaves its state; "right" kills its worker
# once, on the way, and leaves a child of a session of its own, as a notebook's kernel is
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
        sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True)
        child.write_text(str(sleeper.pid))
        (task,) = [p for p in psutil.Process().parents() if "augkd.study.pipeline.spread" in p.cmdline()]
        task.parent().kill()
        time.sleep(60)
    time.sleep(0.05)
Path(f"{name}.txt").write_text("6\\n")
Path(f"{name}.log").write_text(f"from {begun}\\n")
"""
PIPELINE = """
stages:
  left:
    cmd: python count.py left
    outs: [left.txt]
  right:
    cmd: python count.py right
    outs: [right.txt]
  both:
    cmd: cat left.txt right.txt > both.txt
    deps: [left.txt, right.txt]
    outs: [both.txt]
"""


def pipeline(root: Path, text: str = PIPELINE) -> Path:
    root.mkdir(exist_ok=True)
    (root / "count.py").write_text(COUNT)
    (root / "dvc.yaml").write_text(text)
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"],
        cwd=root,
        env=environment(root, Path.cwd()),
        check=True,
    )
    return root


@pytest.fixture
def _worker_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(tmp_path, Path(__file__).parent.parent).items():
        monkeypatch.setenv(name, value)


def test_levels_are_those_of_the_graph(tmp_path: Path) -> None:
    stages = [[task.stage for task in level] for level in levels(pipeline(tmp_path))]
    assert stages == [["left", "right"], ["both"]]


def test_trainings_and_scores_ask_for_gpus(tmp_path: Path) -> None:
    commands = {
        "teach": "python -m augkd.study.pipeline.stage teach smoke edsr_x2",
        "distil": "python -m augkd.study.pipeline.stage distil smoke edsr_x2",
        "score": "python -m augkd.study.pipeline.stage score smoke edsr",
        "table": "python -m augkd.study.pipeline.stage table_02 smoke",
    }
    text = "stages:\n" + "".join(f"  {k}:\n    cmd: {v}\n" for k, v in commands.items())
    (level,) = levels(pipeline(tmp_path, text), processes=4)
    assert level == [Task("distil", 4), Task("score", 1), Task("table", 0), Task("teach", 4)]


def test_local_workers_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [_devices(worker, 2)["CUDA_VISIBLE_DEVICES"] for worker in (0, 1)] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7,2,3")
    assert [_devices(worker, 1)["CUDA_VISIBLE_DEVICES"] for worker in (1, 2)] == ["7", "2"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert _devices(0, 1) == {}


@dask
@pytest.mark.slow
@pytest.mark.usefixtures("_worker_environment")
def test_a_lost_workers_stage_goes_on_elsewhere(tmp_path: Path) -> None:
    import psutil

    root, said = pipeline(tmp_path), list[str]()
    spread(root, workers=2, say=said.append)
    assert (root / "both.txt").read_text() == "6\n6\n"
    assert (root / "killed").exists()
    assert (root / "left.log").read_text() == "from 0\n"
    assert (root / "right.log").read_text() == "from 3\n"  # it went on
    assert not psutil.pid_exists(int((root / "child").read_text()))  # nothing is left behind
    assert [line.split(":")[0] for line in sorted(said)][-1] == "[3/3] both"
    assert sum("after 1 lost worker" in line for line in said) == 1
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=root, capture_output=True, text=True
    )
    assert "up to date" in status.stdout, status  # dvc.lock has all three


@dask
@pytest.mark.slow
@pytest.mark.usefixtures("_worker_environment")
def test_a_stage_that_fails_stops_what_rests_on_it(tmp_path: Path) -> None:
    text = PIPELINE.replace("python count.py right", "python -c 'raise SystemExit(\"no luck\")'")
    root = pipeline(tmp_path, text.replace("python count.py left", "echo 6 > left.txt"))
    with pytest.raises(UserError, match=r"right: failed: see .*right\.txt, mend it") as error:
        spread(root, workers=2, say=lambda _: None)
    assert "\n" not in str(error.value)
    assert "no luck" in (root / "build" / "spread" / "right.txt").read_text()
    assert (root / "left.txt").exists()  # the rest of its level is done
    assert not (root / "both.txt").exists()


@dask
@pytest.mark.parametrize("options", [{}, {"workers": 2, "scheduler": "tcp://127.0.0.1:1"}])
def test_one_cluster_is_asked_for(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="give either --workers N"):
        spread(pipeline(tmp_path), **options)  # type: ignore[arg-type]


@dask
@pytest.mark.slow
def test_workers_without_gpus_are_refused(tmp_path: Path) -> None:
    from distributed import LocalCluster

    text = "stages:\n  teach:\n    cmd: python -m augkd.study.pipeline.stage teach smoke edsr_x2\n"
    root = pipeline(tmp_path, text)
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(UserError, match="no worker offers GPU=1"):
            spread(root, scheduler=address)
