"""A GPU's gradients against the CPU's; skipped where there is no GPU."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from augkd.data.sampler import make_batch
from augkd.distill import METHODS, Teacher
from augkd.models import create_model
from augkd.options import Optimiser, Training
from augkd.train import Member

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

PLAN: dict[str, Any] = {"steps": 1, "batch": 4, "patch": 16, "lr": 1e-3, "decay_every": 1}
PLAN |= {"seeds": 1, "ema": 0.9, "validate_every": 1, "precision": "float32"}


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def gradient(name: str, place: str) -> Tensor:
    """Of a method's first step, on the CPU."""
    device, plan, drawn = torch.device(place), Training(**PLAN), torch.Generator().manual_seed(3)
    hr = torch.rand(4, 3, 32, 32, generator=drawn)
    batch = make_batch(avg_pool2d(hr, 2), hr, 2, np.random.default_rng(0))
    batch = batch.each(lambda tensor: tensor.to(device))
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"channels": 8, "blocks": 3, "res_scale": 1.0}
    student, large = (create_model("edsr", scale=2, **sizes) for _ in ("student", "teacher"))
    teacher = Teacher(large.to(device))
    one = Member(name, student, METHODS[name](), large, Optimiser(), plan, device)
    assert one.update(batch, teacher.see(batch), plan.lr, 0)
    return torch.cat([p.grad.flatten() for p in one.trained if p.grad is not None]).cpu()


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_the_cpus(name: str) -> None:
    here, there = (gradient(name, place) for place in ("cuda", "cpu"))
    assert (here - there).norm() < 1e-4 * there.norm()
