"""AugKD in somebody's own loop, as the README shows it, and what importing it brings along."""

import re
import subprocess
import sys
import venv
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor, nn
from torch.nn.functional import l1_loss

import augkd
from augkd.augment import Invertible
from augkd.degrade.bicubic import bicubic
from tests.study_copy import ROOT

SECTION = "## In your own training loop"


def snippet() -> str:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(block)


def shuffling(channels: int, scale: int, seed: int) -> nn.Module:
    """A network that is none of ours."""
    torch.manual_seed(seed)
    first = nn.Conv2d(3, channels, 3, padding=1)
    last = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), last, nn.PixelShuffle(scale))


def pairs(scale: int, count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    highs = [torch.rand(2, 3, 12 * scale, 12 * scale) for _ in range(count)]
    return [(bicubic(hr, scale).clamp(0, 1), hr) for hr in highs]


def by_hand(student: nn.Module, large: nn.Module, batch: Any) -> Tensor:
    """Equation 4 with the zoom-out reconstruction, every weight of the paper's method 0.2."""
    with torch.no_grad():
        t_lr, t_in, t_out = (large(x) for x in (batch.lr, batch.zoom_in, batch.zoom_out))
    plain, out = student(batch.lr), student(batch.zoom_out)
    turned = Invertible(batch.transform.flags)
    consistent = turned.invert(student(turned.apply(batch.zoom_in)))
    auxiliary = l1_loss(consistent, t_in) + l1_loss(out, t_out)
    loss = l1_loss(plain, batch.hr) + 0.2 * l1_loss(plain, t_lr) + 0.2 * auxiliary
    return loss + l1_loss(out, batch.lr)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_readmes_loop_trains_any_network_by_augkds_loss(scale: int) -> None:
    student, large = shuffling(6, scale, 2), shuffling(9, scale, 3)
    start, frozen = deepcopy(student), deepcopy(large.state_dict())
    loader = pairs(scale, 3)
    optimiser = torch.optim.SGD(student.parameters(), 0.1)
    names = {"student": student, "large": large, "loader": loader, "scale": scale}
    exec(snippet(), names | {"optimiser": optimiser})
    # the same by the equation, without the package's methods
    generator = np.random.default_rng(0)
    for lr, hr in loader:
        batch = augkd.make_batch(lr, hr, scale, generator)
        gradients = torch.autograd.grad(by_hand(start, large, batch), [*start.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(start.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
    fresh = shuffling(6, scale, 2).state_dict()
    for key, value in student.state_dict().items():
        torch.testing.assert_close(value, start.state_dict()[key])
        assert not torch.equal(value, fresh[key])
    torch.testing.assert_close(large.state_dict(), frozen, rtol=0, atol=0)
    assert len([line for line in snippet().splitlines() if line.strip()]) <= 8


@pytest.mark.parametrize("name", [n for n, m in augkd.METHODS.items() if not hasattr(m, "bind")])
def test_methods_without_features_take_any_network(name: str) -> None:
    student, teacher = shuffling(4, 2, 0), augkd.Teacher(shuffling(5, 2, 1))
    batch = augkd.make_batch(*pairs(2, 1)[0], 2, np.random.default_rng(0))
    for options in [{}, {"updates": 2}] if name in ("kd", "augkd") else [{}]:
        terms = augkd.METHODS[name](**options)(student, teacher.see(batch), batch)
        for group in [terms] if isinstance(terms, dict) else terms:
            torch.autograd.backward(list(group.values()))
    assert all(p.grad is not None for p in student.parameters())


FACE = (
    "AugKD METHODS Teacher __version__ create_model load_checkpoint make_batch psnr_y ssim_y "
    "upscale"
)
CONSUMER = """
import importlib, pkgutil, sys
import numpy as np, torch
import augkd
print(*sorted(augkd.__all__), *(getattr(augkd, name) and "" for name in augkd.__all__))
for part in "augment data degrade distill errors metrics models options train".split():
    module = importlib.import_module(f"augkd.{part}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"augkd.{part}."):
        importlib.import_module(found.name)
print(*(name for name in sys.modules if name.startswith("augkd.study")))
loader, scale = [(torch.rand(2, 3, 12, 12), torch.rand(2, 3, 24, 24))], 2
size = {"scale": 2, "blocks": 1, "res_scale": 1.0}
student, large = (augkd.create_model("edsr", channels=c, **size) for c in (4, 6))
optimiser = torch.optim.SGD(student.parameters(), 0.1)
augkd.models.save_checkpoint(augkd.models.Path("w.safetensors"), student)
"""


def bare(folder: Path) -> Path:
    """The interpreter of an environment with the wheel, what its core declares, and no more."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "env", symlinks=True)
    (wheel,), (site,) = folder.glob("*.whl"), folder.glob("env/lib/python*/site-packages")
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "-q", "--python", str(python), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (ours,) = metadata.distributions(name="augkd", path=[str(site)])
    found, wanted = set[str](), [*map(Requirement, ours.requires or ())]
    while wanted:
        one = wanted.pop()
        if one.name not in found and (not one.marker or one.marker.evaluate({"extra": ""})):
            found.add(one.name)
            theirs = metadata.distribution(one.name)
            wanted += map(Requirement, theirs.requires or ())
            for name in {file.parts[0] for file in theirs.files or ()} - {"..", "__pycache__"}:
                if not (site / name).exists():  # a namespace that several share is there already
                    (site / name).symlink_to(str(theirs.locate_file(name)))
    assert (site / "augkd" / "py.typed").is_file()
    return python


def test_a_project_that_installs_the_wheel_runs_the_readmes_loop(tmp_path: Path) -> None:
    python = bare(tmp_path)

    def inside(command: str, *more: str) -> Any:
        command_line = [str(python), "-I", *command.split(), *more]  # without PYTHONPATH
        return subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True)

    done = inside("-c", CONSUMER + snippet())
    assert not done.returncode, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == [FACE, ""]
    with pytest.raises(AttributeError, match="module 'augkd' has no attribute 'Augkd'"):
        _ = augkd.Augkd
    for command in ("plan", "train edsr_x2", "budget", "export w.safetensors -o w.onnx"):
        done, extra = inside(f"-m augkd {command}"), "onnx" if "onnx" in command else "study"
        assert done.returncode == 2
        mend = rf"augkd: this needs \w+: pip install 'augkd\[{extra}\]'\n"
        assert re.fullmatch(mend, done.stderr), done.stderr
    assert not inside("-m augkd export w.safetensors -o w.pt2").returncode
    assert {file.name for file in tmp_path.glob("w.*")} == {"w.safetensors", "w.pt2"}
    program = (
        "import torch; print(*torch.export.load('w.pt2').module()(torch.rand(1, 3, 5, 7)).shape)"
    )
    alone = "; import sys; print('augkd' in sys.modules)"
    assert inside("-c", program + alone).stdout == "1 3 10 14\nFalse\n"
