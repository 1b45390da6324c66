"""Figures made of pictures: a board to draw diagrams on, crops of answers side by side, and the
page on which two answers are compared by hand (templates/compare.js draws it).

Photographs are embedded at their own resolution and enlarged without smoothing (``use_style``);
which parts of which images are compared is chosen by a rule (``choose``), never by hand.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from augkd.data.sampler import Batch, PatchSampler
from augkd.degrade.bicubic import bicubic
from augkd.metrics import psnr_y, to_luma
from augkd.metrics.fidelity import cropped
from augkd.study.params import Study
from augkd.study.report.style import COLOURS, INK, METHOD_NAMES
from augkd.study.runs import centre, load_student, load_teacher, pick_device
from augkd.study.score import scored_images

Point = tuple[float, float]
SIDE, AREA = 48, 96  # of a window, HR pixels, and of the centre that is compared, LR pixels
MOST, LIMIT = 160, 2_900_000  # side of a crop by hand, HR pixels; bytes of all of them together
STUDENTS = ("scratch", "kd", "fakd", "csd", "augkd")  # compared where the cohort has them
OPERATIONS = {
    "as it is": (0, 0, 0, 0),
    "colours inverted": (1, 0, 0, 0),
    "flipped vertically": (0, 1, 0, 0),
    "flipped horizontally": (0, 0, 1, 0),
    "rotated by 90°": (0, 0, 1, 1),
    "rotated by 180°": (0, 1, 1, 0),
    "rotated by 270°": (0, 1, 0, 1),
}
"""The three kinds of F in Section 3.4, as ``Invertible`` composes them (counter-clockwise)."""


class Example(NamedTuple):
    """The compared area of one image, uint8 (3, H, W), and its ``windows`` as of ``choose``."""

    cohort: str
    dataset: str
    image: str
    hr: Tensor
    answers: dict[str, Tensor]
    psnr: dict[str, float]  # PSNR-Y of all of it, by method
    windows: pd.DataFrame


def window_psnr(sr: Tensor, hr: Tensor, side: int, border: int) -> Tensor:
    """PSNR-Y in dB of every window (rows, columns) of a grid of ``side`` / 4 from the border on."""
    a, b = (to_luma(cropped(image[None], border)) for image in (sr, hr))
    error = avg_pool2d((a - b).square(), side, side // 4)[0, 0]
    return 10 * torch.log10(255.0**2 / error.clamp(min=1e-3))  # 78 dB: equal


def choose(
    answers: Mapping[str, Tensor], hr: Tensor, students: Sequence[str], side: int, border: int
) -> pd.DataFrame:
    """The two windows of an image that are looked at, of all on the grid of ``window_psnr``.

    Of the quarter that bicubic enlargement does worst, the *widest* has the largest spread, the
    *typical* the median one. The spread is the interquartile range, over ``students``, of the
    root-mean-square error of luma, in 8-bit levels: in PSNR differences that nobody can see would
    come first, and in the whole range one failed student would choose every window. Columns: row
    and column of the upper left corner in HR pixels, spread, and PSNR-Y in dB by method.
    """
    maps = {method: window_psnr(sr, hr, side, border) for method, sr in answers.items()}
    error = torch.stack([255 * 10 ** (-maps[method] / 20) for method in students])
    spread = error.quantile(0.75, 0) - error.quantile(0.25, 0)
    row, column = border + side // 4 * np.indices(spread.shape)
    columns = {"row": row, "column": column, "spread": spread, **maps}
    table = pd.DataFrame({name: np.ravel(values) for name, values in columns.items()})
    candidates = table[table["bicubic"] <= table["bicubic"].quantile(0.25)]
    candidates = candidates.sort_values("spread", kind="stable")
    chosen = candidates.iloc[[-1, len(candidates) // 2]]
    return chosen.set_axis(["widest", "typical"]).rename_axis("window")


@torch.no_grad()
def compare(
    study: Study, name: str, methods: Sequence[str] = STUDENTS, every: bool = False
) -> list[Example]:
    """Centres of a cohort's test images, with the first seed's answers: most differing first. The
    answers of ``methods`` choose the windows; those of ``every`` method are shown, or theirs."""
    cohort, device, examples = study.cohort(name), pick_device(), []
    scale, edges, seed = cohort.scale, study.params.data.edges, study.seeds_of(name)[0]
    students = [method for method in methods if method in cohort.methods]
    shown = cohort.methods if every else students
    networks: dict[str, nn.Module] = {m: load_student(study, name, m, seed, device) for m in shown}
    networks["teacher"] = load_teacher(study, cohort, device)
    for dataset, split, image, lr, hr in scored_images(study, cohort):
        if hr is None or split != "test" or min(hr.shape[-2:]) < SIDE + 2 * scale:
            continue
        low, high = centre(lr, hr, scale, AREA)
        answers = {"bicubic": bicubic(low[None], scale, edges, up=True)[0]}
        inputs = low[None].to(device).float().div(255)
        answers |= {method: _as_8_bit(net(inputs)[0]).cpu() for method, net in networks.items()}
        psnr = {m: float(psnr_y(sr[None], high[None], scale)) for m, sr in answers.items()}
        windows = choose(answers, high, students, SIDE, scale)
        examples.append(Example(name, dataset, image, high, answers, psnr, windows))
    return sorted(examples, key=lambda example: example.windows["spread"].max(), reverse=True)


def summarise(examples: Sequence[Example]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The windows of all examples by rank, and by method mean gains in PSNR-Y (dB) over scratch: in
    each kind of window, and in the whole centres."""
    if not examples:
        return pd.DataFrame(index=pd.Index([], name="rank")), pd.DataFrame()
    ranked = {(rank, e.dataset, e.image): e.windows for rank, e in enumerate(examples, 1)}
    windows = pd.concat(ranked, names=["rank", "dataset", "image"])
    wholes = pd.DataFrame([example.psnr for example in examples])
    table = windows.groupby("window", sort=False)[[*wholes]].mean().T.add_suffix(" windows")
    table["whole centres"] = wholes.mean()
    gains = (table - table.loc["scratch"]).drop("scratch").rename_axis("method")
    windows = windows.round(4).reset_index(["dataset", "image", "window"])
    return windows, gains.rename_axis(columns=None)


def telling_batch(sampler: PatchSampler) -> Batch:
    """Of 200 draws, those whose F inverts and turns: that of most zoom-in contrast."""

    def contrast(batch: Batch) -> float:
        inverted, rows, columns, transposed = batch.transform.flags[0]
        return float((inverted & transposed & (rows ^ columns)) * batch.zoom_in[0].std())

    return max(map(sampler.draw, range(200)), key=contrast)


def levels(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference of images in [0, 1], in 8-bit levels."""
    return float((a - b).abs().mean()) * 255


def _as_8_bit(image: Tensor) -> Tensor:
    return image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).byte()


class Board:
    """A sheet of ``width`` x ``height`` inches; positions are in inches from its lower left."""

    def __init__(self, width: float, height: float) -> None:
        self.axes = plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.axes.set(xlim=(0, width), ylim=(0, height), autoscale_on=False)

    def image(
        self, at: Point, image: Tensor, label: str = "", side: float = 1.0, **style: object
    ) -> None:
        """A framed image (3, H, W), uint8 or in [0, 1], its longer side ``side``, label below."""
        x, y = at
        height, width = (side * n / max(image.shape[1:]) for n in image.shape[1:])
        pixels = _as_8_bit(image).permute(1, 2, 0).numpy()
        artist = self.axes.imshow(pixels, extent=(x, x + width, y, y + height), aspect="auto")
        artist.set_gid(f"picture{len(self.axes.images)}")  # else equal pictures share an id
        self.frame(at, width, height, INK, 0.8)
        self.text((x + width / 2, y - 0.06), label, va="top", **style)

    def frame(self, at: Point, width: float, height: float, colour: str, line: float = 1.4) -> None:
        self.axes.add_patch(Rectangle(at, width, height, fill=False, ec=colour, lw=line, zorder=3))

    def text(self, at: Point, text: str, **options: object) -> None:
        style = {"ha": "center", "fontsize": 8.5, "linespacing": 1.25} | options
        self.axes.text(*at, text, **style)  # type: ignore[arg-type]

    def line(self, *points: Point, colour: str = INK, width: float = 1.1) -> None:
        self.axes.plot(*zip(*points, strict=True), "-", color=colour, lw=width)

    def arrow(self, *points: Point, colour: str = INK) -> None:
        """A line through the points, with a head at the last."""
        self.line(*points[:-1], colour=colour)
        head = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0, "lw": 1.1}
        self.axes.annotate("", points[-1], points[-2], arrowprops=head | {"color": colour})

    def through(self, *points: Point, text: str, at: Point, colour: str) -> None:
        """An arrow with a box (a network, an operation) in its way, ``at`` a level part of it."""
        x, y = at
        half = 0.17 if len(text) < 2 or text.startswith("$") else 0.035 * len(text) + 0.1
        before = next(k for k in range(1, len(points)) if points[k][1] == y and points[k][0] > x)
        self.line(*points[:before], (x - half - 0.01, y), colour=colour)
        self.arrow((x + half, y), *points[before:], colour=colour)
        box = FancyBboxPatch((x - half, y - 0.14), 2 * half, 0.28, "round,pad=0,rounding_size=0.06")
        box.set(fc="none", ec=colour, lw=1.3)
        self.axes.add_patch(box)
        self.text((x, y - 0.01), text, va="center", color=colour, fontsize=9)


def show_windows(
    examples: Sequence[Example],
    kind: str,
    notes: Mapping[tuple[str, str, str], str] = {},
    page: str = "compare.ipynb",
) -> None:
    """Of each image HR with the window's frame, then the window of HR and of every answer.

    ``kind`` is "widest" or "typical". PSNR-Y within the window stands below each answer, and its
    note (by dataset, image and method); the best student is framed. Each leads to ``page``.
    """
    if not examples:
        print("Nothing to show: this budget trains no such students, or has fewer test images.")
        return
    columns = (len(examples[0].answers) + 4) // 2  # the whole, HR, and the answers in two rows
    cell, side = 1.56, 1.48
    row = side + 0.1 + 0.17 * (3 if notes else 2)
    top = len(examples) * (2 * row + 0.12)
    board = Board(columns * cell, top)
    for cohort, dataset, name, hr, answers, _, windows in examples:
        y, x = windows.loc[[kind], ["row", "column"]].to_numpy()[0]
        longest = max(hr.shape[1:])
        inch, low = side / longest, top - hr.shape[1] * side / longest
        small = [round(128 * n / longest) for n in hr.shape[1:]]
        whole = interpolate(hr[None].float(), small, mode="area")[0].round().byte()
        board.image((0, low), whole, "", side)
        board.frame((x * inch, top - (y + SIDE) * inch), SIDE * inch, SIDE * inch, COLOURS[1], 1.8)
        text = f"{dataset}\n{name}\nspread {windows['spread'][kind]:.2f} levels"
        board.text((0, low - 0.08), text, ha="left", va="top")
        psnr = windows.loc[kind, list(answers)]
        best = psnr.drop(["bicubic", "teacher"]).idxmax()
        for k, (method, image) in enumerate({"hr": hr, **answers}.items()):
            at = (1 + k % (columns - 1)) * cell, top - k // (columns - 1) * row - side
            style = {"color": COLOURS[2], "fontweight": "bold"} if method == best else {}
            called = METHOD_NAMES.get(method, method)
            label = f"{called}\n{psnr[method]:.2f} dB" if method in answers else "HR"
            label += notes.get((dataset, name, method), "")
            board.image(at, image[:, y : y + SIDE, x : x + SIDE], label, side, **style)
            to = quote(f"{cohort}/{dataset}/{name}/{kind}")
            to += f"&a={'hr' if method == 'bicubic' else 'bicubic'}&b={method}"
            board.axes.images[-1].set_url(f"{page}#image={to}" if page else None)
            if method == best:
                board.frame(at, side, side, COLOURS[2], 2.2)
        top -= 2 * row + 0.12


def by_hand(chosen: Sequence[tuple[Example, str]]) -> str:
    """HTML of windows of examples, by their kinds, with as much round them as ``LIMIT`` allows.

    Students differ by a few levels, no more than what a lossy picture is off by: a crop is exact,
    one lossless WebP of HR above what each answer has more than the one before it.
    """
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
    crops = torch.stack([image[:, top:bottom, left:right] for image in images.values()])
    stack = crops.permute(0, 2, 3, 1).numpy()
    # HR above what each answer has more than the one before it, around 128 and modulo 256
    rows = np.concatenate([stack[:1], np.diff(stack, axis=0) + np.uint8(128)])
    strip = Image.fromarray(rows.reshape(-1, *stack.shape[2:]))
    crop = {
        "key": "/".join((*example[:3], kind)),
        "answers": list(images),
        "size": size[::-1].tolist(),
    }
    crop["pixels"] = _address(strip, "webp", lossless=True, quality=25, method=2)
    crop["whole"] = _address(small, "jpeg", quality=80)
    crop["box"] = [*start[::-1].tolist(), *extent[::-1].tolist()]
    return crop | {"window": [*window[::-1].tolist(), SIDE, SIDE]}


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    file = BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
