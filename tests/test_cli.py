"""The command line on real files: what it writes, prints and refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from augkd import __version__, degrade
from augkd.cli import app
from augkd.data.images import read_image, write_image
from augkd.degrade import bicubic
from augkd.metrics import psnr_y, ssim_y
from augkd.models import create_model, load_network, save_checkpoint, upscale
from augkd.study import doctor
from tests.public_layouts import official

OF_NETWORKS = ("--self-ensemble", "--tile 0", "--device auto", "--size channels=4")
PARAMS = """\
# the study
budgets:
  smoke: &smoke {name: smoke, steps: 2}   # plumbing
  cpu: &cpu {name: cpu, steps: 20}
  bare: {name: bare}
budget: *cpu   # the one word to edit
after: 1.0e-4
"""


def run(command: str, code: int = 0) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == code, result.output
    return result.output


def refused(command: str) -> str:
    """The one line that the command ends with."""
    text = run(command, code=2)
    assert re.fullmatch("augkd: .+\n", text), text
    return text


def picture(height: int = 40, width: int = 44, seed: int = 0) -> Tensor:
    """Smooth and in colour."""
    noise = torch.rand(3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return (bicubic(noise, 4, up=True).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images and weights in the current folder."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("baby", "bird")):
        write_image(Path("in", f"{name}.png"), picture(seed=i))
    torch.manual_seed(0)
    model = create_model("edsr", scale=2, channels=4, blocks=1, res_scale=1.0)
    save_checkpoint(Path("edsr.safetensors"), model)


def files(folder: str = ".") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_help_and_version_do_not_wait_for_torch() -> None:
    script = (
        "import sys; from augkd.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert re.search(r"upscale(.|\n)*doctor(.|\n)*False False\n$", out)
    assert run("--version") == f"augkd {__version__}\n"


def test_python_m_augkd_exits_like_the_script() -> None:
    command = "-m augkd upscale absent.png -o . --method bicubic --scale 2"
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "augkd: absent.png: no such image or folder\n"


# --- upscale ---


def test_a_folder_is_enlarged_by_bicubic() -> None:
    Image.new("RGB", (8, 8)).save("in/bird.png", icc_profile=b"a profile")
    assert "2 images, x3" in run("upscale in -o new/out --method bicubic --scale 3")
    assert Image.open("new/out/bird.png").info["icc_profile"] == b"a profile"
    assert files("new/out") == ["baby.png", "bird.png"]
    expected = bicubic(read_image(Path("in/bird.png")), 3, up=True)
    assert torch.equal(read_image(Path("new/out/bird.png")), expected)


def test_weights_say_what_they_are_of() -> None:
    command = "upscale in/baby.png -w edsr.safetensors -o"
    assert "1 image, x2" in run(f"{command} one.png")
    model = load_network(Path("edsr.safetensors")).eval()
    write_image(Path("whole.png"), upscale.upscale(model, read_image(Path("in/baby.png"))))
    one = read_image(Path("one.png"))
    assert torch.equal(one, read_image(Path("whole.png")))
    run(f"{command} . --tile 8")
    tiles = read_image(Path("baby.png"))
    assert (tiles.int() - one.int()).abs().max() <= 1  # a rounding may fall on the other side
    run(f"{command} one.png --self-ensemble")
    assert not torch.equal(read_image(Path("one.png")), tiles)


def test_public_weights_tell_their_network() -> None:
    torch.save(create_model("rcan", role="student", scale=2).state_dict(), "rcan.pt")
    for more in ("", " --size channels=64 --scale 2"):
        command = f"upscale in/baby.png -o . -w rcan.pt --tile 16{more}"
        assert "tiles see statistics of their own" in run(command)
    assert read_image(Path("baby.png")).shape == (3, 80, 88)


@pytest.mark.parametrize(
    ("channels", "blocks", "options", "scale", "said"),
    [
        (64, 16, "", 1.0, "residual scale: assumed 1.0"),  # the public baseline
        (256, 1, "", 0.1, "residual scale: assumed 0.1"),
        (8, 1, "--size channels=8,res_scale=0.5", 0.5, ""),
    ],
)
def test_a_residual_scale_is_given_or_assumed(
    channels: int, blocks: int, options: str, scale: float, said: str
) -> None:
    model = create_model("edsr", None, 2, channels=channels, blocks=blocks, res_scale=scale)
    torch.save(official(model), "public.pt")
    save_checkpoint(Path("ours.safetensors"), model)
    text = run(f"upscale in/baby.png -o a.png -w public.pt {options} --tile 0")
    assert ("assumed" in text, said in text) == (bool(said), True)
    run("upscale in/baby.png -o b.png -w ours.safetensors --tile 0")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_bad_requests_to_upscale_write_nothing() -> None:
    Path("cut").mkdir()
    Path("cut/cut.png").write_bytes(Path("in/baby.png").read_bytes()[:-400])
    write_image(Path("other/baby.png"), picture())
    before = files()
    for arguments, said in [
        ("in cut -o out --method bicubic -s 2", "cut.png: does not decode"),
        ("in -o in --method bicubic -s 2", "would overwrite"),
        ("in other -o out --method bicubic -s 2", "separate folders"),
        ("in -o x.png --method bicubic -s 2", "expected a folder"),
        ("in/baby.png in/bird.png -o x.png --method bicubic -s 2", "expected a folder"),
        ("in -o edsr.safetensors --method bicubic -s 2", "expected a folder"),
        ("in/baby.png -o x.jpg --method bicubic -s 2", "expected a folder, or a .png file"),
        ("in -o out --method bicubic -s 5", "needs --scale 2, 3 or 4"),
        ("in -o out --method lanczos -s 2", "--method bicubic"),
        ("in -o out --method bicubic", "needs --scale"),
        *((f"in -o out --method bicubic -s 2 {option}", "takes no") for option in OF_NETWORKS),
        (f"in -o {'x' * 300} --method bicubic -s 2", "File name too long"),
        ("in -o out", "either --weights"),
        ("in -o out -w edsr.safetensors --method bicubic -s 2", "either --weights"),
        ("in -o out -w edsr.safetensors -s 3", "its scale is 2, not 3"),
        ("in -o out -w edsr.safetensors --size res_scale=0.1", "its res_scale is 1.0, not 0.1"),
        ("in -o out -w edsr.safetensors --size width=4", "no size 'width'"),
        ("in -o out -w edsr.safetensors --size scale=3", "its scale is 2, not 3"),
        *(
            (f"in -o out -w edsr.safetensors --size {n}", "expected cha")
            for n in ("4", "a=b", "a=1,", "a=nan", "a=1=2", ",")
        ),
        ("in -o out -w absent.safetensors", "absent.safetensors"),
        ("in -o out -w edsr.safetensors --device moon", "--device moon"),
        ("in/baby.png -o edsr.safetensors/x.png --method bicubic -s 2", "cannot be written"),
    ]:
        assert said in refused(f"upscale {arguments}"), arguments
    assert files() == before


def test_running_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in ((upscale, "upscale"), (degrade, "bicubic")):
        monkeypatch.setattr(place, name, lambda *_, **__: torch.empty(2**60))
    for how in ("-w edsr.safetensors", "--method bicubic -s 2"):
        assert "smaller --tile" in refused(f"upscale in -o out {how}")
    assert not Path("out").exists()


def test_names_that_a_terminal_cannot_show() -> None:
    for name in (b"a\xff.png", b"new\nline.png", "é 日本.png".encode(), b"y" * 251 + b".png"):
        write_image(Path("in", os.fsdecode(name)), picture())
    how, latin = ["--method", "bicubic", "-s", "2"], os.environ | {"PYTHONIOENCODING": "latin-1"}
    for code, said, *arguments in (
        (0, b"out: 6 images, x2\n", "upscale", "in", "-o", "out"),
        (0, b"s.csv: 6 images", "score", "--hr", "in", "--csv", "s.csv"),
        (0, b"\na\\udcff ", "score", "--hr", "in"),
        (2, b"augkd: \\n\\udcff: no such image or folder\n", "upscale", b"\n\xff", "-o", "o"),
    ):
        command = [sys.executable, "-m", "augkd", *arguments, *how]
        done = subprocess.run(command, env=latin, capture_output=True)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stderr
    assert sorted(os.listdir(b"out")) == sorted(os.listdir(b"in"))


# --- score ---


@pytest.mark.parametrize("suffix", ["", "x3"])  # both ways to name the enlarged image
def test_scores_are_those_of_the_metrics(suffix: str) -> None:
    sr = picture(seed=7)[:, :39, :42]
    for name in ("baby", "bird"):
        write_image(Path("sr", f"{name}{suffix}.png"), sr)
    run("score --hr in --sr sr -s 3 --csv scores/a.csv")
    hr = read_image(Path("in/bird.png"))[None, :, :39, :42]  # cut to a multiple of 3
    psnr, ssim = (float(measure(sr[None], hr, 3)) for measure in (psnr_y, ssim_y))
    csv = Path("scores/a.csv").read_text()
    bird = f"bird,{psnr:.6f},{ssim:.6f}"
    assert re.fullmatch(f"image,psnr_y,ssim_y\nbaby,.+\n{re.escape(bird)}\n", csv)
    assert files("scores") == ["a.csv"]


def test_lr_is_made_by_bicubic_where_it_is_not_given() -> None:
    for name in ("baby", "bird"):
        lr = bicubic(read_image(Path("in", f"{name}.png")), 2)
        write_image(Path("lr", f"{name}x2.png"), lr)
    for how in ("--method bicubic", "-w edsr.safetensors", "-w edsr.safetensors --self-ensemble"):
        made = run(f"score --hr in -s 2 {how}")
        assert made == run(f"score --hr in -s 2 --lr lr {how}")
    cells = [line.split() for line in made.splitlines()]
    assert [row[0] for row in cells] == ["image", "baby", "bird", "mean"]
    assert cells[0][1:] == ["PSNR-Y", "(dB)", "SSIM-Y"]
    baby, bird, mean = (float(row[1]) for row in cells[1:])
    assert mean == pytest.approx((baby + bird) / 2, abs=0.0101)
    assert "inf  1.0000" in run("score --hr in --sr in -s 2")


def test_bad_requests_to_score_write_nothing() -> None:
    for file in ("one/baby.png", "small/baby.png", "small/birdx2.png"):
        write_image(Path(file), picture(20, 20))
    write_image(Path("tiny/dot.png"), picture(8, 8))
    for file in ("twins/baby.png", "twins/baby.jpg"):
        write_image(Path(file), picture())
    sizes = "baby.png: at x2 gives 40 x 40 pixels, but baby.png has 44 x 40"
    needless = ("-w edsr.safetensors", "--lr in", *OF_NETWORKS)
    for arguments, said in [
        ("--hr in -s 2 --sr one --csv s.csv", "has no image for bird"),
        ("--hr in -s 2 --lr small --method bicubic --csv s.csv", sizes),
        ("--hr twins -s 2 --method bicubic --csv s.csv", "baby.png: has the name of baby.jpg"),
        ("--hr tiny -s 2 --method bicubic --csv s.csv", "too small"),
        ("--hr no -s 2 --method bicubic --csv s.csv", "no such folder"),
        *((f"--hr in -s 2 --sr in --csv s.csv {option}", "leave out") for option in needless),
        ("--hr in -s 8 --method bicubic --csv s.csv", "2, 3 or 4"),
        ("--hr in -s 2 --method bicubic --csv in", "is a folder"),
    ]:
        assert said in refused(f"score {arguments}"), arguments
    assert not Path("s.csv").exists()


# --- budget ---


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "study"
    (root / "notebooks").mkdir(parents=True)
    (root / "params.yaml").write_bytes(PARAMS.replace("\n", "\r\n").encode())
    monkeypatch.chdir(root / "notebooks")
    return root / "params.yaml"


def test_the_budget_is_one_word(study: Path) -> None:
    before = study.read_bytes()
    assert run("budget") == "  smoke\n* cpu\n  bare\n"
    for name, said in (("smoke", "was cpu"), ("smoke", "as before"), ("cpu", "was smoke")):
        assert run(f"budget {name}") == f"budget: {name} ({said})\n"
        assert study.read_bytes() == before.replace(b"*cpu ", f"*{name} ".encode())
    assert files("..") == ["params.yaml"]


def test_bad_budgets_change_nothing(study: Path) -> None:
    before = study.read_bytes()
    for old, new, command, said in [
        (b"", b"", "budget cpus", "'cpus' is unknown: choose one of smoke, cpu, bare"),
        (b"", b"", "budget bare", "write 'bare: &bare'"),
        (b"budget: *cpu", b"budget: cpu", "budget smoke", "expected one"),
        (b"budgets:", b"budgets: [", "budget", "not YAML at line"),
        (before, b"a: 1", "budget", "has no 'budgets'"),
    ]:
        given = before.replace(old, new) if old else before
        study.write_bytes(given)
        assert said in refused(command)
        assert study.read_bytes() == given
    study.unlink()
    assert "run this in a clone" in refused("budget")


def test_a_linked_benchmark_is_refused(study: Path) -> None:
    """DVC does not see it; a folder that is elsewhere may be named, or its sets copied."""
    elsewhere, own = study.parent / "elsewhere", study.parent / "own"
    (elsewhere / "Set5" / "HR").mkdir(parents=True)
    own.mkdir()
    (own / "Set5").symlink_to(elsewhere / "Set5")
    before = study.read_bytes()
    study.write_bytes(before + b"data: {benchmarks: own}\r\n")
    for command in ("budget", "budget smoke"):
        assert "own/Set5: is a link, and DVC does not see" in refused(command)
    assert b"budget: *cpu" in study.read_bytes()
    study.write_bytes(before + b"data: {benchmarks: elsewhere}\r\n")
    assert run("budget smoke") == "budget: smoke (was cpu)\n"


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUGKD_BENCHMARKS", raising=False)
    Path("data/benchmarks/Set5/HR").mkdir(parents=True)
    healthy = run("doctor")
    assert all(text in healthy for text in ("\nready\n", "Set5 in", torch.__version__))
    monkeypatch.setattr(doctor, "FREE_GB", 10**9)
    monkeypatch.setenv("PATH", "")
    ill = run("doctor", code=1)
    assert all(text in ill for text in ("\nnot ready: disk, git\n", "make room", "install git"))
