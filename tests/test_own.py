"""Distilling one's own, and watching a run: what is left, seen and refused."""

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from augkd.cli import app
from augkd.data.images import write_image
from augkd.degrade import bicubic
from augkd.models import create_model, save_checkpoint
from augkd.study import runs, watch
from augkd.study.own import Wish, open_own, run_own
from augkd.study.params import load_study
from augkd.study.pipeline.stage import pipeline
from augkd.train import train
from tests.study_copy import ROOT

STUDENT, SCHEDULE = "edsr:channels=4,blocks=1,res_scale=1.0", "batch=2,patch=8,lr=2.0e-3"
WISH = f"distil --images in --teacher teacher.pt --student {STUDENT} --schedule {SCHEDULE}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and a teacher in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name in [*(f"in/{i:02}" for i in range(12)), "few/0", "small/0", "small/1"]:
        noise = torch.rand(3, 18, 16 if name != "small/1" else 3)
        write_image(Path(f"{name}.png"), bicubic(noise, 4, up=True).clamp(0, 1))
    model = create_model("edsr", scale=2, channels=6, blocks=1, res_scale=1.0)
    save_checkpoint(Path("teacher.pt"), model)


def run(command: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == code, result.output
    return result.output


def test_a_run_leaves_students_scores_and_a_page_that_holds_all_it_shows() -> None:
    shown = run(f"{WISH} --steps 4 --method kd --method kd:kd=1.0 -o out")
    assert all(word in shown for word in ("Bicubic", "Teacher", "Scratch", "kd_2", "report.html"))
    scores = pd.read_csv("out/scores.csv")
    assert set(scores["image"]) == {"00.png"}  # one in ten
    assert set(scores["method"]) == {"bicubic", "teacher", "scratch", "kd", "kd_2"}
    page = Path("out/report.html").read_text()
    assert page.count("<svg") == 2
    assert "data:image/png;base64" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    run("score --hr in -s 2 -w out/students/kd-0.safetensors --csv own.csv")
    own = pd.read_csv("own.csv").set_index("image")["psnr_y"][0]
    psnr = scores.query("method == 'kd' and metric == 'psnr_y'")["value"].item()
    assert psnr == pytest.approx(own, abs=1e-4)  # convolutions in another order


def test_a_stopped_run_is_seen_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(done: int) -> None:
        if done == 4:
            raise InterruptedError

    def killed(*args: Any, **options: Any) -> Any:
        return train(*args, save_every=0, after_step=kill, **options)

    for out in ("whole", "stopped"):
        wish = Wish("in", "", "teacher.pt", "", STUDENT, ("kd",), 2, 6, SCHEDULE)
        study = open_own(Path(out), wish)
        if out == "stopped":
            monkeypatch.setattr(runs, "train", killed)
            with pytest.raises(InterruptedError):
                run_own(study, print)
            monkeypatch.setattr(runs, "train", train)
            (state,) = watch.states(study.root)
            assert (state.label, state.step, state.running) == ("distil-own-own", 4, True)
            assert {row["step"] for row in state.psnr} == {0, 1, 2, 3, 4}
        run_own(open_own(Path(out), wish), print)
        assert watch.states(study.root) == []
    two = [Path(out, "students/kd-0.safetensors").read_bytes() for out in ("whole", "stopped")]
    assert two[0] == two[1]
    assert "is another run, with methods ['kd'], not" in run(f"{WISH} -o whole", code=2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--images none", "none: no such folder"),
        ("--images small", "1.png: 12 x 72 pixels, expected 16 or more a side at x2"),
        ("--images few", "few: has one image: test on another folder"),
        ("--test in", "is to be trained and tested on: test on another folder"),
        ("--method foo", "method 'foo' is unknown: choose one of scratch, kd"),
        ("--method augkd:kd=-1", "methods.augkd.kd: expected a finite number, at least 0"),
        ("--method augkd:kd", "'augkd:kd': expected NAME, or NAME:key=value"),
        ("--steps 0", "steps: expected a whole number, at least 1, not 0"),
        ("--schedule patch=9", "patch: 9 is not divisible by the scale"),
        ("--schedule patches=8", "patches: unknown key"),
        ("--scale 4", "expected (1, 3, 64, 128) for scale 4"),
        ("--scale 5", "scale: Input should be 2, 3 or 4, not 5"),
        ("--student edsr:blocks=-1", "no network has such sizes (blocks=-1)"),
        ("--student unet", "network 'unet' is unknown: choose one of edsr, rcan, swinir"),
        ("--teacher none.pth", "--teacher 'none.pth': no such file"),
        ("--teacher nowhere:make", "factory 'nowhere:make' cannot be imported"),
        ("--network rcan", "not a checkpoint of this RCAN"),
        ("-o in", "in: is there, and not a run of distil: choose a new folder"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(more: str, said: str) -> None:
    before = sorted(Path().rglob("*"))
    lines = run(f"{WISH} -o out {more}", code=2).replace("\r", "\n").splitlines()
    (line,) = [line for line in lines if line.startswith("augkd: ")]
    assert said in line
    assert sorted(Path().rglob("*")) == before


def test_watching_tells_what_is_done_running_and_waiting(tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    study, stages = load_study("smoke", tmp_path, check_methods=False), pipeline(tmp_path, "smoke")
    teacher, lock = "teach@smoke-edsr-2", dict[str, Any]()
    for name, stage in stages.items():
        lock[name] = {"cmd": stage.command}
        for out in stage.outs if name != teacher else ():
            (tmp_path / out).mkdir(parents=True, exist_ok=True)

    def look(plan: pd.DataFrame | None = None) -> str:
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(watch.picture(study, plan, {})[1])
        return console.export_text()

    found = watch.progress(tmp_path, stages, set())
    assert {*found.values()} == {"waiting"}  # there is no dvc.lock
    look()
    found = watch.progress(tmp_path, stages, set())
    assert found["teach@smoke-edsr-3"] == found["prepare@smoke"] == "done"
    assert found[teacher] == found["distil@smoke-edsr-2"] == "waiting"  # which rests on it
    state = tmp_path / ".state" / f"teach-smoke-edsr_x2-{16 * '0'}"
    state.mkdir(parents=True)
    (state / "lock").touch()
    rows = [{"step": s, "member": m, "value": 20.0 + s} for s in (0, 2, 4) for m in ("a-0", "b-0")]
    torch.save({"step": 4, "psnr": rows}, state / "state.pt")
    (tmp_path / "runs/smoke/teach/edsr_x3/run.json").write_text('{"seconds": 7200}')
    planned = [("teach", "edsr_x2", 8, 1e9), ("teach", "edsr_x3", 8, 1e9)]  # half of one is left
    text = look(pd.DataFrame(planned, columns=["stage", "name", "steps", "operations"]))
    assert f"training left: 1 h\nnow: {teacher}\n" in re.sub(" +\n", "\n", text)
    assert re.search(rf"{teacher} +▁█ 24.00 dB a-0, step 4, saved \d+ s ago", text)
    for file in state.iterdir():
        os.utime(file, (0, 0))
    assert "now: nothing" in look()  # it was stopped long ago
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    out = str(tmp_path / stages[teacher].outs[0])
    for pid, said in ((os.getpid(), teacher), (2**22 + 1, "nothing")):  # the latter is none
        locks = {"write": {out: {"pid": pid, "cmd": "dvc repro"}}}
        (tmp_path / ".dvc/tmp/rwlock").write_text(json.dumps(locks))
        assert f"now: {said}" in look()
    lock["prepare@smoke"]["deps"] = [{"path": "build/sources/smoke/prepare.txt", "md5": "0"}]
    look()
    assert watch.progress(tmp_path, stages, set())["prepare@smoke"] == "waiting"
