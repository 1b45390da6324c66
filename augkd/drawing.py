"""Figures made of pictures: a board to draw diagrams on, and crops of answers side by side.

Photographs are embedded at their own resolution, and enlarged without smoothing by whatever
shows them: small files that stay sharp at any zoom. Words and lines are vectors.
"""

from collections.abc import Callable, Sequence
from itertools import count

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor
from torch.nn.functional import interpolate

from augkd.style import COLOURS, INK, METHOD_NAMES
from augkd.visual import STUDENTS, Example, Window

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
