"""Distilling one's own: what it leaves, that it is the study's own training, what it refuses."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from augkd.cli import app
from augkd.data.images import write_image
from augkd.degrade import bicubic
from augkd.models import create_model, load_network, save_checkpoint
from augkd.study.own import Wish, open_own
from augkd.study.runs import distil, teach
from augkd.study.watch import states

TINY = "--student edsr:channels=4,blocks=1,res_scale=1.0 --schedule batch=2,patch=8,lr=2.0e-3"
WISH = f"--images in --teacher teacher.safetensors {TINY} --steps 4"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve images, one of them small for crops alone, and a teacher, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        noise = torch.rand(3, 18, 16, generator=torch.Generator().manual_seed(i))
        write_image(Path("in", f"{i:02}.png"), bicubic(noise, 4, up=True).clamp(0, 1))
    save_checkpoint(
        Path("teacher.safetensors"),
        create_model("edsr", scale=2, channels=6, blocks=1, res_scale=1.0),
    )


def run(command: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, f"distil {command}".split())
    assert result.exit_code == code, result.output
    return result.output


def weights(out: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(out, "students").iterdir()}


def test_a_run_leaves_students_scores_and_a_page_that_holds_all_it_shows() -> None:
    shown = run(f"{WISH} --method augkd --method augkd:kd=1.0,consistency=[] -o out")
    assert all(word in shown for word in ("Bicubic", "Teacher", "Scratch", "AugKD", "out/report"))
    scores = pd.read_csv("out/scores.csv", dtype={"image": str})
    # one in ten of twelve is held out: the first, evenly
    assert set(scores["image"]) == {"00.png"}
    names = {"scratch", "augkd", "augkd_2"}
    assert set(scores["method"]) == names | {"bicubic", "teacher"}
    assert set(weights("out")) == {f"{name}-0.safetensors" for name in names}
    assert load_network("out/students/augkd-0.safetensors").scale == 2
    page = Path("out/report.html").read_text()
    assert page.count("<svg") == 2
    assert "data:image/png;base64" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    score = "score --hr in -s 2 -w out/students/augkd-0.safetensors --csv own.csv"
    by_hand = CliRunner().invoke(app, score.split())
    assert by_hand.exit_code == 0
    psnr = scores.query("method == 'augkd' and metric == 'psnr_y'")["value"].item()
    own = pd.read_csv("own.csv", dtype={"image": str}).set_index("image")["psnr_y"]["00"]
    assert psnr == pytest.approx(own, abs=1e-4)


def test_who_else_is_in_the_cohort_and_a_second_call_change_no_weight() -> None:
    run(f"{WISH} --method kd -o one")
    run(f"{WISH} --method augkd --method kd -o two")
    one, two = weights("one"), weights("two")
    assert one.keys() < two.keys()
    assert all(two[name] == one[name] for name in one)
    begun = Path("one/run.json").read_text()
    run(f"{WISH} --method kd -o one")  # which makes the report again
    assert Path("one/run.json").read_text() == begun


def test_a_stopped_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the weights of one that was never stopped; meanwhile its curve is seen."""
    from augkd.study import runs

    train, (_, student, _, schedule) = runs.train, TINY.split()
    wish = Wish("in", "", "teacher.safetensors", "", student, ("kd",), 2, 6, schedule)

    def killed(*args: object, **options: object) -> object:
        def stop(done: int) -> None:
            if done == 4:
                raise KeyboardInterrupt

        return train(*args, save_every=0, after_step=stop, **options)  # type: ignore[arg-type]

    for out in ("whole", "stopped"):
        study = open_own(Path(out), wish)
        teach(study, "teacher")
        if out == "stopped":
            with monkeypatch.context() as patch:
                patch.setattr(runs, "train", killed)
                with pytest.raises(KeyboardInterrupt):
                    distil(study, "own")
            (state,) = states(study.root)
            assert (state.label, state.step, state.running) == ("distil-own-own", 4, True)
            assert {row["step"] for row in state.psnr} == {0, 1, 2, 3, 4}
            study = open_own(Path(out), wish)
        distil(study, "own")
        assert states(study.root) == []
    assert weights("whole") == weights("stopped")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--images none", "none: no such folder"),
        ("--images small", "small.png: 15 x 90 pixels, expected 16 or more a side at x2"),
        ("--images one", "one: has one image: test on another folder"),
        ("--test in", "is to be trained and tested on: test on another folder"),
        ("--method foo", "method 'foo' is unknown: choose one of scratch, kd"),
        ("--method augkd:kd=-1", "methods.augkd.kd: expected a finite number, at least 0"),
        ("--method augkd:kd", "'augkd:kd': expected NAME, or NAME:key=value"),
        ("--steps 0", "steps: expected a whole number, at least 1, not 0"),
        ("--schedule patch=9", "patch: 9 is not divisible by the scale"),
        ("--schedule patches=8", "patches: unknown key"),
        ("--scale 3", "expected (1, 3, 48, 96) for scale 3"),
        ("--scale 5", "scale: Input should be 2, 3 or 4, not 5"),
        ("--student edsr:channels=-4,blocks=1", "no network has such sizes"),
        ("--student edsr:blocks=-1", "no network has such sizes (blocks=-1)"),
        ("--student edsr:channels=true", "no network has such sizes (channels=True)"),
        ("--student unet", "network 'unet' is unknown: choose one of edsr, rcan, swinir"),
        ("--teacher none.pth", "--teacher 'none.pth': no such file"),
        ("--teacher nowhere:make", "factory 'nowhere:make' cannot be imported"),
        ("--network rcan", "not a checkpoint of this RCAN"),
        ("-o in", "in: is there, and not a run of distil: choose a new folder"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(more: str, said: str) -> None:
    write_image(Path("small/small.png"), torch.rand(3, 90, 15))
    write_image(Path("small/wide.png"), torch.rand(3, 90, 90))
    write_image(Path("one/one.png"), torch.rand(3, 90, 90))
    before = sorted(Path().rglob("*"))
    text = run(f"{WISH} -o out {more}", code=2).replace("\r", "\n")
    (line,) = [line for line in text.splitlines() if line.startswith("augkd: ")]
    assert said in line
    assert sorted(Path().rglob("*")) == before


def test_another_wish_in_the_folder_of_a_run_is_refused() -> None:
    open_own(Path("out"), Wish("in", teacher="teacher.safetensors", steps=4))
    text = run("--images in --teacher teacher.safetensors --steps 5 -o out", code=2)
    assert "out: is another run, with steps 4, not 5: give the same" in text
