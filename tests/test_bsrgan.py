"""BSRGAN's degradation: its parts against KAIR, OpenCV and scipy, its draws, its replay."""

from collections import Counter
from itertools import combinations
from math import pi
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import convolve
from torch import Tensor

from augkd.degrade import Degradation, bsrgan
from augkd.degrade.bsrgan import Blur, Filter, Fit, Jpeg, Noise, Sample, Shrink, gaussian_kernel
from tests.numeric_data import golden, photograph

# golden/blur_kernels: size and deviation, or size, variances and angle
ISOTROPIC = [(7, 0.15), (7, 1.0), (11, 1.7), (15, 2.4), (25, 2.8), (21, 0.6)]
ANISOTROPIC = [
    *((7, (1.0, 2.0), 0.3), (15, (6.0, 0.5), 1.1), (25, (7.5, 3.0), 2.6)),
    *((11, (4.0, 1.0), 0.0), (21, (5.0, 0.8), pi / 2), (15, (3.0, 3.0), 1.9)),
]
KERNELS = {f"iso{i}": (size, (s**2, s**2), 0.0) for i, (size, s) in enumerate(ISOTROPIC)}
KERNELS |= {f"aniso{i}": kernel for i, kernel in enumerate(ANISOTROPIC)}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_kair(name: str) -> None:
    expected = golden("blur_kernels")[name]
    torch.testing.assert_close(gaussian_kernel(*KERNELS[name]), expected, atol=1e-9, rtol=0)


def test_no_blur_is_the_identity() -> None:
    image = torch.rand(3, 9, 9)
    torch.testing.assert_close(Blur(7, (0.0, 0.0)).apply(image), image)


@pytest.mark.parametrize("key", [key for key in golden("cv2_resize") if key != "input"])
def test_resizing_equals_opencv(key: str) -> None:
    values, (name, size) = golden("cv2_resize"), key.split(".")
    height, width = map(int, size.split("x"))
    result = bsrgan.resize(values["input"], height, width, cast(Filter, name))
    torch.testing.assert_close(result, values[key], atol=5e-6, rtol=0)


def _image(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))


def _convolved(image: Tensor, kernel: np.ndarray) -> Tensor:
    """By scipy, in double precision."""
    channels = [convolve(channel, kernel, mode="mirror") for channel in image.double().numpy()]
    return torch.from_numpy(np.stack(channels))


@pytest.mark.parametrize("side", [3, 13, 30])
def test_blur_equals_scipy_even_where_the_kernel_is_larger_than_the_image(side: int) -> None:
    image, kernel = _image(side, side + 2), gaussian_kernel(21, (7.0, 2.0), 0.6).numpy()
    result = Blur(21, (7.0, 2.0), 0.6).apply(image).double()
    torch.testing.assert_close(result, _convolved(image, kernel), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("stride", "sigma"), [(2, 0.7), (3, 1.5), (4, 2.2), (4, 0.1)])
def test_sampling_equals_scipy(stride: int, sigma: float) -> None:
    """KAIR's way: the kernel is interpolated at shifted positions, then every stride-th pixel."""
    image, position = _image(24, 36), np.arange(25.0)
    kernel = gaussian_kernel(25, (sigma**2, sigma**2)).numpy()
    shifted = np.minimum(position + (stride - 1) / 2, 24)
    grid = np.stack(np.meshgrid(shifted, shifted, indexing="ij"), -1)
    kernel = RegularGridInterpolator((position, position), kernel)(grid)
    expected = _convolved(image, kernel / kernel.sum())[:, ::stride, ::stride]
    result = Sample(sigma, stride).apply(image)
    assert result.shape == (3, 24 // stride, 36 // stride)
    torch.testing.assert_close(result.double(), expected, atol=2e-6, rtol=0)


def test_sampling_stands_for_the_middle_of_its_block() -> None:
    ramp = (torch.arange(48) / 48).expand(3, 48, 48)
    middles = ramp.unfold(2, 4, 4).mean(-1)[:, ::4]
    sampled = Sample(1.0, 4).apply(ramp)
    torch.testing.assert_close(sampled[..., 3:-4], middles[..., 3:-4], atol=1e-5, rtol=0)


def test_noise_has_its_covariance_and_replays() -> None:
    """Where that is the same in each channel, so is the noise."""
    covariance = ((4e-4, 1e-4, 0.0), (1e-4, 3e-4, -5e-5), (0.0, -5e-5, 1e-4))
    noise = Noise(covariance, seed=5)
    grey = torch.full((3, 300, 300), 0.5)
    residual = noise.apply(grey) - grey
    measured = torch.cov(residual.flatten(1).double())
    torch.testing.assert_close(measured, torch.tensor(covariance).double(), atol=8e-6, rtol=0)
    assert torch.equal(noise.apply(grey), noise.apply(grey))
    assert not torch.equal(noise.apply(grey), Noise(covariance, seed=6).apply(grey))
    assert float(residual.mean().abs()) < 2e-4
    result = Noise(((1e-3,) * 3,) * 3, seed=1).apply(grey)
    torch.testing.assert_close(result[0], result[1], atol=1e-6, rtol=0)
    assert float(result.std()) > 0.02


def test_jpeg_costs_more_at_lower_quality_and_little_at_high() -> None:
    image = photograph("coffee")[0, :, 100:164, 200:264] / 255
    errors = [float((Jpeg(q).apply(image) - image).square().mean().sqrt()) for q in (95, 60, 30)]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.1
    assert errors[0] < 0.02


@settings(deadline=None, max_examples=25)
@given(*(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4])), *2 * [st.integers(4, 50)])
def test_replays_to_the_bit_from_its_seed(seed: int, scale: int, height: int, width: int) -> None:
    hr = (255 * _image(height, width)).to(torch.uint8)
    drawn = Degradation.draw(scale, np.random.default_rng(seed))
    again = Degradation.draw(scale, np.random.default_rng(seed))
    assert drawn == again
    lr = drawn.apply(hr)
    assert lr.shape == (3, height // scale, width // scale)
    assert lr.dtype == torch.uint8
    assert torch.equal(again.apply(hr), lr)
    floats = drawn.apply(hr / 255)
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().to(torch.uint8), lr)
    torch.testing.assert_close(floats, lr / 255, atol=1e-7, rtol=0)  # on 8-bit levels


PHOTO = photograph("astronaut")[0, :, 30:126, 170:266]
PLAIN: tuple[bsrgan.Step, ...] = (Fit("area"), Jpeg(95))
STEPS: list[bsrgan.Step] = [Blur(15, (4.0, 1.0), 0.5), Sample(1.2, 2), Jpeg(30)]
STEPS += [Shrink(3.0, "cubic"), Shrink(3.0, "linear")]
STEPS += [Noise(((1e-3, 0, 0), (0, 1e-3, 0), (0, 0, 1e-3)), 3)]


@pytest.mark.parametrize("step", STEPS)
def test_each_step_shows_in_the_result(step: bsrgan.Step) -> None:
    plain = Degradation(2, None, PLAIN).apply(PHOTO).float()
    changed = Degradation(2, None, (step, *PLAIN)).apply(PHOTO).float()
    assert changed.shape == plain.shape == (3, 48, 48)
    assert 0.5 < float((changed - plain).abs().mean()) < 40


def test_order_and_halving_show_in_the_result() -> None:
    blur, jpeg = Blur(11, (3.0, 3.0)), Jpeg(30)
    drawn = [Degradation(4, None, (jpeg, blur, *PLAIN))]
    halves: tuple[Any, ...] = (None, "matlab", "linear")
    drawn += [Degradation(4, halve, (blur, jpeg, *PLAIN)) for halve in halves]
    results = [one.apply(PHOTO).float() for one in drawn]
    for one, other in combinations(results, 2):
        assert float((one - other).abs().mean()) > 0.3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_distribution_of_the_draws(scale: int) -> None:
    """The probabilities and ranges of KAIR's degradation_bsrgan; 5 standard errors of slack."""
    n = 3000
    draws = [Degradation.draw(scale, np.random.default_rng([scale, i])) for i in range(n)]

    def share(count: int, expected: float, of: int = n) -> None:
        assert abs(count / of - expected) < 5 * (expected * (1 - expected) / of) ** 0.5

    def uniform(values: list[float]) -> None:
        """Drawn from [0, 1] and nothing beyond: the mean and the ends."""
        assert abs(np.mean(values) - 0.5) < 5 * (1 / 12 / len(values)) ** 0.5
        assert 0 <= min(values) < 0.03
        assert 0.97 < max(values) <= 1

    halved = [d for d in draws if d.halve is not None]
    if scale == 4:
        share(len(halved), 0.25)
        share(sum(d.halve == "matlab" for d in halved), 0.5, len(halved))
    else:
        assert not halved
    kinds = [[type(step) for step in d.steps] for d in draws]
    assert all(k[-1] is Jpeg and k.count(Blur) == 2 and k.count(Noise) == 1 for k in kinds)
    twice = [k for k in kinds if k.count(Jpeg) == 2]
    share(len(twice), 0.9)
    share(sum(k[0] is Blur for k in twice), 1 / 3, len(twice))
    share(sum(Shrink in k for k in kinds), 0.75)
    assert all(k.count(Shrink) + k.count(Sample) == 1 for k in kinds)
    assert all(k.index(Fit) > k.index(Shrink if Shrink in k else Sample) for k in kinds)

    steps = [(2 if d.halve else scale, step) for d in draws for step in d.steps]
    blurs = [(rest, step) for rest, step in steps if isinstance(step, Blur)]
    assert {blur.size for _, blur in blurs} == set(range(7, 27, 2))
    turned = [(rest, blur) for rest, blur in blurs if blur.angle]
    share(len(turned), 0.5, len(blurs))
    round_ = [(rest, blur) for rest, blur in blurs if not blur.angle]
    assert all(blur.variances[0] == blur.variances[1] for _, blur in round_)
    uniform([blur.variances[0] ** 0.5 / (2 + 0.2 * rest) for rest, blur in round_])
    uniform([value / (4 + rest) for rest, blur in turned for value in blur.variances])
    uniform([blur.angle / pi for _, blur in turned])

    samples = [(rest, s) for rest, s in steps if isinstance(s, Sample)]
    assert all(s.stride == rest for rest, s in samples)
    uniform([(s.sigma - 0.1) / (0.6 * rest - 0.1) for rest, s in samples])
    uniform([(s.factor - 1) / (2 * r - 1) for r, s in steps if isinstance(s, Shrink)])
    filters = Counter(s.filter for _, s in steps if isinstance(s, Fit))
    for name in get_args(Filter):
        share(filters[name], 1 / 3)
    assert {s.quality for _, s in steps if isinstance(s, Jpeg)} == set(range(30, 96))

    noises = [np.array(s.covariance) for _, s in steps if isinstance(s, Noise)]
    grey = [c for c in noises if np.ptp(c) == 0]
    colour = [c for c in noises if np.count_nonzero(c) == 3]
    share(len(grey), 0.4)
    share(len(colour), 0.4)
    assert {round(255 * c[0, 0] ** 0.5) for c in grey + colour} == set(range(2, 26))
    correlated = [c for c in noises if np.ptp(c) and np.count_nonzero(c) == 9]
    assert len(correlated) == n - len(grey) - len(colour)
    traces = [float(np.trace(c)) / (25 / 255) ** 2 for c in correlated]  # sums of three U(0, 1)
    assert np.mean(traces) == pytest.approx(1.5, abs=5 * 0.5 / len(traces) ** 0.5)
    assert len({s.seed for _, s in steps if isinstance(s, Noise)}) == n


def test_refuses_other_shapes_and_scales() -> None:
    for shape in ((1, 3, 8, 8), (1, 8, 8), (3, 1, 8)):
        with pytest.raises(ValueError, match="3, H, W"):
            Degradation(2, None, PLAIN).apply(torch.rand(shape))
    with pytest.raises(ValueError, match="choose 2, 3 or 4"):
        Degradation.draw(8, np.random.default_rng(0))
