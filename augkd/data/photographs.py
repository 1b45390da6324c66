"""The photographs of installed packages that the study trains and tests on, with no download.

``photographs.csv`` beside this file lists them by name and SHA-256. Two images of mvtb-data that
are also in the benchmarks (58060 of B100, lena of Set14) are not in it, nor are its drawings,
calibration targets and noisy aerial pictures. The campus pictures overlap, so all of them train.
"""

import csv
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from augkd.degrade.bicubic import bicubic
from augkd.errors import UserError
from augkd.images import read_image

Split = Literal["train", "test"]
LIST = Path(__file__).with_name("photographs.csv")
DISTRIBUTIONS = {"mvtbdata": "mvtb-data", "skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Photograph:
    """One line of the list. ``shrink`` 2 halves a noisy 8-megapixel original."""

    name: str
    split: Split
    package: str
    path: str
    shrink: int
    sha256: str

    def locate(self) -> Path:
        """Where the file is installed.

        Raises:
            UserError: the package or the file is missing, or its content is not the listed one.
        """
        mend = f"install the locked version: pip install -r requirements.lock ({self.package})"
        spec = importlib.util.find_spec(self.package)  # finds without importing
        if spec is None or spec.origin is None:
            raise UserError(
                f"photograph {self.name}: package {DISTRIBUTIONS[self.package]} is not installed; "
                f"{mend}"
            )
        file = Path(spec.origin).parent / self.path
        if not file.is_file():
            raise UserError(f"photograph {self.name}: {file} is missing; {mend}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != self.sha256:
            raise UserError(
                f"photograph {self.name}: {file} has changed (its SHA-256 is not the one in "
                f"{LIST.name}); {mend}"
            )
        return file

    def read(self) -> Tensor:
        """(3, H, W) uint8 RGB."""
        image = read_image(self.locate())
        return image if self.shrink == 1 else bicubic(image, self.shrink)


def photographs(split: Split, first: int | None = None) -> Iterator[Photograph]:
    """The listed photographs of a split, in order; only the first ones if a number is given."""
    with LIST.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    for row in rows[:first]:
        yield Photograph(**{**row, "shrink": int(row["shrink"])})  # type: ignore[arg-type]
