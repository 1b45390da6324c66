"""MATLAB's bicubic: against BasicSR's floats, the published LR images, and exact fractions."""

import sys
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from augkd.degrade.bicubic import Edges, bicubic
from tests.numeric_data import golden, pairs


@pytest.mark.parametrize("up", [False, True])
def test_floats_equal_basicsr_borders_included(up: bool) -> None:
    values = golden("bicubic_up" if up else "bicubic_down")
    cases = [key for key in values if not key.endswith("input")]
    assert len(cases) >= 6
    for key in cases:
        image, scale = key.split(".")[0], int(key[-1])
        result = bicubic(values[f"{image}.input"], scale, "symmetric", up=up)
        torch.testing.assert_close(result, values[key], atol=2e-6, rtol=0)


def _keys(x: Fraction) -> Fraction:
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x <= 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def _imresize_line(line: list[int], factor: Fraction, mirror: bool) -> tuple[list[int], int]:
    """One line of MATLAB's imresize, in exact fractions: pixels, and how many were halves."""
    shrink, n = min(factor, Fraction(1)), len(line)
    width, period = 4 / shrink, [*line, *reversed(line)]
    result, halves = [], 0
    for x in range(1, ceil(n * factor) + 1):
        u = x / factor + Fraction(1, 2) * (1 - 1 / factor)
        left = floor(u - width / 2)
        indices = range(left, left + ceil(width) + 2)
        weights = [shrink * _keys(shrink * (u - i)) for i in indices]
        places = ((i - 1) % (2 * n) if mirror else min(max(i - 1, 0), n - 1) for i in indices)
        total = sum(period[j] * weight for j, weight in zip(places, weights, strict=True))
        value = Fraction(total) / sum(weights)
        halves += value.denominator == 2
        result.append(min(max(floor(value + Fraction(1, 2)), 0), 255))
    return result, halves


def _imresize(pixels: np.ndarray, factor: Fraction, mirror: bool) -> tuple[Tensor, int]:
    """Height first, then width, rounded to 8 bits after each; and how many were halves."""
    halves = 0
    for _ in range(2):
        lines = [_imresize_line(line.tolist(), factor, mirror) for line in pixels.T]
        pixels = np.array([line for line, _ in lines], np.uint8)
        halves += sum(count for _, count in lines)
    return torch.from_numpy(pixels), halves


@pytest.mark.parametrize("edges", ["replicate", "symmetric"])
@pytest.mark.parametrize("scale", [2, 3, 4, 5])
@pytest.mark.parametrize("up", [False, True])
def test_8_bit_equals_matlab_in_exact_fractions(
    scale: int, edges: Edges, up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(scale)
    pixels = rng.integers(0, 256, (9, 7) if up else (6 * scale + 1, 7 * scale - 1))
    pixels[:, ::4] = 255 * (pixels[:, ::4] > 127)  # overshoot to clamp
    image = torch.from_numpy(pixels.astype(np.uint8))
    factor = Fraction(scale) if up else Fraction(1, scale)
    expected, _ = _imresize(pixels, factor, edges == "symmetric")
    assert torch.equal(bicubic(image, scale, edges, up=up), expected)
    module = sys.modules[bicubic.__module__]
    for size in (1, 5):  # in blocks of so many rows and columns, as large images are resized
        monkeypatch.setattr(module, "_BLOCK", size)
        monkeypatch.setattr(module, "_blocks", module._blocks.__wrapped__)
        assert torch.equal(bicubic(image, scale, edges, up=up), expected)
        monkeypatch.undo()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_long_lines_and_halves_round_up(scale: int) -> None:
    """Lines longer than one block of the computation, of levels whose means are often halves."""
    line = 64 * np.random.default_rng(5).integers(0, 4, 300 * scale)
    pixels = np.repeat(line[None], scale, axis=0)
    expected, halves = _imresize(pixels, Fraction(1, scale), mirror=False)
    assert halves >= 5 or scale == 3  # where weights are fractions of 81, nothing is a half
    assert torch.equal(bicubic(torch.from_numpy(pixels.astype(np.uint8)), scale), expected)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("dataset", ["Set5", "Set14"])
def test_published_lr_images_bit_for_bit(dataset: str, scale: int) -> None:
    for hr, lr in pairs(dataset, scale):
        assert torch.equal(bicubic(hr, scale), lr)


def test_the_inside_equals_pytorch() -> None:
    image = torch.rand(2, 3, 203, 311, generator=torch.Generator().manual_seed(0)).double()
    inside = (..., slice(2, -2), slice(2, -2))
    for scale in (2, 3, 4):
        size = (203 // scale, 311 // scale)
        whole = image[..., : scale * size[0], : scale * size[1]]
        expected = interpolate(whole, size=size, mode="bicubic", antialias=True)
        torch.testing.assert_close(
            bicubic(whole, scale)[inside], expected[inside], atol=1e-9, rtol=0
        )


sides = st.integers(1, 40)


@settings(deadline=None, max_examples=40)
@given(sides, sides, st.integers(1, 5), st.booleans(), st.sampled_from(["replicate", "symmetric"]))
def test_shapes_and_constants(height: int, width: int, scale: int, up: bool, edges: Edges) -> None:
    shape = (height * scale, width * scale) if up else (ceil(height / scale), ceil(width / scale))
    for value in (0, 77, 255):
        image = torch.full((2, height, width), value, dtype=torch.uint8)
        result = bicubic(image, scale, edges, up=up)
        assert result.shape == (2, *shape)
        assert bool((result == value).all())
        floats = bicubic(image.float() / 255, scale, edges, up=up)
        torch.testing.assert_close(floats, torch.full_like(floats, value / 255), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=30)
@given(sides, sides, st.integers(2, 4), st.booleans())
def test_8_bit_is_the_float_result_rounded_twice(
    height: int, width: int, scale: int, up: bool
) -> None:
    # values that no overshoot takes out of 0 ... 255
    image = torch.randint(80, 176, (height, width), dtype=torch.uint8)
    difference = bicubic(image, scale, up=up).double() - bicubic(image.double(), scale, up=up)
    # half a level from the second rounding, and from the first what the weights' absolute sum,
    # at most 1.25, makes of another half
    assert float(difference.abs().max()) <= 0.5 + 0.625 + 1e-9


def test_edges_matter_at_the_border_alone() -> None:
    image = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(1))
    for scale in (2, 3, 4):
        change = (bicubic(image, scale) - bicubic(image, scale, "symmetric")).abs()
        assert float(change[:, 2:-2, 2:-2].max()) == 0
        assert float(change.max()) > 1e-3


def test_reduced_precision_modes_do_not_reach_it_and_gradients_pass() -> None:
    image = torch.rand(2, 3, 24, 24, requires_grad=True)
    expected = bicubic(image, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bicubic(image, 2), expected)
    assert bicubic(image.half(), 2).dtype == torch.float16
    (gradient,) = torch.autograd.grad(expected.sum(), image)
    # each output is a weighted mean: its weights sum to 1
    assert float(gradient.sum()) == pytest.approx(expected.numel(), rel=1e-5)


@pytest.mark.parametrize(
    ("image", "scale", "edges", "message"),
    [
        (torch.zeros(8, 8), 0, "replicate", "scale"),
        (torch.zeros(8, 8), 1.5, "replicate", "scale"),
        (torch.zeros(8, 8), 2, "wrap", "edges"),
        (torch.zeros(8), 2, "replicate", "H, W"),
        (torch.zeros(0, 8), 2, "replicate", "H, W"),
        (torch.zeros(8, 8, dtype=torch.int64), 2, "replicate", "uint8 or floats"),
    ],
)
def test_refuses(image: Tensor, scale: int, edges: Edges, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bicubic(image, scale, edges)
