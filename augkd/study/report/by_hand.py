"""What the page of comparisons by hand shows: crops of students' answers, exact to the last level.

templates/compare.js draws it. Students differ by a few levels, no more than what a lossy picture is
off by: a crop is one lossless WebP of HR above what each answer has more than the one before it."""

import json
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from augkd.study.report.pictures import SIDE, Example
from augkd.study.report.style import METHOD_NAMES

MOST, LIMIT = 160, 2_900_000  # side of a crop, HR pixels; bytes of all crops together


def by_hand(chosen: Sequence[tuple[Example, str]]) -> str:
    """HTML of windows of examples, by their kinds, with as much round them as ``LIMIT`` allows."""
    side, text = MOST, "x" * LIMIT
    while side and len(text) >= LIMIT:
        crops = [_crop(example, kind, side) for example, kind in chosen]
        text = json.dumps({"crops": crops, "names": {"hr": "HR"} | METHOD_NAMES})
        smaller = min(side - 4, int(side * (LIMIT / len(text)) ** 0.5))
        side = max(smaller, SIDE) if side > SIDE else 0  # windows themselves are never cut
    said = "Two answers are compared here in the report: reports/BUDGET/compare.html."
    return f'<div class="compare"><script type="application/json">{text}</script>{said}</div>'


def _crop(example: Example, kind: str, side: int) -> dict[str, Any]:
    """A window with its surroundings, ``side`` wide where the image is: answers are listed from top
    to bottom of the strip ``pixels``; HR pixels of the whole: size; box, window (x, y, w, h)."""
    size = np.array(example.hr.shape[1:])
    window = example.windows.loc[kind, ["row", "column"]].to_numpy(int)
    extent = np.minimum(side, size)
    start = np.clip(window + (SIDE - extent) // 2, 0, size - extent)
    (top, left), (bottom, right) = start, start + extent
    images = {"hr": example.hr, **example.answers}
    small = Image.fromarray(example.hr.permute(1, 2, 0).numpy())
    small.thumbnail((128, 128))
    strip = stacked([image[:, top:bottom, left:right] for image in images.values()])
    crop = {
        "key": "/".join((*example[:3], kind)),
        "answers": list(images),
        "size": size[::-1].tolist(),
    }
    crop["pixels"] = _address(strip, "webp", lossless=True, quality=25, method=2)
    crop["whole"] = _address(small, "jpeg", quality=80)
    crop["box"] = [*start[::-1].tolist(), *extent[::-1].tolist()]
    return crop | {"window": [*window[::-1].tolist(), SIDE, SIDE]}


def stacked(images: Sequence[Tensor]) -> Image.Image:
    """The first image (3, h, w), uint8, above what each other has more than the one before it,
    around 128 and modulo 256."""
    stack = torch.stack([*images]).permute(0, 2, 3, 1).numpy()
    rows = np.concatenate([stack[:1], np.diff(stack, axis=0) + np.uint8(128)])
    return Image.fromarray(rows.reshape(-1, *stack.shape[2:]))


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    file = BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
