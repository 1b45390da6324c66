"""BSRGAN's degradation (Zhang et al., ICCV 2021), which makes Table 5's low-resolution images.

Two blurs, two reductions, noise and JPEG in random order, then JPEG once more. Everything random
is drawn first, into a plain record; applying the record is then deterministic, so that a
degradation can be kept and replayed. The distributions are those of KAIR's
``degradation_bsrgan``, the default of the public code. Its camera stage does nothing as released
and is left out; its final random crop is the patch sampler's.

KAIR resizes and compresses with OpenCV. Linear and cubic resizing here are PyTorch's, equal to
``cv2.resize`` up to single-precision rounding. Area resizing is the exact mean over the covered
area: equal to OpenCV's when both axes shrink or both grow, but for columns or rows that start
exactly on a pixel's edge, where OpenCV's rounding can take the neighbour when enlarging. JPEG is
Pillow's, whose pixels were equal to OpenCV's at every quality tried.
"""

import io
import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from augkd.degrade.bicubic import bicubic

Filter = Literal["linear", "cubic", "area"]


def _draw_filter(generator: Generator) -> Filter:
    return get_args(Filter)[int(generator.integers(3))]  # type: ignore[no-any-return]


def gaussian_kernel(size: int, variances: tuple[float, float], angle: float = 0.0) -> Tensor:
    """A Gaussian on a (size, size) grid of odd size, summing to 1, float64.

    Args:
        variances: along the first and the second axis, in square pixels.
        angle: from the columns' direction to the first axis, in radians, towards higher rows.
    """
    reach = torch.arange(size, dtype=torch.float64) - size // 2
    row, column = reach[:, None], reach[None, :]
    first = column * math.cos(angle) + row * math.sin(angle)
    second = row * math.cos(angle) - column * math.sin(angle)
    # The floor stands for "no blur" and keeps a drawn 0 from dividing
    square = first**2 / max(variances[0], 1e-6) + second**2 / max(variances[1], 1e-6)
    kernel = torch.exp(-square / 2)
    kernel[kernel < torch.finfo(torch.float64).eps] = 0  # what float32 would hold as denormals
    return kernel / kernel.sum()


class Blur(NamedTuple):
    """Convolution with a Gaussian of the given size, variances and angle."""

    size: int
    variances: tuple[float, float]
    angle: float = 0.0

    @staticmethod
    def draw(scale: int, generator: Generator) -> "Blur":
        anisotropic = generator.random() < 0.5
        size = 2 * int(generator.integers(2, 12)) + 3
        if anisotropic:
            first, second = ((4 + scale) * generator.random(2)).tolist()
            return Blur(size, (first, second), math.pi * generator.random())
        variance = ((2 + 0.2 * scale) * generator.random()) ** 2
        return Blur(size, (variance, variance))

    def apply(self, image: Tensor) -> Tensor:
        return _filter(image, gaussian_kernel(self.size, self.variances, self.angle))


class Shrink(NamedTuple):
    """Resize to 1/factor of the present size, rounded down."""

    factor: float
    filter: Filter

    def apply(self, image: Tensor) -> Tensor:
        height, width = (max(1, int(side / self.factor)) for side in image.shape[-2:])
        return resize(image, height, width, self.filter).clamp(0, 1)


class Sample(NamedTuple):
    """Blur by a 25 x 25 Gaussian of deviation sigma, then every stride-th pixel.

    The kernel is shifted by (stride - 1) / 2, so that a sample stands for its block's middle.
    """

    sigma: float
    stride: int

    def apply(self, image: Tensor) -> Tensor:
        taps = gaussian_kernel(25, (self.sigma**2, self.sigma**2)).sum(0)
        position = (torch.arange(25) + (self.stride - 1) / 2).clamp(max=24)
        low, part = position.floor().long(), position.frac()
        taps = taps[low] * (1 - part) + taps[(low + 1).clamp(max=24)] * part  # linearly, as KAIR
        kernel = torch.outer(taps, taps)
        blurred = _filter(image, kernel / kernel.sum())
        return blurred[..., :: self.stride, :: self.stride].clamp(0, 1)


class Fit(NamedTuple):
    """Resize to the size of the LR image."""

    filter: Filter


class Noise(NamedTuple):
    """Normal noise with a covariance between R, G and B, drawn from its own seed.

    The covariance is in squares of the [0, 1] scale. It may be indefinite (KAIR takes absolute
    values of its entries); then the absolute eigenvalues count, as in numpy's sampling.
    """

    covariance: tuple[tuple[float, float, float], ...]
    seed: int

    @staticmethod
    def draw(generator: Generator) -> "Noise":
        level = int(generator.integers(2, 26)) / 255
        chance = generator.random()
        if chance < 0.4:  # the same in each channel
            covariance = np.full((3, 3), level**2)
        elif chance < 0.6:  # correlated between channels, always of the highest level
            basis, _ = np.linalg.qr(generator.random((3, 3)))
            covariance = np.abs((25 / 255) ** 2 * basis @ np.diag(generator.random(3)) @ basis.T)
        else:  # independent in each channel
            covariance = level**2 * np.eye(3)
        return Noise(tuple(map(tuple, covariance.tolist())), int(generator.integers(2**63)))

    def apply(self, image: Tensor) -> Tensor:
        values, vectors = np.linalg.eigh(np.array(self.covariance))
        white = np.random.default_rng(self.seed).standard_normal((3, *image.shape[-2:]))
        noise = np.einsum("ck,khw->chw", vectors * np.sqrt(np.abs(values)), white)
        return (image + torch.from_numpy(noise).to(image)).clamp(0, 1)


class Jpeg(NamedTuple):
    """JPEG there and back, after rounding to 8 bits."""

    quality: int

    @staticmethod
    def draw(generator: Generator) -> "Jpeg":
        return Jpeg(int(generator.integers(30, 96)))

    def apply(self, image: Tensor) -> Tensor:
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
            decoded = np.array(Image.open(file))
        return torch.from_numpy(decoded).permute(2, 0, 1).float() / 255


Step = Blur | Shrink | Sample | Fit | Noise | Jpeg


class Degradation(NamedTuple):
    """One drawn degradation."""

    scale: int  # LR images are 1/scale as large
    # how the image is halved before all else, if it is; "matlab" is ``bicubic``
    halve: Literal["linear", "cubic", "area", "matlab"] | None
    steps: tuple[Step, ...]  # what is done, in order; the last is JPEG

    @staticmethod
    def draw(scale: int, generator: Generator) -> "Degradation":
        """Draws a degradation for scale 2, 3 or 4."""
        if scale not in (2, 3, 4):
            raise ValueError(f"Degradation: scale {scale!r} is not supported: choose 2, 3 or 4")
        halve, rest = None, scale
        if scale == 4 and generator.random() < 0.25:
            halve = "matlab" if generator.random() < 0.5 else _draw_filter(generator)
            rest = 2
        order = generator.permutation(6).tolist()
        first, second = sorted((order.index(2), order.index(3)))
        order[first], order[second] = 2, 3  # the fit comes after the other reduction
        steps: list[Step] = []
        for operation in order:
            if operation in (0, 1):
                steps.append(Blur.draw(rest, generator))
            elif operation == 2 and generator.random() < 0.75:
                steps.append(Shrink(generator.uniform(1, 2 * rest), _draw_filter(generator)))
            elif operation == 2:
                steps.append(Sample(generator.uniform(0.1, 0.6 * rest), rest))
            elif operation == 3:
                steps.append(Fit(_draw_filter(generator)))
            elif operation == 4:
                steps.append(Noise.draw(generator))
            elif generator.random() < 0.9:
                steps.append(Jpeg.draw(generator))
        return Degradation(scale, halve, (*steps, Jpeg.draw(generator)))

    def apply(self, hr: Tensor) -> Tensor:
        """Degrades an image (3, H, W), uint8 or float in [0, 1].

        Computed on the CPU, in single precision, one image at a time: the same record gives the
        same pixels whatever device the image is on.

        Returns:
            (3, H // scale, W // scale) of the image's dtype and on its device, on 8-bit levels.
            Rows and columns of ``hr`` beyond a multiple of the scale are not used.
        """
        if hr.ndim != 3 or hr.shape[0] != 3 or min(hr.shape[1:]) < self.scale:
            raise ValueError(f"Degradation: expected RGB (3, H, W), not shape {tuple(hr.shape)}")
        height, width = (side // self.scale for side in hr.shape[1:])
        image = hr[:, : height * self.scale, : width * self.scale].detach().cpu()
        image = image.float() / 255 if hr.dtype == torch.uint8 else image.float()
        if self.halve == "matlab":
            image = bicubic(image, 2, "symmetric").clamp(0, 1)
        elif self.halve is not None:
            image = Shrink(2, self.halve).apply(image)
        for step in self.steps:
            if isinstance(step, Fit):
                image = resize(image, height, width, step.filter).clamp(0, 1)
            else:
                image = step.apply(image)
        if hr.dtype == torch.uint8:
            image = (image * 255).round()
        return image.to(hr.device, hr.dtype)


def _filter(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of each channel (C, H, W), the border mirrored about the edge pixels."""
    sides = ((0, 0), (len(kernel) // 2,) * 2, (len(kernel) // 2,) * 2)
    padded = torch.from_numpy(np.pad(image.numpy(), sides, "reflect"))
    return conv2d(padded[:, None], kernel.flip(0, 1).to(image)[None, None])[:, 0]


def resize(image: Tensor, height: int, width: int, filter: Filter) -> Tensor:
    """Resizes (C, H, W) without antialiasing, or to the mean over the covered area ("area")."""
    if filter == "area":
        sides = zip(image.shape[-2:], (height, width), strict=True)
        rows, columns = (_coverage(*pair).to(image) for pair in sides)
        return rows @ image @ columns.T
    mode = "bilinear" if filter == "linear" else "bicubic"
    return interpolate(image[None], size=(height, width), mode=mode)[0]


def _coverage(size: int, out: int) -> Tensor:
    """(out, size): which part of each output sample lies on which input sample."""
    edge = torch.arange(out + 1, dtype=torch.float64)[:, None] * (size / out)
    pixel = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edge[1:], pixel + 1) - torch.maximum(edge[:-1], pixel)
    return overlap.clamp_min(0) * (out / size)
