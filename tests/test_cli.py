"""The command line on real files: what it writes, prints and refuses."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from augkd import __version__
from augkd.cli import app
from augkd.data.images import read_image, write_image
from augkd.degrade import bicubic
from augkd.metrics import psnr_y, ssim_y
from augkd.models import create_model, load_network, save_checkpoint, upscale
from augkd.study import doctor

PARAMS = """\
# the study
budgets:
  smoke: &smoke {name: smoke, steps: 2}   # plumbing
  cpu: &cpu {name: cpu, steps: 20}
  bare: {name: bare}
budget: *cpu   # the one word to edit
after: 1.0e-4
"""


def run(*arguments: object, code: int = 0) -> str:
    """What the command prints to stdout, or to stderr where it must fail."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result.stderr if code else result.stdout


def refused(*arguments: object) -> str:
    """The one line that the command ends with."""
    text = run(*arguments, code=2)
    assert text.startswith("augkd: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text


def picture(height: int = 40, width: int = 44, seed: int = 0) -> Tensor:
    """Smooth and in colour."""
    noise = torch.rand(3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return (bicubic(noise, 4, up=True).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i, name in enumerate(("baby", "bird")):
        write_image(tmp_path / "in" / f"{name}.png", picture(seed=i))
    return tmp_path / "in"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("edsr", scale=2, channels=4, blocks=1, res_scale=1.0)
    save_checkpoint(tmp_path / "edsr.safetensors", model)
    return tmp_path / "edsr.safetensors"


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- the program itself ---


def test_help_and_version_do_not_wait_for_torch() -> None:
    script = (
        "import sys; from augkd.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert "upscale" in out
    assert "doctor" in out
    assert out.endswith("False False\n")
    assert run("--version") == f"augkd {__version__}\n"


def test_python_m_augkd_exits_like_the_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "augkd", "upscale", "absent.png", "-o", str(tmp_path)]
        + ["--method", "bicubic", "--scale", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "augkd: absent.png: no such image or folder\n"


# --- upscale ---


def test_a_folder_is_enlarged_by_bicubic(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "new" / "out"
    assert "2 images, x3" in run(
        "upscale", pictures, "-o", out, "--method", "bicubic", "--scale", 3
    )
    assert files(out) == ["baby.png", "bird.png"]
    expected = bicubic(read_image(pictures / "bird.png"), 3, up=True)
    assert torch.equal(read_image(out / "bird.png"), expected)


def test_weights_say_what_they_are_of(tmp_path: Path, pictures: Path, weights: Path) -> None:
    out = tmp_path / "one.png"
    assert "1 image, x2" in run("upscale", pictures / "baby.png", "-o", out, "-w", weights)
    whole = upscale.upscale(load_network(weights).eval(), read_image(pictures / "baby.png"))
    assert torch.equal(read_image(out), (whole * 255).round().clamp(0, 255).to(torch.uint8))
    run("upscale", pictures / "baby.png", "-o", tmp_path, "-w", weights, "--tile", 8)
    tiles = read_image(tmp_path / "baby.png").int() - read_image(out).int()
    assert tiles.abs().max() <= 1  # a rounding of 8 bits may fall on the other side
    run("upscale", pictures / "baby.png", "-o", out, "-w", weights, "--self-ensemble")
    assert not torch.equal(read_image(out), read_image(tmp_path / "baby.png"))


def test_public_weights_need_their_network_named(tmp_path: Path, pictures: Path) -> None:
    model = create_model("rcan", role="student", scale=2)
    torch.save(model.state_dict(), tmp_path / "rcan.pt")
    common = ("upscale", pictures / "baby.png", "-o", tmp_path, "-w", tmp_path / "rcan.pt")
    result = CliRunner().invoke(
        app,
        [str(a) for a in common]
        + ["--network", "rcan", "--role", "student", "--scale", "2", "--tile", "16"],
    )
    assert result.exit_code == 0, result.stderr
    assert "tiles see statistics of their own" in result.stderr
    assert read_image(tmp_path / "baby.png").shape == (3, 80, 88)
    assert "needs --role" in refused(*common, "--network", "rcan")
    assert "'edsa' is unknown" in refused(
        *common, "--network", "edsa", "--role", "student", "--scale", 2
    )


def test_bad_requests_to_upscale_write_nothing(
    tmp_path: Path, pictures: Path, weights: Path
) -> None:
    (pictures / "cut.png").write_bytes((pictures / "baby.png").read_bytes()[:-400])
    write_image(tmp_path / "other" / "baby.png", picture())
    before = files(tmp_path)
    out, two = tmp_path / "out", ("--method", "bicubic", "--scale", 2)
    assert "cut.png: does not decode" in refused("upscale", pictures, "-o", out, *two)
    (pictures / "cut.png").unlink()
    before.remove("in/cut.png")
    assert "would overwrite an input" in refused("upscale", pictures, "-o", pictures, *two)
    assert "separate folders" in refused("upscale", pictures, tmp_path / "other", "-o", out, *two)
    assert "expected a folder" in refused("upscale", pictures, "-o", tmp_path / "x.png", *two)
    assert "expected a folder" in refused("upscale", pictures, "-o", weights, *two)
    baby = ("upscale", pictures / "baby.png", "-o")
    assert "PNG is written" in refused(*baby, tmp_path / "x.jpg", *two)
    assert "choose 2, 3 or 4" in refused(*baby, out, "--method", "bicubic", "--scale", 5)
    assert "choose bicubic" in refused(*baby, out, "--method", "lanczos", "--scale", 2)
    assert "needs --scale" in refused(*baby, out, "--method", "bicubic")
    assert "takes no" in refused(*baby, out, *two, "--self-ensemble")
    assert "either --weights" in refused(*baby, out)
    assert "either --weights" in refused(*baby, out, "-w", weights, *two)
    assert "enlarges x2, not x3" in refused(*baby, out, "-w", weights, "--scale", 3)
    assert "--role needs --network" in refused(*baby, out, "-w", weights, "--role", "teacher")
    assert "absent.safetensors" in refused(*baby, out, "-w", tmp_path / "absent.safetensors")
    assert "--device moon" in refused(*baby, out, "-w", weights, "--device", "moon")
    assert "cannot be written" in refused(*baby, weights / "x.png", *two)
    assert files(tmp_path) == before


def test_running_out_of_memory_is_one_line(
    tmp_path: Path, pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object) -> Tensor:
        return torch.empty(2**60)

    monkeypatch.setattr(upscale, "upscale", greedy)
    text = refused("upscale", pictures, "-o", tmp_path / "out", "-w", weights)
    assert "smaller --tile" in text
    assert not (tmp_path / "out").exists()


# --- score ---


def test_scores_are_those_of_the_metrics(tmp_path: Path, pictures: Path) -> None:
    for suffix in ("", "x3"):  # both ways to name the enlarged image
        for name in ("baby", "bird"):
            sr = picture(seed=7)[:, :39, :42]  # HR cut to a multiple of 3
            write_image(tmp_path / f"sr{suffix}" / f"{name}{suffix}.png", sr)
        table = tmp_path / "scores" / f"a{suffix}.csv"
        run("score", "--hr", pictures, "--sr", tmp_path / f"sr{suffix}", "-s", 3, "--csv", table)
        with table.open() as file:
            rows = list(csv.DictReader(file))
        assert [row["image"] for row in rows] == ["baby", "bird"]
        hr = read_image(pictures / "bird.png")[None, :, :39, :42]
        assert float(rows[1]["psnr_y"]) == pytest.approx(psnr_y(sr[None], hr, 3).item(), abs=1e-6)
        assert float(rows[1]["ssim_y"]) == pytest.approx(ssim_y(sr[None], hr, 3).item(), abs=1e-6)
    assert files(tmp_path / "scores") == ["a.csv", "ax3.csv"]


def test_lr_is_made_by_bicubic_where_it_is_not_given(
    tmp_path: Path, pictures: Path, weights: Path
) -> None:
    for name in ("baby", "bird"):
        lr = bicubic(read_image(pictures / f"{name}.png"), 2)
        write_image(tmp_path / "lr" / f"{name}x2.png", lr)
    for how in (("--method", "bicubic"), ("-w", weights), ("-w", weights, "--self-ensemble")):
        made = run("score", "--hr", pictures, "-s", 2, *how)
        assert made == run("score", "--hr", pictures, "-s", 2, "--lr", tmp_path / "lr", *how)
    lines = made.splitlines()
    assert lines[0].split() == ["image", "PSNR-Y", "(dB)", "SSIM-Y"]
    values = [float(line.split()[1]) for line in lines[1:]]
    assert lines[-1].startswith("mean")
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, abs=0.0101)


def test_equal_images_score_inf(pictures: Path) -> None:
    assert "inf  1.0000" in run("score", "--hr", pictures, "--sr", pictures, "-s", 2)


def test_bad_requests_to_score_write_nothing(tmp_path: Path, pictures: Path, weights: Path) -> None:
    write_image(tmp_path / "lr" / "baby.png", picture(20, 20))
    write_image(tmp_path / "tiny" / "dot.png", picture(8, 8))
    start = ("score", "--csv", tmp_path / "s.csv", "--hr")
    assert "has no image for bird" in refused(*start, pictures, "-s", 2, "--sr", tmp_path / "lr")
    write_image(tmp_path / "lr" / "bird.png", picture(20, 20))
    sizes = refused(*start, pictures, "-s", 2, "--lr", tmp_path / "lr", "--method", "bicubic")
    assert "baby.png: at x2 gives 40 x 40 pixels, but baby.png has 44 x 40" in sizes
    assert "too small" in refused(*start, tmp_path / "tiny", "-s", 2, "--method", "bicubic")
    assert "no such folder" in refused(*start, tmp_path / "no", "-s", 2, "--method", "bicubic")
    assert "leave out" in refused(*start, pictures, "-s", 2, "--sr", pictures, "-w", weights)
    assert "choose 2, 3 or 4" in refused(*start, pictures, "-s", 8, "--method", "bicubic")
    assert not (tmp_path / "s.csv").exists()
    assert "is a folder" in refused(
        "score", "--hr", pictures, "-s", 2, "--method", "bicubic", "--csv", pictures
    )


# --- budget ---


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_bytes(PARAMS.replace("\n", "\r\n").encode())
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path / "params.yaml"


def test_the_budget_is_one_word(study: Path) -> None:
    before = study.read_bytes()
    assert run("budget") == "  smoke\n* cpu\n  bare\n"
    assert run("budget", "smoke") == "budget: smoke (was cpu)\n"
    assert study.read_bytes() == before.replace(b"*cpu ", b"*smoke ")
    assert run("budget", "smoke") == "budget: smoke (as before)\n"
    assert run("budget", "cpu") == "budget: cpu (was smoke)\n"
    assert study.read_bytes() == before
    assert files(study.parent) == ["params.yaml"]


def test_bad_budgets_change_nothing(study: Path) -> None:
    before = study.read_bytes()
    assert "'cpus' is unknown: choose one of smoke, cpu, bare" in refused("budget", "cpus")
    assert "write 'bare: &bare'" in refused("budget", "bare")
    assert study.read_bytes() == before
    study.write_bytes(before.replace(b"budget: *cpu", b"budget: cpu"))
    assert "expected one" in refused("budget", "smoke")
    study.write_bytes(before.replace(b"budgets:", b"budgets: ["))
    assert "not YAML at line" in refused("budget")
    study.write_text("a: 1\n")
    assert "has no 'budgets'" in refused("budget")
    study.unlink()
    assert "run this in a clone" in refused("budget")


def test_a_linked_benchmark_is_refused(study: Path, tmp_path: Path) -> None:
    """DVC does not see it; a folder that is elsewhere may be named, or its sets copied."""
    elsewhere, own = tmp_path / "elsewhere", tmp_path / "own"
    (elsewhere / "Set5" / "HR").mkdir(parents=True)
    own.mkdir()
    (own / "Set5").symlink_to(elsewhere / "Set5")
    before = study.read_bytes()
    study.write_bytes(before + b"data: {benchmarks: own}\r\n")
    for command in (["budget"], ["budget", "smoke"]):
        assert "own/Set5: is a link, and DVC does not see" in refused(*command)
    assert b"budget: *cpu" in study.read_bytes()
    study.write_bytes(before + b"data: {benchmarks: elsewhere}\r\n")
    assert run("budget", "smoke") == "budget: smoke (was cpu)\n"


# --- doctor ---


def test_doctor_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUGKD_BENCHMARKS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "benchmarks" / "Set5" / "HR").mkdir(parents=True)
    healthy = run("doctor")
    assert healthy.endswith("ready\n")
    assert "Set5 in" in healthy
    assert torch.__version__ in healthy
    monkeypatch.setattr(doctor, "FREE_GB", 10**9)
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout.endswith("not ready: disk, git\n")
    assert "make room" in result.stdout
    assert "install git" in result.stdout
