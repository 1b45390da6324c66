"""NIQE (Mittal et al., 2013): how far an image's statistics lie from those of good photographs.

No reference image is needed; lower is better. Table 5 reports it. The protocol is BasicSR's,
which follows the authors' MATLAB code: blocks of 96 x 96 pixels of rounded luma, 18 features at
each of two scales, and the distance between two Gaussians, the image's and the pristine one.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from augkd.degrade.bicubic import bicubic
from augkd.metrics.fidelity import cropped, gaussian, to_luma, window_mean

_BLOCK = 96
_WINDOW = gaussian(7, 7 / 6)
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # the neighbours whose products are measured


def niqe(image: Tensor, border: int = 0) -> Tensor:
    """NIQE of each image (N,), float64.

    Args:
        image: (N, 3, H, W), uint8 or float in [0, 1]; floats are rounded to 8 bits first.
        border: pixels cut from each side. It moves the score (Set14's baboon: 5.73 with 0, 5.99
            with 4), so say which was used. What does not fill a block is cut at the right and
            at the bottom.

    Raises:
        ValueError: fewer than two blocks of 96 x 96 pixels remain.
    """
    luma = cropped(to_luma(image), border).round()
    height, width = luma.shape[-2:]
    rows, columns = height // _BLOCK, width // _BLOCK
    if rows * columns < 2:
        raise ValueError(f"NIQE needs 96 x 192 pixels inside the border, not {height} x {width}")
    luma = luma[..., : rows * _BLOCK, : columns * _BLOCK]
    half = 255 * bicubic(luma.float() / 255, 2, "symmetric")  # single precision: see normalised
    features = torch.cat([_features(luma, _BLOCK), _features(half.double(), _BLOCK // 2)], -1)
    return torch.stack([_distance(blocks) for blocks in features])


def normalised(luma: Tensor) -> Tensor:
    """(x - local mean) / (local deviation + 1) of (N, 1, H, W), edges replicated; float64.

    The mean and the mean square are in single precision, as is the halved image, because the
    reference has them so. Where an image is flat their difference is rounding noise, which is part
    of published scores: in double precision Set14's ppt3 moves by 0.06, most photographs by less
    than 0.001.
    """
    x = pad(luma, [len(_WINDOW) // 2] * 4, mode="replicate")
    mean = window_mean(x, _WINDOW).float()
    mean_square = window_mean(x * x, _WINDOW).float()
    deviation = (mean_square - mean * mean).abs().sqrt()
    return (luma - mean) / (deviation.double() + 1)


@lru_cache(maxsize=8)
def _shapes(device: torch.device) -> tuple[Tensor, Tensor]:
    """The shapes that the fit may choose, 0.2 to 10 by 0.001, and E|x|^2 / E[x^2] between them."""
    shape = torch.arange(9801, dtype=torch.float64, device=device) * 0.001 + 0.2
    log_ratio = 2 * torch.lgamma(2 / shape) - torch.lgamma(1 / shape) - torch.lgamma(3 / shape)
    ratio = log_ratio.exp()
    return shape, (ratio[1:] + ratio[:-1]) / 2


def fit_aggd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moment fit of an asymmetric generalised Gaussian to the samples (…, n) along the last axis.

    Returns:
        Shape, left scale and right scale, each (…). Samples on one side of 0 alone have no fit:
        their scales are NaN and their shape is the smallest, 0.2.
    """
    square = x * x
    negative, positive = x < 0, x > 0
    left = ((square * negative).sum(-1) / negative.sum(-1)).sqrt()
    right = ((square * positive).sum(-1) / positive.sum(-1)).sqrt()
    skew = left / right
    ratio = x.abs().mean(-1) ** 2 / square.mean(-1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape, between = _shapes(x.device)
    best = shape[torch.searchsorted(between, ratio.nan_to_num(0).contiguous())]  # the nearest
    scale = (0.5 * (torch.lgamma(1 / best) - torch.lgamma(3 / best))).exp()
    return best, left * scale, right * scale


def _features(luma: Tensor, size: int) -> Tensor:
    """18 features of each size x size block: (N, 1, H, W) to (N, blocks, 18)."""
    blocks = normalised(luma).squeeze(1).unfold(1, size, size).unfold(2, size, size).flatten(1, 2)
    shape, left, right = fit_aggd(blocks.flatten(-2))
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        product = blocks * blocks.roll(shift, (-2, -1))  # around within the block
        shape, left, right = fit_aggd(product.flatten(-2))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        features += [shape, mean, left, right]
    return torch.stack(features, -1)


@lru_cache(maxsize=8)
def _pristine(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (36,) and covariance (36, 36) of the pristine photographs' features."""
    with np.load(Path(__file__).with_name("niqe_pristine.npz"), allow_pickle=False) as file:
        mean, covariance = file["mu_pris_param"][0], file["cov_pris_param"]
    return torch.from_numpy(mean).to(device), torch.from_numpy(covariance).to(device)


def _distance(features: Tensor) -> Tensor:
    """From the pristine model to the features (blocks, 36) of an image's blocks.

    Features without a value (flat blocks) are left out of the mean, and their blocks out of the
    covariance; fewer than two whole blocks give NaN.
    """
    mean, covariance = _pristine(features.device)
    whole = features[~features.isnan().any(1)]
    if len(whole) < 2:
        return features.new_tensor(torch.nan)
    inverse = torch.linalg.pinv((covariance + torch.cov(whole.T)) / 2, rtol=1e-15)
    offset = mean - features.nanmean(0)
    squared: Tensor = offset @ inverse @ offset
    return squared.sqrt()
