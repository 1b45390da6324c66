"""MATLAB's ``imresize(…, 'bicubic')``, the degradation of every benchmark in the paper.

Two details decide whether a low-resolution image equals the published one bit for bit: MATLAB
resizes 8-bit images one axis at a time and rounds to 8 bits after each, and its border either
repeats the edge pixel ("replicate", the benchmark sets) or mirrors the image ("symmetric",
today's MATLAB and BasicSR).

At an integer scale every weight is a fraction of one denominator, so 8-bit images are resized in
whole numbers: the same result on every device, and halves are found exactly.
"""

from functools import lru_cache
from math import gcd
from typing import Literal, get_args

import torch
from torch import Tensor

Edges = Literal["replicate", "symmetric"]

_BLOCK = 64  # output samples per matrix product: wide enough for BLAS, narrow enough to skip zeros


def _cubic(k: Tensor, n: int) -> Tensor:
    """16 n^3 times Keys' cubic kernel (a = -0.5) at k / 2n, for whole k."""
    k = k.abs()
    near = 3 * k**3 - 10 * n * k**2 + 16 * n**3
    far = -(k**3) + 10 * n * k**2 - 32 * n**2 * k + 32 * n**3
    return torch.where(k <= 2 * n, near, far * (k <= 4 * n))


@lru_cache(maxsize=256)
def _blocks(
    size: int, scale: int, up: bool, edges: Edges, device: torch.device
) -> tuple[list[tuple[int, Tensor]], int]:
    """The resize of one axis as a banded matrix, cut into blocks of output samples.

    Returns:
        (first input sample, weights (samples, _BLOCK) float64 of whole numbers) for each block,
        and the number that the weights of an output sample sum to.
    """
    # The centre of output i lies at (i + 1/2) / scale - 1/2 when enlarging, in one of scale phases,
    # else at scale * (i + 1/2) - 1/2 under a kernel that is scale times as wide. In units of
    # 1 / (2 * scale) of the kernel's argument all distances from it are whole numbers.
    offsets = torch.arange(-2 * scale - 2, 3 * scale + 3)  # of input samples
    if up:
        distances = 2 * scale * offsets - 2 * torch.arange(scale)[:, None] + scale - 1
    else:
        distances = 2 * offsets[None] - scale + 1
    weights = _cubic(distances, scale)
    weights //= gcd(*weights.flatten().tolist())
    blocks = []
    for samples in torch.split(torch.arange(size * scale if up else -(-size // scale)), _BLOCK):
        origins = samples // scale if up else samples * scale
        near = weights[samples % len(weights)]
        columns, taps = near.nonzero(as_tuple=True)
        rows = origins[columns] + offsets[taps]
        if edges == "symmetric":
            rows = rows.remainder(2 * size)
            rows = torch.minimum(rows, 2 * size - 1 - rows)
        rows = rows.clamp(0, size - 1)
        first, last = int(rows.min()), int(rows.max())
        matrix = torch.zeros(last + 1 - first, len(samples), dtype=torch.float64)
        matrix.index_put_((rows - first, columns), near[columns, taps].double(), accumulate=True)
        blocks.append((first, matrix.to(device)))
    return blocks, int(weights[0].sum())


def bicubic(image: Tensor, scale: int, edges: Edges = "replicate", up: bool = False) -> Tensor:
    """Resizes the last two axes to 1/scale, or by scale with ``up=True``.

    Args:
        image: (…, H, W), uint8 or floating point, on any device with float64.
        scale: a positive integer.
        edges: how the border is extended.
        up: enlarge instead of reduce.

    Returns:
        (…, ceil(H/scale), ceil(W/scale)) or (…, scale*H, scale*W), of the same dtype. uint8 is
        rounded after each axis, bit for bit as MATLAB does; floats are neither rounded nor
        clamped, so they can leave [0, 1].

    Raises:
        ValueError: the scale, the edges, the shape or the type is not as above.
    """
    if scale < 1 or scale != int(scale):
        raise ValueError(f"bicubic: scale must be a positive integer, not {scale}")
    if edges not in get_args(Edges):
        raise ValueError(f"bicubic: edges must be one of {get_args(Edges)}, not {edges!r}")
    exact, shape = image.dtype == torch.uint8, tuple(image.shape)
    if len(shape) < 2 or 0 in shape or not (exact or image.is_floating_point()):
        wanted = "pixels (…, H, W), uint8 or floats"
        raise ValueError(f"bicubic: expected {wanted}, not {image.dtype} of shape {shape}")
    # float64 also keeps autocast and the reduced-precision modes of matrix products away
    x, scale = image.double(), int(scale)
    (rows, total), (columns, _) = (_blocks(n, scale, up, edges, image.device) for n in shape[-2:])

    def resized(y: Tensor) -> Tensor:
        # MATLAB rounds halves away from zero; negatives become 0
        return y.mul_(2).add_(total).div_(2 * total).floor_().clamp_(0, 255) if exact else y / total

    lines = []
    for top, down in rows:  # since all of a photograph in float64, enlarged, would be gigabytes
        y = resized(down.T @ x.narrow(-2, top, len(down)))
        parts = [y.narrow(-1, left, len(across)) @ across for left, across in columns]
        lines.append(resized(torch.cat(parts, -1)).to(image.dtype))
    return torch.cat(lines, -2)
