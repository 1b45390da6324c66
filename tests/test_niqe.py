"""NIQE: against BasicSR's scores, those of a plain evaluation, and fits known by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import gamma
from scipy.stats import laplace, norm
from torch.nn.functional import interpolate

import augkd.metrics
from augkd.metrics import niqe
from augkd.metrics.niqe import fit_aggd, normalised
from tests.numeric_data import benchmark, full_golden, photograph, read

PRISTINE = Path(augkd.metrics.__file__).with_name("niqe_pristine.npz")


def test_the_pristine_model_is_the_published_file() -> None:
    """SHA-256 of niqe_pris_params.npz in PyPI's basicsr 1.4.2 and mmagic 1.2.0."""
    digest = hashlib.sha256(PRISTINE.read_bytes()).hexdigest()
    assert digest == "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296"


def test_baboon_scores_as_published() -> None:
    """BasicSR's documentation gives 5.7296 for Set14's baboon, as does the authors' MATLAB."""
    (path,) = (path for path in benchmark("Set14") if path.stem == "baboon")
    assert f"{float(niqe(read(path))):.4f}" == "5.7296"


def test_equal_basicsr() -> None:
    images = {f"Set14 {path.name}": path for path in benchmark("Set14")}
    for expected in json.loads(full_golden("niqe.json").read_text())["scores"]:
        image = read(images[expected["image"]])
        for border in (0, 4):
            score = float(niqe(image, border))
            assert score == pytest.approx(expected[f"border{border}"], abs=expected["tolerance"])


# of a plain evaluation block by block, by scipy's correlate and gamma and scikit-image's luma
PLAIN = {"chelsea": 2.841752, "coffee": 5.633210, "rocket": 9.010357}


@pytest.mark.parametrize("name", PLAIN)
def test_equals_a_plain_evaluation(name: str) -> None:
    image = photograph(name)[..., 5:293, 7:391]  # 288 x 384
    assert float(niqe(image)) == pytest.approx(PLAIN[name], abs=1e-3)


def test_border_and_what_fills_no_block_are_cut() -> None:
    image = photograph("chelsea")
    inside = niqe(image[..., 4 : 4 + 96 * 3, 4 : 4 + 96 * 4])
    assert niqe(image[..., :310, :451], border=4).item() == pytest.approx(inside.item(), abs=1e-9)
    assert abs(float(niqe(image) - inside)) > 0.01
    with pytest.raises(ValueError, match="96 x 192"):
        niqe(torch.zeros(1, 3, 100, 195), border=4)


def test_a_batch_is_scored_image_by_image_and_floats_as_8_bits() -> None:
    """Flat images have no score, and do not harm their batch."""
    images = torch.cat([photograph(name)[..., :192, :288] for name in ("chelsea", "coffee")])
    together = niqe(torch.cat([images, torch.full_like(images[:1], 128)]) / 255)
    assert together.dtype == torch.float64
    assert together.isnan().tolist() == [False, False, True]
    for image, score in zip(images, together, strict=False):
        assert float(niqe(image[None])) == pytest.approx(float(score), rel=1e-9)


def test_noise_and_blur_score_worse_than_the_photograph() -> None:
    image = photograph("coffee")[..., :384, :576]
    noisy = image / 255 + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    small = interpolate(image / 255, scale_factor=0.25, mode="area")
    blurred = interpolate(small, scale_factor=4, mode="bicubic")
    plain, *worse = niqe(torch.cat([image / 255, noisy, blurred])).tolist()
    assert min(worse) > plain + 1


def test_normalised_constants_vanish_and_a_step_does_not() -> None:
    luma = torch.full((1, 1, 20, 20), 16.0, dtype=torch.float64)
    assert float(normalised(luma).abs().max()) == 0
    luma[..., 10:] = 235
    result = normalised(luma)
    assert float(result[..., :7].abs().max()) == 0  # the window reaches 3 pixels
    assert float(result[..., 9].max()) < -0.5
    torch.testing.assert_close(result[..., 9], -result[..., 10], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("distribution", "shape", "scale"), [(norm, 2, 2**0.5), (laplace, 1, 1)])
def test_fit_finds_known_distributions(distribution: Any, shape: float, scale: float) -> None:
    """A normal is a generalised Gaussian of shape 2 and scale sqrt(2), a Laplace of 1 and 1.

    Asymmetric: a side three times as wide holds three times as many samples.
    """
    x = torch.from_numpy(distribution.ppf((np.arange(100_000) + 0.5) / 100_000))
    wider = torch.cat([x[x > 0], (3 * x[x < 0]).repeat(3)])
    for sample, left in ((x, scale), (wider, 3 * scale)):
        expected = (shape, left, scale)
        assert [float(v) for v in fit_aggd(sample)] == pytest.approx(expected, rel=3e-3)


def test_fit_of_two_values() -> None:
    """-2, -2, 2, 2: E|x|^2 / E[x^2] = 1 is beyond every shape, so the largest, 10, is chosen."""
    shape, left, right = fit_aggd(torch.tensor([-2.0, -2.0, 2.0, 2.0], dtype=torch.float64))
    scale = 2 * (gamma(0.1) / gamma(0.3)) ** 0.5
    assert float(shape) == pytest.approx(10)
    assert (float(left), float(right)) == pytest.approx((scale, scale))
