"""A training shared by two processes against the same by one: losses, weights, states."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from augkd.augment import Invertible
from augkd.cli import app
from augkd.data.sampler import Batch
from augkd.data.shared import Group, Part
from augkd.distill import METHODS
from augkd.errors import UserError
from augkd.study.params import load_study
from augkd.study.record import by_method
from augkd.study.runs import distil, teach
from tests.study_copy import ROOT, edit
from tests.test_cohort import small_study

SHARED = {"scratch", "kd", "dfkd", "at", "fakd", "fakd_augkd", "augkd", "crosskd", "sliced_init"}
COHORT = """
  shared_x2:
    network: edsr
    scale: 2
    student: student
    teacher: {trained: edsr_x2}
    at: {smoke: {seeds: 1}}
    methods:
      scratch: {}
      kd: {}
      augkd: {}
      two_step: {method: augkd, updates: 2}
      fakd: {}
      rkd: {}
  dropping_x2:
    network: swinir
    scale: 2
    student: student
    teacher: {trained: edsr_x2}
    at: {smoke: {seeds: 1}}
    methods:
      kd: {}
      augkd: {}
"""
WORK = """
import sys
from pathlib import Path
import torch.distributed
from augkd.study.params import load_study
from augkd.study.runs import distil, teach
import augkd.study.runs as study_module

torch.distributed.init_process_group("gloo")
root, kill = Path(sys.argv[1]), int(sys.argv[2])
learn = study_module.train
class Killed(BaseException):
    pass
def train(*a, **k):
    def after(done):
        if done == kill:
            raise Killed
    return learn(*a, **k, save_every=0 if kill else 60, after_step=after)
study_module.train = train
study = load_study("smoke", root)
for call, name in ((teach, "edsr_x2"), (distil, "shared_x2"), (distil, "dropping_x2")):
    try:
        call(study, name)
    except Killed:  # amid the first: it goes on from there
        kill = 0
        torch.distributed.barrier()
        assert len(list((root / ".state").iterdir())) == 1
        torch.distributed.barrier()
        call(study, name)
assert not kill  # it was
"""


def study_with(root: Path) -> Path:
    small_study(root)
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    edit(root, "\ncohorts:\n", "\ncohorts:" + COHORT)
    # sums of other parts round otherwise, by far more in bfloat16
    edit(root, "steps: 4, batch: 3,", "precision: float32, steps: 6, batch: 5,")
    edit(root, "steps: 8, batch: 2,", "precision: float32, steps: 8, batch: 2,")
    return root


def work(root: Path, kill: int) -> None:
    """Trains the three in two processes, which stop all at once after step ``kill`` of the first,
    to go on from its saved state."""
    script = root.with_suffix(".py")
    script.write_text(WORK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command += [str(script), str(root), str(kill)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr


STAGES = (("teach", "edsr_x2"), ("distil", "shared_x2"), ("distil", "dropping_x2"))


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same study trained by one process and by two."""
    one, two = (study_with(tmp_path_factory.mktemp("study") / name) for name in ("one", "two"))
    for call, (_, name) in zip((teach, distil, distil), STAGES, strict=True):
        call(load_study("smoke", one), name)
    work(two, kill=3)
    return one, two


def curves(root: Path, stage: str, name: str, kind: str) -> pd.DataFrame:
    folder = load_study("smoke", root).folder(stage, name)
    return pd.read_csv(folder / "curves" / f"{kind}.csv")


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), STAGES)
def test_two_processes_lose_as_one_does(studies: tuple[Path, Path], stage: str, name: str) -> None:
    one, two = (curves(root, stage, name, "terms") for root in studies)
    keys = ["step", "member", "term"]
    assert one[keys].equals(two[keys])
    assert one.step.nunique() >= 6  # every step
    assert (one.value - two.value).abs().max() < 1e-5
    one, two = (curves(root, stage, name, "psnr") for root in studies)
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-3)  # dB


@pytest.mark.slow
def test_what_two_processes_leave_behind(studies: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file

    one, two = studies
    files = [sorted(p.relative_to(root) for p in root.rglob("*")) for root in studies]
    assert files[0] == files[1]  # neither more nor less than one process leaves
    compared = [path for path in files[0] if path.suffix == ".safetensors"]
    assert len(compared) == 1 + 6 + 2
    distances = []
    for path in compared:
        weights, others = load_file(one / path), load_file(two / path)
        assert weights.keys() == others.keys()
        whole, other = (torch.cat([w[key].flatten() for key in weights]) for w in (weights, others))
        distances.append(float((whole - other).norm() / whole.norm()))
    # losses are held to 1e-5 above. L1 and ReLU have kinks: where rounding falls on one, a gradient
    # jumps, and Adam divides it by its own size
    assert np.median(distances) < 1e-6
    assert max(distances) < 1e-3
    assert not list((two / ".state").iterdir())


# --- started from a notebook or a shell ---


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A study whose trainings two processes are asked to share."""
    root = study_with(tmp_path)
    edit(root, "    name: smoke\n", "    name: smoke\n    processes: 2\n")
    return root


@pytest.mark.slow
def test_a_budgets_processes_are_started(
    studies: tuple[Path, Path], shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss, psnr = teach(load_study("smoke", shared), "edsr_x2")
    assert json.loads((shared / "runs/smoke/teach/edsr_x2/run.json").read_text())["processes"] == 2
    expected = curves(studies[0], "teach", "edsr_x2", "terms")
    assert (loss.value - expected.value).abs().max() < 1e-5
    assert by_method(psnr).equals(curves(shared, "teach", "edsr_x2", "psnr"))
    assert capsys.readouterr().err.count("8/8 [") == 1  # one bar


@pytest.mark.slow
def test_what_a_process_says_is_passed_on(shared: Path) -> None:
    edit(shared, "steps: 8, batch: 2,", "steps: 8, batch: 1,")
    with pytest.raises(UserError, match=r"^2 processes cannot share a batch of 1: use at most 1"):
        teach(load_study("smoke", shared), "edsr_x2")
    assert not (shared / "runs/smoke/teach/edsr_x2/teacher.safetensors").exists()


def test_a_process_among_others_needs_all_that_it_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study_with(tmp_path))
    monkeypatch.setattr("augkd.data.shared.joined", lambda: Group(1, 2))
    result = CliRunner().invoke(app, ["train", "edsr_x2", "--budget", "smoke"])
    assert result.exit_code == 2
    assert result.stderr.startswith("augkd: runs/smoke/teach/edsr_x2/teacher.safetensors: missing")
    assert result.stderr.count("\n") == 1


# --- parts of a batch ---


def batch(n: int, crops: int) -> Batch:
    def images(count: int, side: int) -> torch.Tensor:
        return torch.arange(count).view(-1, 1, 1, 1).expand(count, 3, side, side).float()

    flags = torch.arange(crops * n).view(-1, 1).expand(-1, 4)
    return Batch(
        lr=images(n, 6),
        hr=images(n, 12),
        zoom_in=images(crops * n, 6),
        zoom_out=images(n, 3),
        transform=Invertible(flags),
        seed=3,
        uniform=flags / 100,
    )


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_parts_make_the_batch(processes: int) -> None:
    whole = batch(5, crops=2)
    parts = [Group(rank, processes).part(5) or Part(0, 5, 5) for rank in range(processes)]
    pieces = [part.of(whole) for part in parts]
    assert torch.equal(torch.cat([piece.lr for piece in pieces]), whole.lr)
    assert torch.equal(torch.cat([piece.hr for piece in pieces]), whole.hr)
    for piece in pieces:
        n = len(piece.lr)
        own = piece.lr[:, 0, 0, 0].tolist()
        # crop k * n + i is of image i, with its transform
        assert piece.zoom_in[:, 0, 0, 0].tolist() == own + [5 + image for image in own]
        assert piece.transform.flags[:, 0].tolist() == own + [5 + image for image in own]
        assert piece.uniform is not None
        assert len(piece.uniform) == 2 * n
        assert (piece.seed, piece.zoom_cell) == (3, None)


def test_a_part_draws_what_the_whole_would() -> None:
    generator = torch.Generator().manual_seed(0)
    every = torch.rand(10, generator=generator)
    drawn = []
    for part in (Part(0, 2, 5), Part(2, 5, 5)):
        generator.manual_seed(0)
        count = 2 * (part.last - part.first)
        drawn.append(part.draw(count, torch.device("cpu"), generator).view(2, -1))
    assert torch.equal(torch.cat(drawn, 1).flatten(), every)


def test_fewer_images_than_processes() -> None:
    with pytest.raises(UserError, match="3 processes cannot share a batch of 2: use at most 2"):
        Group(0, 3).part(2)


def test_which_methods_share_a_batch() -> None:
    assert {name for name, kind in METHODS.items() if getattr(kind, "per_image", False)} == SHARED
