"""AugKD in somebody's own loop, as the README shows it, and what importing it brings along."""

import re
import subprocess
import sys
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
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
STRANGERS = "augkd.study pandas pydantic yaml matplotlib dvc skimage scipy IPython"
BRINGS = """
import sys
import torch, numpy.random, PIL, safetensors, tqdm  # and what they bring
before = {name.split(".")[0] for name in sys.modules}
import augkd
face = [getattr(augkd, name) for name in augkd.__all__]
import augkd.train  # the rest of the core
print(*sorted(augkd.__all__))
print(*(name for name in sys.argv[1].split() if name in sys.modules))
brought = {name.split(".")[0] for name in sys.modules} - before - sys.stdlib_module_names
print(*(name for name in brought if name[0] != "_"))
"""


def test_the_core_brings_nothing_of_the_study() -> None:
    command = [sys.executable, "-c", BRINGS, STRANGERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    face, strangers, brought = done.stdout.split("\n")[:3]
    assert (face, strangers, brought) == (FACE, "", "augkd")
    with pytest.raises(AttributeError, match="module 'augkd' has no attribute 'Augkd'"):
        _ = augkd.Augkd
