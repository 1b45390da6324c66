"""Figures made of pictures: a board to draw diagrams on, and crops of answers side by side.

Photographs are embedded at their own resolution, and enlarged without smoothing by whatever
shows them: small files that stay sharp at any zoom. Words and lines are vectors.

Which parts of which images the visual comparisons show: by a rule, never by hand.

Answers are compared over the centre of each test image, with students of the first seed. The
windows of an image lie on a grid of a quarter of their side. One in four is a candidate: those
that bicubic enlargement does worst, since there is little to see in a flat sky. Of these

* the *widest* is the one over which the students differ most: its spread, the interquartile
  range over students of the root-mean-square error of luma, is the largest. In PSNR, which is
  relative to the error, differences that nobody can see would come first; in the whole range, one
  student that failed would choose every window;
* the *typical* is the one whose spread is the median of all candidates'.

Images are ranked by the spread of their widest window. No method is favoured, but the widest
windows show differences larger than they mostly are: ``mean_gains`` tells by how much.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from augkd.augment import Invertible
from augkd.data.sampler import Batch, PatchSampler
from augkd.degrade.bicubic import bicubic
from augkd.metrics import psnr_y, to_luma
from augkd.metrics.fidelity import cropped
from augkd.study.params import Study
from augkd.study.report.style import COLOURS, INK, METHOD_NAMES
from augkd.study.runs import centre, load_student, load_teacher, pick_device
from augkd.study.score import scored_images

STUDENTS = ("scratch", "kd", "fakd", "csd", "augkd")
"""Who is compared, where the cohort has it."""

OPERATIONS = {
    "colours inverted": (1, 0, 0, 0),
    "flipped vertically": (0, 1, 0, 0),
    "flipped horizontally": (0, 0, 1, 0),
    "rotated by 90°": (0, 0, 1, 1),
    "rotated by 180°": (0, 1, 1, 0),
    "rotated by 270°": (0, 1, 0, 1),
}
"""The three kinds of F in Section 3.4, as ``Invertible`` composes them (counter-clockwise)."""


@dataclass(frozen=True)
class Window:
    """A square of the compared area of an image.

    Attributes:
        row, column, side: its top left corner and side, HR pixels.
        spread: interquartile range of the students' RMSE of luma, 8-bit levels.
        psnr: PSNR-Y in dB within it, by method, bicubic and teacher among them.
    """

    row: int
    column: int
    side: int
    spread: float
    psnr: dict[str, float]

    def crop(self, image: Tensor) -> Tensor:
        """The window of an image (…, H, W) of the compared area."""
        rows, columns = slice(self.row, self.row + self.side), slice(self.column, None)
        return image[..., rows, columns][..., : self.side]


@dataclass(frozen=True)
class Example:
    """One image: ``hr`` and ``answers`` by method, uint8 (3, H, W), and PSNR-Y of all of it."""

    dataset: str
    image: str
    hr: Tensor
    answers: dict[str, Tensor]
    psnr: dict[str, float]
    widest: Window
    typical: Window


def window_psnr(sr: Tensor, hr: Tensor, side: int, border: int) -> Tensor:
    """PSNR-Y in dB of every window (rows, columns); the first has its corner at the border.

    Args:
        sr, hr: (3, H, W), uint8 or float in [0, 1].
        side: of a window, HR pixels; the next one lies a quarter of it further.
        border: pixels left out at each side.
    """
    a, b = (to_luma(cropped(image[None], border)) for image in (sr, hr))
    error = avg_pool2d((a - b).square(), side, side // 4)[0, 0]
    return 10 * torch.log10(255.0**2 / error.clamp(min=1e-3))  # 78 dB: equal


def choose(
    answers: Mapping[str, Tensor], hr: Tensor, students: Sequence[str], side: int, border: int
) -> tuple[Window, Window]:
    """The widest and the typical window of an image, by the rule above.

    Args:
        answers: (3, H, W) by method, "bicubic" among them; the windows hold PSNRs of all.
        hr: (3, H, W), larger than a window and its borders.
        students: whose answers span the spread.
    """
    maps = {method: window_psnr(sr, hr, side, border) for method, sr in answers.items()}
    error = torch.stack([255 * 10 ** (-maps[method] / 20) for method in students])
    spread = (error.quantile(0.75, 0) - error.quantile(0.25, 0)).flatten()
    base = maps["bicubic"].flatten()
    candidates = (base <= base.quantile(0.25)).nonzero().flatten()
    order = candidates[spread[candidates].argsort(stable=True)]
    columns = maps["bicubic"].shape[1]

    def window(index: int) -> Window:
        row, column = divmod(index, columns)
        psnr = {method: float(values[row, column]) for method, values in maps.items()}
        corner = (border + row * (side // 4), border + column * (side // 4))
        return Window(*corner, side, float(spread[index]), psnr)

    return window(int(order[-1])), window(int(order[len(order) // 2]))


def load_pair(
    study: Study, name: str, methods: Sequence[str] = STUDENTS, device: str | None = None
) -> tuple[dict[str, nn.Module], nn.Module]:
    """Students of a cohort, of the first seed and of those methods that it has; its teacher."""
    cohort, on = study.cohort(name), torch.device(device) if device else pick_device()
    students: dict[str, nn.Module] = {
        method: load_student(study, name, method, 0, on)
        for method in methods
        if method in cohort.methods
    }
    return students, load_teacher(study, cohort, on)


@torch.no_grad()
def compare(study: Study, name: str, side: int = 48, area: int = 96) -> list[Example]:
    """Every test image of a cohort, those on which students differ most first.

    Args:
        study: with the cohort's checkpoints and the prepared images.
        name: of the cohort.
        side: of a window, HR pixels.
        area: side of the centre that is compared, LR pixels; smaller images are taken whole.
    """
    cohort, device = study.cohort(name), pick_device()
    scale, edges = cohort.scale, study.params.data.edges
    students, teacher = load_pair(study, name)
    networks = {**students, "teacher": teacher}
    examples = []
    for dataset, split, image, lr, hr in scored_images(study, cohort):
        if hr is None or split != "test" or min(hr.shape[-2:]) < side + 2 * scale:
            continue
        low, high = centre(lr, hr, scale, area)
        answers = {"bicubic": bicubic(low[None], scale, edges, up=True)[0]}
        inputs = low[None].to(device).float().div(255)
        answers |= {method: _as_8_bit(net(inputs)[0]).cpu() for method, net in networks.items()}
        psnr = {m: float(psnr_y(sr[None], high[None], scale)) for m, sr in answers.items()}
        windows = choose(answers, high, list(students), side, scale)
        examples.append(Example(dataset, image, high, answers, psnr, *windows))
    return sorted(examples, key=lambda example: -example.widest.spread)


def mean_gains(examples: Sequence[Example], reference: str = "scratch") -> pd.DataFrame:
    """Gain in PSNR-Y (dB) over a student, mean over images, by what is looked at.

    Returns:
        A row a method; columns "widest windows", "typical windows", "whole centres".
    """
    rows = [
        {"method": method, "seen": seen, "gain": psnr[method] - psnr[reference]}
        for example in examples
        for seen, psnr in (
            ("widest windows", example.widest.psnr),
            ("typical windows", example.typical.psnr),
            ("whole centres", example.psnr),
        )
        for method in psnr
        if method != reference
    ]
    table = pd.DataFrame(rows).pivot_table("gain", "method", "seen", sort=False)
    return table.rename_axis(columns=None)


def window_table(examples: Sequence[Example]) -> pd.DataFrame:
    """The windows of all examples: rank, dataset, image, kind, place, spread, PSNR-Y by method."""
    return pd.DataFrame(
        [
            {
                "dataset": example.dataset,
                "image": example.image,
                "window": kind,
                "row": window.row,
                "column": window.column,
                "spread": round(window.spread, 4),
                **{method: round(psnr, 4) for method, psnr in window.psnr.items()},
            }
            for example in examples
            for kind, window in (("widest", example.widest), ("typical", example.typical))
        ],
        index=pd.Index([r for r in range(1, len(examples) + 1) for _ in (0, 1)], name="rank"),
    )


@torch.no_grad()
def consistency(student: nn.Module, teacher: nn.Module, images: Tensor) -> pd.DataFrame:
    """How far the student is from the teacher where F acts on its input alone (Section 3.4).

    Args:
        student, teacher: (N, 3, h, w) in [0, 1] to (N, 3, s·h, s·w).
        images: (N, 3, p, p).

    Returns:
        A row an operation; columns "undone", |F^-1(S(F(z))) - T(z)|, and "left", |S(F(z)) - T(z)|:
        means over pixels and images, 8-bit levels.
    """
    taught, rows = teacher(images), {}
    for name, flags in {"as it is": (0, 0, 0, 0), **OPERATIONS}.items():
        f = Invertible(torch.tensor([flags] * len(images)).bool())
        left = student(f.apply(images))
        rows[name] = {"undone": levels(f.invert(left), taught), "left": levels(left, taught)}
    return pd.DataFrame.from_dict(rows, orient="index")


def telling_batch(sampler: PatchSampler, steps: int = 200) -> Batch:
    """A batch of one patch that shows what the method does.

    Of those of the first steps whose F inverts colours and rotates by a quarter turn, the one of
    the most contrast in its zoom-in crop.

    Args:
        sampler: of batches of one.

    Raises:
        ValueError: no step draws such an F.
    """
    best, most = None, -1.0
    for step in range(steps):
        batch = sampler.draw(step)
        inverted, rows, columns, transposed = batch.transform.flags[0].tolist()
        if inverted and transposed and rows != columns:
            contrast = float(batch.zoom_in[0].std())
            if contrast > most:
                best, most = batch, contrast
    if best is None:
        raise ValueError(f"telling_batch: no such F in {steps} steps")
    return best


def levels(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference of images in [0, 1], in 8-bit levels."""
    return float((a - b).abs().mean()) * 255


def _as_8_bit(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


Point = tuple[float, float]
BEST = COLOURS[2]


class Board:
    """A sheet of ``width`` x ``height`` inches; positions are in inches from its lower left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = plt.figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_autoscale_on(False)
        self._numbers = count()

    def image(
        self, at: Point, image: Tensor, label: str = "", side: float = 1.0, colour: str = INK
    ) -> None:
        """An image (3, H, W), uint8 or in [0, 1], its lower left corner at ``at``, framed.

        ``side``: length of its longer side. ``label`` stands below it.
        """
        x, y = at
        width, height = (side * n / max(image.shape[1:]) for n in (image.shape[2], image.shape[1]))
        pixels = image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).byte()
        artist = self.axes.imshow(
            pixels.permute(1, 2, 0).numpy(),
            extent=(x, x + width, y, y + height),
            interpolation="none",
            aspect="auto",
        )
        artist.set_gid(f"picture{next(self._numbers)}")  # else equal pictures share an id
        self.frame(at, width, height, colour, 0.8)
        self.text((x + width / 2, y - 0.06), label, va="top")

    def heat(self, at: Point, values: Tensor, label: str, most: float, side: float = 1.0) -> None:
        """Values (H, W) as colours from 0 (dark) to ``most`` (bright)."""
        colours = plt.get_cmap("inferno")((values / most).clamp(0, 1).numpy())[..., :3]
        self.image(at, torch.from_numpy(np.moveaxis(colours, -1, 0)), label, side)

    def heat_scale(self, at: Point, length: float, most: float, label: str) -> None:
        """The key of ``heat``: a bar with its values below."""
        x, y = at
        self.heat(at, torch.linspace(0, most, 64)[None].expand(4, -1), "", most, length)
        for share in (0, 0.5, 1):
            self.text((x + share * length, y - 0.05), f"{share * most:g}", va="top", fontsize=7.5)
        self.text((x + length / 2, y - 0.2), label, va="top", fontsize=7.5)

    def frame(self, at: Point, width: float, height: float, colour: str, line: float = 1.4) -> None:
        self.axes.add_patch(Rectangle(at, width, height, fill=False, ec=colour, lw=line, zorder=3))

    def text(self, at: Point, text: str, **options: object) -> None:
        style = {"ha": "center", "fontsize": 8.5, "linespacing": 1.25} | options
        self.axes.text(*at, text, **style)  # type: ignore[arg-type]

    def arrow(self, *points: Point, colour: str = INK, head: bool = True) -> None:
        """A line through the points, with a head at the last."""
        self.axes.plot(*zip(*points[:-1], strict=True), color=colour, lw=1.1)
        patch = FancyArrowPatch(
            *points[-2:], arrowstyle="-|>" if head else "-", mutation_scale=8, shrinkA=0, shrinkB=0
        )
        patch.set(color=colour, lw=1.1)
        self.axes.add_patch(patch)

    def through(self, *points: Point, text: str, at: Point, colour: str) -> None:
        """An arrow through the points, with a box (a network, an operation) in its way.

        ``at``: centre of the box, on one of the level parts of the line.
        """
        x, y = at
        half = 0.17 if len(text) < 2 or text.startswith("$") else 0.035 * len(text) + 0.1
        before = next(k for k in range(1, len(points)) if points[k][1] == y and points[k][0] > x)
        self.arrow(*points[:before], (x - half, y), colour=colour, head=False)
        self.arrow((x + half, y), *points[before:], colour=colour)
        shape = "round,pad=0,rounding_size=0.06"
        patch = FancyBboxPatch((x - half, y - 0.14), 2 * half, 0.28, shape)
        patch.set(fc="none", ec=colour, lw=1.3)
        self.axes.add_patch(patch)
        self.text((x, y - 0.01), text, va="center", color=colour, fontsize=9)

    def bracket(self, left: Point, right: Point, top: float, text: str, colour: str) -> None:
        """Joins what is compared: from ``left`` up to ``top``, across, and down to ``right``."""
        (a, foot_a), (b, foot_b) = left, right
        self.axes.plot([a, a, b, b], [foot_a, top, top, foot_b], color=colour, lw=1.3)
        self.text(((a + b) / 2, top + 0.04), text, va="bottom", color=colour)


def show_windows(
    examples: Sequence[Example],
    which: Callable[[Example], Window],
    note: Callable[[Example, str], str] = lambda example, method: "",
) -> None:
    """For each image: HR with the window's frame, then the window of HR and of every answer.

    PSNR-Y within the window stands below each answer; the best student is framed.

    Args:
        examples: in the order in which they are shown; at least one.
        which: the window to show, e.g. ``lambda example: example.widest``.
        note: more to say below an answer.
    """
    columns = (len(examples[0].answers) + 4) // 2  # the whole, HR, and the answers in two rows
    cell, side = 1.56, 1.48
    lines = 1 + any(note(example, m) != "" for example in examples for m in example.answers)
    row = side + 0.1 + 0.17 * (lines + 1)
    board = Board(columns * cell, len(examples) * (2 * row + 0.12))
    top = len(examples) * (2 * row + 0.12)
    for example in examples:
        window = which(example)
        best = max((m for m in STUDENTS if m in window.psnr), key=lambda m: window.psnr[m])
        shown = {"hr": example.hr, **example.answers}
        places = [(c * cell, top - (r + 1) * row) for r in (0, 1) for c in range(1, columns)]
        for (method, image), (x, y) in zip(shown.items(), places, strict=False):
            corner = (x, y + row - side)
            label = "HR"
            if method in window.psnr:
                name = METHOD_NAMES.get(method, method)
                label = f"{name}\n{window.psnr[method]:.2f} dB{note(example, method)}"
            board.image(corner, window.crop(image), "", side)
            style = {"color": BEST, "fontweight": "bold"} if method == best else {}
            if method == best:
                board.frame(corner, side, side, BEST, 2.2)
            board.text((x + side / 2, corner[1] - 0.05), label, va="top", **style)
        _overview(board, example, window, (0, top), side)
        top -= 2 * row + 0.12


def _overview(board: Board, example: Example, window: Window, at: Point, side: float) -> None:
    """The compared area with the window's frame, its upper left corner at ``at``."""
    height, width = example.hr.shape[1:]
    inch = side / max(height, width)
    size = [round(128 * n / max(height, width)) for n in (height, width)]
    small = interpolate(example.hr[None].float(), size, mode="area")[0].round().byte()
    bottom = at[1] - height * inch
    board.image((at[0], bottom), small, "", side)
    place = (at[0] + window.column * inch, at[1] - (window.row + window.side) * inch)
    board.frame(place, window.side * inch, window.side * inch, COLOURS[1], 1.8)
    text = f"{example.dataset}\n{example.image}\nspread {window.spread:.2f} levels"
    board.text((at[0], bottom - 0.08), text, ha="left", va="top", fontsize=8.5)
