"""The command line on real files: what it writes, prints and refuses."""

import re
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
    """What the command prints."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def refused(*arguments: object) -> str:
    """The one line that the command ends with."""
    text = run(*arguments, code=2)
    assert re.fullmatch("augkd: .+\n", text), text
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


def test_help_and_version_do_not_wait_for_torch() -> None:
    script = (
        "import sys; from augkd.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert "upscale" in out
    assert "doctor" in out
    assert out.endswith("False False\n")
    assert run("--version") == f"augkd {__version__}\n"


def test_python_m_augkd_exits_like_the_script() -> None:
    command = "-m augkd upscale absent.png -o . --method bicubic --scale 2"
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "augkd: absent.png: no such image or folder\n"


# --- upscale ---


def test_a_folder_is_enlarged_by_bicubic(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "new" / "out"
    assert "2 images, x3" in run("upscale", pictures, "-o", out, "--method", "bicubic", "-s", 3)
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
    named = (*common, "--role", "student", "--scale", 2, "--network")
    assert "tiles see statistics of their own" in run(*named, "rcan", "--tile", 16)
    assert read_image(tmp_path / "baby.png").shape == (3, 80, 88)
    assert "needs --role" in refused(*common, "--network", "rcan")
    assert "'edsa' is unknown" in refused(*named, "edsa")


def test_bad_requests_to_upscale_write_nothing(
    tmp_path: Path, pictures: Path, weights: Path
) -> None:
    (pictures / "cut.png").write_bytes((pictures / "baby.png").read_bytes()[:-400])
    other, out, baby = tmp_path / "other", tmp_path / "out", pictures / "baby.png"
    write_image(other / "baby.png", picture())
    before = files(tmp_path)
    two = ("--method", "bicubic", "--scale", 2)
    assert "cut.png: does not decode" in refused("upscale", pictures, "-o", out, *two)
    (pictures / "cut.png").unlink()
    before.remove("in/cut.png")
    for given, target, options, said in [
        ([pictures], pictures, two, "would overwrite"),
        ([pictures, other], out, two, "separate folders"),
        ([pictures], tmp_path / "x.png", two, "expected a folder"),
        ([baby, pictures / "bird.png"], tmp_path / "x.png", two, "expected a folder"),
        ([pictures], weights, two, "expected a folder"),
        ([baby], tmp_path / "x.jpg", two, "expected a folder, or a .png file"),
        ([baby], out, ("--method", "bicubic", "--scale", 5), "choose 2, 3 or 4"),
        ([baby], out, ("--method", "lanczos", "--scale", 2), "--method bicubic"),
        ([baby], out, ("--method", "bicubic"), "needs --scale"),
        ([baby], out, (*two, "--self-ensemble"), "takes no"),
        ([baby], out, (), "either --weights"),
        ([baby], out, ("-w", weights, *two), "either --weights"),
        ([baby], out, ("-w", weights, "--scale", 3), "enlarges x2, not x3"),
        ([baby], out, ("-w", weights, "--role", "teacher"), "--role --network"),
        ([baby], out, ("-w", tmp_path / "absent.safetensors"), "absent.safetensors"),
        ([baby], out, ("-w", weights, "--device", "moon"), "--device moon"),
        ([baby], weights / "x.png", two, "cannot be written"),
    ]:
        assert said in refused("upscale", *given, "-o", target, *options), said
    assert files(tmp_path) == before


def test_running_out_of_memory_is_one_line(
    tmp_path: Path, pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upscale, "upscale", lambda *_: torch.empty(2**60))
    text = refused("upscale", pictures, "-o", tmp_path / "out", "-w", weights)
    assert "smaller --tile" in text
    assert not (tmp_path / "out").exists()


# --- score ---


@pytest.mark.parametrize("suffix", ["", "x3"])  # both ways to name the enlarged image
def test_scores_are_those_of_the_metrics(tmp_path: Path, pictures: Path, suffix: str) -> None:
    sr, table = picture(seed=7)[:, :39, :42], tmp_path / "scores" / "a.csv"
    for name in ("baby", "bird"):
        write_image(tmp_path / "sr" / f"{name}{suffix}.png", sr)
    run("score", "--hr", pictures, "--sr", tmp_path / "sr", "-s", 3, "--csv", table)
    hr = read_image(pictures / "bird.png")[None, :, :39, :42]  # cut to a multiple of 3
    psnr, ssim = (float(measure(sr[None], hr, 3)) for measure in (psnr_y, ssim_y))
    head, baby, bird = table.read_text().splitlines()
    assert head == "image,psnr_y,ssim_y"
    assert baby.startswith("baby,")
    assert bird == f"bird,{psnr:.6f},{ssim:.6f}"
    assert files(tmp_path / "scores") == ["a.csv"]


def test_lr_is_made_by_bicubic_where_it_is_not_given(
    tmp_path: Path, pictures: Path, weights: Path
) -> None:
    for name in ("baby", "bird"):
        lr = bicubic(read_image(pictures / f"{name}.png"), 2)
        write_image(tmp_path / "lr" / f"{name}x2.png", lr)
    for how in (("--method", "bicubic"), ("-w", weights), ("-w", weights, "--self-ensemble")):
        made = run("score", "--hr", pictures, "-s", 2, *how)
        assert made == run("score", "--hr", pictures, "-s", 2, "--lr", tmp_path / "lr", *how)
    head, *lines, mean = made.splitlines()
    assert head.split() == ["image", "PSNR-Y", "(dB)", "SSIM-Y"]
    assert mean.startswith("mean")
    baby, bird, both = (float(line.split()[1]) for line in [*lines, mean])
    assert both == pytest.approx((baby + bird) / 2, abs=0.0101)


def test_equal_images_score_inf(pictures: Path) -> None:
    assert "inf  1.0000" in run("score", "--hr", pictures, "--sr", pictures, "-s", 2)


def test_bad_requests_to_score_write_nothing(tmp_path: Path, pictures: Path, weights: Path) -> None:
    one, small, tiny, twins = (tmp_path / name for name in ("one", "small", "tiny", "twins"))
    for file in (one / "baby.png", small / "baby.png", small / "birdx2.png"):
        write_image(file, picture(20, 20))
    write_image(tiny / "dot.png", picture(8, 8))
    for suffix in (".png", ".jpg"):
        write_image(twins / f"baby{suffix}", picture())
    made, table = ("--method", "bicubic"), ("--csv", tmp_path / "s.csv")
    sizes = "baby.png: at x2 gives 40 x 40 pixels, but baby.png has 44 x 40"
    for hr, scale, options, said in [
        (pictures, 2, ("--sr", one, *table), "has no image for bird"),
        (pictures, 2, ("--lr", small, *made, *table), sizes),
        (twins, 2, (*made, *table), "baby.png: has the name of baby.jpg"),
        (tiny, 2, (*made, *table), "too small"),
        (tmp_path / "no", 2, (*made, *table), "no such folder"),
        (pictures, 2, ("--sr", pictures, "-w", weights, *table), "leave out"),
        (pictures, 8, (*made, *table), "choose 2, 3 or 4"),
        (pictures, 2, (*made, "--csv", pictures), "is a folder"),
    ]:
        assert said in refused("score", "--hr", hr, "-s", scale, *options), said
    assert not (tmp_path / "s.csv").exists()


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
    ill = run("doctor", code=1)
    assert ill.endswith("not ready: disk, git\n")
    assert "make room" in ill
    assert "install git" in ill
