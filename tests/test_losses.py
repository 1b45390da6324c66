"""The pure losses against public implementations, by value and gradient (golden/losses.json)."""

import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from augkd.distill.at import attention_loss, attention_map
from augkd.distill.csd import contrast
from augkd.distill.fakd import _unit, affinity_loss
from augkd.distill.fitnet import hint_loss
from augkd.distill.rkd import rkd_angle, rkd_distance
from tests.numeric_data import GOLDEN, golden

# from the index's field "tolerance": (relative, for the value), (absolute, relative, gradient)
TOLERANCE = dict.fromkeys(("fitnet", "fakd"), (1e-5, 1e-7, 1e-4))
TOLERANCE |= dict.fromkeys(("at", "csd"), (1e-5, 1e-8, 1e-4)) | {"rkd": (1e-4, 1e-6, 1e-3)}


def test_index_states_the_tolerances_used_here() -> None:
    cases = json.loads((GOLDEN / "losses.json").read_text())["cases"]
    stated = {case["file"][5:-12]: case["tolerance"] for case in cases}
    assert stated.keys() == TOLERANCE.keys()
    for name, (value, absolute, relative) in TOLERANCE.items():
        expected = [f"loss rel {value:.0e}", f"abs {absolute:.0e} + rel {relative:.0e}"]
        for text in expected:
            assert text.replace("e-0", "e-") in stated[name]


Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: list[tuple[str, Loss, str]] = [
    ("fitnet", lambda s, t: hint_loss(s, t) * t.square().mean(), "loss"),
    ("at", attention_loss, "loss"),
    ("rkd", rkd_distance, "distance"),
    ("rkd", rkd_angle, "angle"),
    ("rkd", lambda s, t: 25 * rkd_distance(s, t) + 50 * rkd_angle(s, t), "total_25_50"),
    ("fakd", affinity_loss, "loss"),
    ("fakd", lambda s, t: affinity_loss(s, t, 1), "loss"),
]
TAPS, TWO = ["tap0", "tap1", "tap2"], ["c0", "c1"]
INPUTS = {"fitnet": TWO, "rkd": TWO, "at": TAPS, "fakd": TAPS}
CASES = [(name, loss, case, term) for name, loss, term in LOSSES for case in INPUTS[name]]


@pytest.mark.parametrize(("name", "loss", "case", "term"), CASES)
def test_value_and_gradient(name: str, loss: Loss, case: str, term: str) -> None:
    data = golden(f"loss_{name}")
    student, teacher = (data[f"{case}.{role}"] for role in ("student", "teacher"))
    gradient = f"{case}.grad_student" if term == "loss" else f"{case}.{term}.grad_student"
    result = loss(student.requires_grad_(True), teacher)
    (own,) = torch.autograd.grad(result, student)
    rtol, grad_atol, grad_rtol = TOLERANCE[name]
    expected = data[f"{case}.{term}"][0]
    torch.testing.assert_close(result.detach(), expected, rtol=rtol, atol=0.0)
    torch.testing.assert_close(own, data[gradient], rtol=grad_rtol, atol=grad_atol)


@pytest.mark.parametrize("tap", TAPS)
def test_maps_and_affinities(tap: str) -> None:
    data = golden("loss_at")
    torch.testing.assert_close(attention_map(data[f"{tap}.student"]), data[f"{tap}.map_student"])
    data = golden("loss_fakd")
    for role in ("student", "teacher"):
        expected = data[f"{tap}.affinity_{role}"].squeeze(1)
        unit = _unit(data[f"{tap}.{role}"])
        torch.testing.assert_close(unit.mT @ unit, expected, rtol=0.0, atol=1e-6)


def test_contrast() -> None:
    data = golden("loss_csd")
    levels = [f"level{i}" for i in range(5)]
    student = [data[f"{level}.student"].requires_grad_(True) for level in levels]
    teacher = [data[f"{level}.teacher"] for level in levels]
    loss = contrast(student, teacher, [data[f"{level}.negative"] for level in levels])
    rtol, grad_atol, grad_rtol = TOLERANCE["csd"]
    torch.testing.assert_close(loss.detach(), data["teacher_detached.loss"][0], rtol=rtol, atol=0.0)
    for level, own in zip(levels, torch.autograd.grad(loss, student), strict=True):
        expected = data[f"teacher_detached.{level}.grad_student"]
        torch.testing.assert_close(own, expected, rtol=grad_rtol, atol=grad_atol)


@settings(deadline=None)
@given(images=st.integers(1, 5), entries=st.integers(1, 400), seed=st.integers(0, 99))
def test_affinity_loss_does_not_depend_on_the_grouping(
    images: int, entries: int, seed: int
) -> None:
    torch.manual_seed(seed)
    student = torch.randn(images, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(images, 5, 3, 2, dtype=torch.float64)
    whole, parts = affinity_loss(student, teacher), affinity_loss(student, teacher, entries)
    torch.testing.assert_close(parts, whole)
    (one,), (other,) = (torch.autograd.grad(value, student) for value in (whole, parts))
    torch.testing.assert_close(other, one)


@settings(deadline=None)
@given(scale=st.floats(1e-2, 1e3), seed=st.integers(0, 99))
def test_scale_of_the_features_is_immaterial_where_the_docstrings_say_so(
    scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    student, teacher = torch.randn(2, 4, 3, 2, 5, dtype=torch.float64)
    embedded = student.flatten(1), teacher.flatten(1)
    for loss, (own, target) in [
        (attention_loss, (student, teacher)),
        (affinity_loss, (student, teacher)),
        (rkd_distance, embedded),
        (rkd_angle, embedded),
    ]:
        scaled = loss(scale * own, target)
        torch.testing.assert_close(scaled, loss(own, target), rtol=1e-5, atol=1e-8)


def test_contrast_by_hand() -> None:
    """One level: |2 - 1| / (|4 - 1| + |0 - 1|), weight 1. The others' values: test_methods."""
    own, target, far = torch.ones(1, 1, 1, 1), 2 * torch.ones(1, 1, 1, 1), torch.tensor([4.0, 0.0])
    loss = contrast([own], [target], [far.view(2, 1, 1, 1)])
    torch.testing.assert_close(loss, torch.tensor(0.25))


def test_relations_within_identical_embeddings_are_finite() -> None:
    same = torch.ones(4, 3, requires_grad=True)
    loss = rkd_distance(same, torch.randn(4, 3)) + rkd_angle(same, torch.randn(4, 3))
    (gradient,) = torch.autograd.grad(loss, same)
    assert torch.isfinite(loss)
    assert gradient.isfinite().all()
