"""One look for every figure and table of the notebooks, in JupyterLab as in the report.

Figures are transparent, with mid-tone ink that reads on white and on near-black; the report
replaces ``INK`` by its own text colour. Text stays text, so that it is sharp and searchable.
"""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from pandas.io.formats.style import Styler


def read_yaml(name: str) -> Any:
    """A file of data beside this module."""
    return yaml.safe_load(files(__package__).joinpath(name).read_text(encoding="utf-8"))


INK = "#73787f"  # axes and text of figures
# The cycle of plots, solid first, then dashed and dotted: at least 3 : 1 against both backgrounds,
# and apart for the colour-blind.
COLOURS = ("#2f80c4", "#c9711a", "#1f9a78", "#c2549d", "#8c72d6", "#d4553f", "#6f8b2f", "#8a8178")
TONES = {"more": COLOURS[2], "less": COLOURS[5]}  # where an interval lies on one side of zero
# of metrics, and of the units that a row of a plain table names
DECIMALS = {"psnr_y": 2, "ssim_y": 4, "niqe": 3, "dB": 2, "SSIM": 4, "NIQE": 3, "s": 2}
METHOD_NAMES: dict[str, str] = read_yaml("names.yaml")  # in tables and figures
NETWORKS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
SIGNED = ("gain", "paper_gain", "low", "high", "difference", "gap", "share", "change")
TABLES: dict[str, dict[str, str]] = read_yaml("tables.yaml")
LABELS = TABLES["labels"]


def use_style() -> None:
    r"""Sets matplotlib, and the notebook if there is one, to the style of the study.

    Figures become SVG that is the same, byte for byte, whenever their data are. Formulas in them
    are limited to letters and signs that ordinary fonts have: no ``\mathcal``.
    """
    import matplotlib.pyplot as plt
    from cycler import cycler
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    inked = ("axes.edgecolor", "axes.labelcolor", "text.color", "grid.color")
    colours: dict[str, Any] = dict.fromkeys((*inked, "xtick.color", "ytick.color"), INK)
    colours["axes.prop_cycle"] = cycler(linestyle=["-", "--", ":"]) * cycler(color=COLOURS)
    plt.style.use(["default", f"{__package__}.figures", colours])
    set_matplotlib_formats("svg", metadata={"Date": None})


def paper_table(
    frame: pd.DataFrame,
    name: str,
    metric: str = "psnr_y",
    caption: str = "",
    labels: Mapping[str, str] = LABELS,
    marks: pd.DataFrame | None = None,
) -> Styler:
    """A table of the paper's numbers beside ours.

    Args:
        frame: columns are a MultiIndex whose last level is the part, whose others say of what:
            paper (NaN where it has none), ours (NaN where it was not run, None where there can be
            none), Δ (a gain, positive where it is for the better; NaN and None likewise),
            interval ((low, high) of Δ, or None), difference (ours minus the paper's).
        name: of the table, unique on a page: the HTML id is ``T_name``.
        caption: a sentence below the table; what the tints mean is added.
        labels: what columns are shown as, on every level.
        marks: more classes, a cell each: "best" is bold, "second" underlined. A missing value has
            ``missing``, a Δ that has an interval ``better``, ``worse`` or ``undecided``.
    """
    shown, classes = frame.astype(object), frame.astype(object)
    for position, column in enumerate(frame.columns):
        part, cells, sign = column[-1], list(frame[column]), column[-1] in ("Δ", "difference")
        absent = "not run" if part in ("ours", "Δ") else "–"
        texts = [_text(v, DECIMALS[metric], sign, "–" if v is None else absent) for v in cells]
        shown.isetitem(position, texts)
        intervals = frame.get((*column[:-1], "interval"), [None] * len(cells))
        classes.isetitem(position, list(map(_class, cells, repeat(part), intervals)))
    if marks is not None:
        classes = (classes + " " + marks).map(str.strip)
    caption = escape(caption)
    if "interval" in frame.columns.unique(-1):
        caption += " ▲ better, ▼ worse: the interval, before rounding, leaves out 0; ○ not decided."
    shown = shown.rename(columns=dict(labels))
    return _table(shown, classes, name, "paper", caption.strip()).hide(axis="columns", names=True)


def plain_table(frame: pd.DataFrame, name: str) -> Styler:
    """A table of words and numbers, with ids that repeat: words wrap, missing ones are a dash.

    The index is not shown. Columns of ``SIGNED`` carry a sign; their decimals are alike, and those
    of the row's unit where a column "unit" names it.
    """
    alike = [column for column in frame if column in SIGNED]
    units = frame["unit"] if "unit" in frame else [""] * len(frame)
    shown, classes = pd.DataFrame(), pd.DataFrame()
    for column, cells in frame.items():
        title, sign = str(column).replace("_", " "), column in alike
        decimals = _decimals(frame[alike if sign else [column]])
        places = [DECIMALS.get(unit, decimals) if sign else decimals for unit in units]
        shown[title] = list(map(_text, cells, places, repeat(sign)))
        classes[title] = ["n" if cells.dtype.kind in "iuf" else ""] * len(frame)
    caption = "Nothing to show." if frame.empty else ""
    return _table(shown, classes, name, "plain", caption).hide(axis="index")


def contrast(better: str, worse: str) -> str:
    """What the difference of two methods is called."""
    return f"{METHOD_NAMES[better]} − {METHOD_NAMES[worse]}"


def signed(value: float, decimals: int) -> str:
    """+0.12, −0.12 (a true minus) or 0.00."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _table(
    shown: pd.DataFrame, classes: pd.DataFrame, name: str, kind: str, caption: str
) -> Styler:
    """Texts, and the classes of their cells, as a table whose ids repeat."""
    styler = Styler(shown, uuid=name, cell_ids=kind == "plain")  # to which others may lead
    styler.set_table_attributes(f'class="{kind}-table"')
    rules = TABLES[kind].items()
    styler.set_table_styles([{"selector": s, "props": look.format(ink=INK)} for s, look in rules])
    styler.set_td_classes(classes.set_axis(shown.columns, axis=1))
    styler.format(escape="html").set_caption(caption)
    for axis in (0, 1):
        styler.format_index(escape="html", axis=axis).format_index_names(escape="html", axis=axis)
    return styler


def _missing(value: Any) -> bool:
    """None, nothing, a number that is none, or an interval with such an end."""
    ends = value if isinstance(value, tuple) else (value,)
    return any(v is None or v == "" or (isinstance(v, float) and not np.isfinite(v)) for v in ends)


def _text(value: Any, decimals: int, sign: bool = False, absent: str = "–") -> str:
    """A number, an interval (a tuple), a list of numbers, yes or no, or a word."""
    if isinstance(value, list):
        return ", ".join(f"{item:g}" for item in value) or absent
    if _missing(value):
        return absent
    if isinstance(value, tuple):
        return " … ".join(signed(end, decimals) for end in value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return signed(value, decimals).removeprefix("" if sign else "+")
    return str(value)


def _class(value: Any, part: str, interval: Any) -> str:
    if _missing(value):
        return "missing"
    if part != "Δ" or _missing(interval):
        return "interval" if part == "interval" else ""
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def _decimals(frame: pd.DataFrame) -> int:
    """As few as show the numbers as they are, up to four; else two, or four for small ones."""
    numbers = [v for v in frame.to_numpy(object).ravel() if isinstance(v, float) and np.isfinite(v)]
    for decimals in range(5):
        if all(abs(round(v, decimals) - v) < 1e-9 for v in numbers):
            return decimals
    return 2 if max(map(abs, numbers)) >= 0.02 else 4


def error_bars(line: Any, middle: str = "gain") -> NDArray[np.float64] | None:
    """How far the low and high of a frame, or a row, lie from the middle; None if not known."""
    ends = [line[middle] - line["low"], line["high"] - line[middle]]
    lengths = np.array(ends, dtype=float).reshape(2, -1)
    return lengths if np.isfinite(lengths).all() else None
