"""PSNR and SSIM on luma: against BasicSR's values, scikit-image, and the literature's table."""

import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from augkd.degrade import bicubic
from augkd.metrics import psnr_y, ssim_y, to_luma
from tests.numeric_data import full_golden, pairs, photograph, to_numpy, to_tensor


def test_equal_basicsr() -> None:
    images = load_file(full_golden("metrics_pairs.safetensors"))
    index = json.loads(full_golden("index.json").read_text())
    (case,) = (c for c in index["cases"] if c["file"] == "metrics_pairs.safetensors")
    for pair in case["expected"]:
        names = (f"pair{pair['pair']}.{name}" for name in ("test", "reference"))
        sr, hr = (images[name].permute(2, 0, 1)[None] for name in names)
        for expected in pair["values"]:
            border = expected["border"]
            assert float(psnr_y(sr, hr, border)) == pytest.approx(expected["psnr_y"], abs=1e-4)
            assert float(ssim_y(sr, hr, border)) == pytest.approx(expected["ssim_y"], abs=1e-5)


def _noisy(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 12, pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


def _blurred(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(gaussian_filter(pixels, (1.2, 1.2, 0)))


def _compressed(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=40)
    return np.array(Image.open(file))


@pytest.mark.parametrize("worsen", [_noisy, _blurred, _compressed])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_equal_scikit_image(name: str, worsen: Callable[[np.ndarray], np.ndarray]) -> None:
    """scikit-image with the window of Wang et al. on its own BT.601 luma, borders cut by hand."""
    hr = photograph(name)[..., 40:171, 60:203]
    sr = to_tensor(worsen(to_numpy(hr)))
    for border in (0, 2, 3, 4):
        inside = slice(border, 131 - border), slice(border, 143 - border)
        a, b = (rgb2ycbcr(to_numpy(image)[inside])[..., 0] for image in (sr, hr))
        psnr = peak_signal_noise_ratio(b, a, data_range=255)
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        ssim = structural_similarity(a, b, data_range=255, **window)
        assert float(psnr_y(sr, hr, border)) == pytest.approx(psnr, abs=1e-9)
        assert float(ssim_y(sr, hr, border)) == pytest.approx(ssim, abs=1e-9)


# Bicubic in the usual protocol on these copies of the sets. Set5: as in the literature (Timofte
# et al., 2014). Set14: the literature's 30.24, 27.55, 26.00 come from other copies of some images.
TABLE = {
    "Set5": {2: (33.67, 0.9303), 3: (30.40, 0.8689), 4: (28.43, 0.8111)},
    "Set14": {2: (30.33, 0.8699), 3: (27.63, 0.7759), 4: (26.09, 0.7048)},
}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("dataset", TABLE)
def test_bicubic_scores(dataset: str, scale: int) -> None:
    scores = []
    for hr, lr in pairs(dataset, scale):
        sr = bicubic(lr, scale, up=True)
        scores.append((float(psnr_y(sr, hr, scale)), float(ssim_y(sr, hr, scale))))
    psnr, ssim = np.mean(scores, axis=0)
    assert psnr == pytest.approx(TABLE[dataset][scale][0], abs=0.01)
    assert ssim == pytest.approx(TABLE[dataset][scale][1], abs=0.0002)


def test_known_colours_a_known_error_and_none() -> None:
    """BT.601: black 16, white 235, and the three primaries' weights. Grey 100 against grey 110
    differs by 10 * 219 / 255 in luma."""
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    luma = to_luma(colours.to(torch.uint8)[:, :, None, None]).flatten()
    assert luma.tolist() == pytest.approx([16, 235, 81.481, 144.553, 40.966])
    grey, image = torch.full((1, 3, 12, 12), 100).byte(), photograph("coffee")[..., :40, :40]
    assert float(psnr_y(grey, grey + 10, 0)) == pytest.approx(20 * math.log10(255**2 / 2190))
    assert psnr_y(image, image, 2).tolist() == [math.inf]
    assert ssim_y(image, image, 2).tolist() == [1.0]


def test_a_batch_is_scored_image_by_image_and_floats_as_8_bits() -> None:
    hr = torch.cat([photograph(name)[..., 50:90, 60:110] for name in ("chelsea", "coffee")])
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(3))
    floats = hr / 255 + 0.05 * noise  # leaves [0, 1] here and there
    eight_bit = (floats.double() * 255).round().clamp(0, 255).to(torch.uint8)
    for measure in (psnr_y, ssim_y):
        together = measure(floats, hr, 2)
        assert together.shape == (2,)
        assert torch.equal(together, measure(eight_bit, hr / 255, 2))
        for i in range(2):
            alone = measure(eight_bit[i : i + 1], hr[i : i + 1], 2)
            assert float(alone) == pytest.approx(float(together[i]), rel=1e-12)


@pytest.mark.parametrize(
    ("shapes", "dtype", "border", "message"),
    [
        (((1, 3, 20, 20), (1, 3, 20, 21)), torch.float32, 0, "one shape"),
        (((3, 20, 20), (3, 20, 20)), torch.float32, 0, "N, 3, H, W"),
        (((1, 1, 20, 20), (1, 1, 20, 20)), torch.float32, 0, "N, 3, H, W"),
        (((1, 3, 20, 20), (1, 3, 20, 20)), torch.float32, 10, "border"),
        (((1, 3, 20, 20), (1, 3, 20, 20)), torch.float32, -1, "border"),
        (((1, 3, 20, 20), (1, 3, 20, 20)), torch.int32, 0, "uint8"),
    ],
)
def test_refuses(shapes: Any, dtype: torch.dtype, border: int, message: str) -> None:
    sr, hr = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    for measure in (psnr_y, ssim_y):
        with pytest.raises(ValueError, match=message):
            measure(sr, hr, border)
    with pytest.raises(ValueError, match="11 x 11"):  # SSIM's window
        ssim_y(torch.zeros(1, 3, 18, 30), torch.zeros(1, 3, 18, 30), 4)
