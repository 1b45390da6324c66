"""Images and golden values that the tests of the numeric core share."""

import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
BENCHMARKS = Path(os.environ.get("AUGKD_BENCHMARKS", ROOT / "data" / "benchmarks"))


def golden(name: str) -> dict[str, Tensor]:
    """Outputs of public reference implementations: see tests/golden/NUMERIC.md."""
    return load_file(GOLDEN / f"{name}.safetensors")


def full_golden(name: str) -> Path:
    """A golden file that is not kept here, where AUGKD_GOLDEN has it."""
    path = Path(os.environ.get("AUGKD_GOLDEN", "")) / name
    if "AUGKD_GOLDEN" not in os.environ or not path.exists():
        pytest.skip(f"AUGKD_GOLDEN has no {name}")
    return path


def benchmark(dataset: str) -> list[Path]:
    """The HR images of a benchmark set, where AUGKD_BENCHMARKS has it."""
    images = sorted((BENCHMARKS / dataset / "HR").glob("*.png"))
    if not images:
        pytest.skip(f"AUGKD_BENCHMARKS has no {dataset}/HR")
    return images


def pairs(dataset: str, scale: int) -> list[tuple[Tensor, Tensor]]:
    """Its HR images, cut to a multiple of the scale, and the LR images published with them."""
    found = []
    for path in benchmark(dataset):
        lr = read(path.parents[1] / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png")
        height, width = (side * scale for side in lr.shape[-2:])
        found.append((read(path)[..., :height, :width], lr))
    return found


def read(path: Path) -> Tensor:
    """(1, 3, H, W) uint8."""
    return to_tensor(np.array(Image.open(path).convert("RGB")))


def photograph(name: str) -> Tensor:
    """One of scikit-image's photographs, (1, 3, H, W) uint8."""
    return to_tensor(getattr(skimage.data, name)())


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def to_numpy(image: Tensor) -> np.ndarray:
    """(H, W, 3) of a batch of one."""
    return image[0].permute(1, 2, 0).numpy()
