"""Gains with intervals as a forest plot and along a sweep, and tables of words beside numbers.

One look for every figure and table of the notebooks, in JupyterLab as in the report.

Figures are transparent, with mid-tone ink that reads on white and on near-black; the report
replaces ``INK`` by its own text colour. Text stays text, so that it is sharp and searchable.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from pandas.io.formats.style import Styler

from augkd.study.report.controls import Sweep

INK = "#73787f"
"""Axes and text of figures."""

COLOURS = ("#2f80c4", "#c9711a", "#1f9a78", "#c2549d", "#8c72d6", "#d4553f", "#6f8b2f", "#8a8178")
"""The cycle of plots, solid first, then dashed and dotted: at least 3 : 1 against both backgrounds,
and apart for the colour-blind."""

DECIMALS = {"psnr_y": 2, "ssim_y": 4, "niqe": 3}
METHOD_NAMES = {
    "bicubic": "Bicubic",
    "teacher": "Teacher",
    "scratch": "Scratch",
    "kd": "KD",
    "dfkd": "KD without HR",
    "fitnet": "FitNet",
    "at": "AT",
    "rkd": "RKD",
    "fakd": "FAKD",
    "csd": "CSD (teacher's features)",
    "crosskd": "CrossKD (reconstruction)",
    "zoom_in": "Zoom-in",
    "zoom_out": "Zoom-out",
    "zoom_both": "Both zooms",
    "consistency": "Consistency alone",
    "augkd": "AugKD",
    "fakd_augkd": "FAKD + AugKD",
}
"""What methods are called in tables and figures. Without VGG19, CSD compares other features; of
CrossKD the text is not public."""

UNTAUGHT = ("bicubic", "teacher", "teacher_ensemble")
"""Rows of tables that are no students."""

PARTS = ("paper", "ours", "Δ", "interval", "difference")

_TABLE_STYLES: list[Any] = [
    {"selector": "td, th", "props": "text-align: right; font-variant-numeric: tabular-nums"},
    {"selector": "thead th", "props": "text-align: center"},
    {"selector": "th.row_heading, thead th.index_name", "props": "text-align: left"},
    {"selector": "caption", "props": "caption-side: bottom; text-align: left"},
    {"selector": ".better", "props": "background-color: rgba(16, 150, 110, 0.14)"},
    {"selector": ".worse", "props": "background-color: rgba(205, 70, 35, 0.15)"},
    {"selector": ".better::after", "props": "content: '\\2009\\25B2'"},
    {"selector": ".worse::after", "props": "content: '\\2009\\25BC'"},
    {"selector": ".undecided::after", "props": "content: '\\2009\\25CB'"},
    {"selector": ".better, .worse, .best", "props": "font-weight: 650"},
    {"selector": ".second", "props": "text-decoration: underline"},
    {"selector": ".undecided, .missing, .interval", "props": f"color: {INK}"},
    {"selector": ".missing", "props": "font-style: italic"},
]


def use_style() -> None:
    r"""Sets matplotlib, and the notebook if there is one, to the style of the study.

    Figures become SVG that is the same, byte for byte, whenever their data are. Formulas in them
    are limited to letters and signs that ordinary fonts have: no ``\mathcal``.
    """
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 3.6),
            "figure.dpi": 100,
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "savefig.bbox": "tight",
            "svg.fonttype": "none",
            "svg.hashsalt": "augkd",
            "font.family": "sans-serif",
            "font.size": 10,
            "text.color": INK,
            "axes.facecolor": "none",
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlesize": 10.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(linestyle=["-", "--", ":"]) * cycler(color=COLOURS),
            "grid.color": INK,
            "grid.alpha": 0.22,
            "grid.linewidth": 0.7,
            "xtick.color": INK,
            "ytick.color": INK,
            "lines.linewidth": 1.7,
            "patch.linewidth": 0,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "image.interpolation": "none",  # embedded as it is, and enlarged without smoothing
            "image.composite_image": False,  # nor resampled where several share an axis
        }
    )
    set_matplotlib_formats("svg", metadata={"Date": None})


def paper_table(
    frame: pd.DataFrame,
    name: str,
    metric: str = "psnr_y",
    caption: str = "",
    labels: Mapping[str, str] | None = None,
    marks: pd.DataFrame | None = None,
) -> Styler:
    """A table of the paper's numbers beside ours.

    Args:
        frame: one row a network (any index; levels of a MultiIndex are grouped). Columns are a
            MultiIndex whose last level is the part and whose other levels say of what, e.g.
            (dataset, part) or (dataset, metric, part). Parts are any of

            ========  ===========================================================
            paper     the paper's value; NaN where it has none
            ours      our value; NaN where it was not run, None where there can be none
            Δ         the gain under judgement, positive where it is for the better
                      (``augkd.study.report.stats`` turns the sign of NIQE); NaN and None likewise
            interval  (low, high) of Δ, or None
            difference  ours minus the paper's, of whatever the block compares; never tinted
            ========  ===========================================================

        name: of the table, unique on a page: the HTML id is ``T_name``.
        metric: psnr_y, ssim_y or niqe; read from the column level named "metric" where there is
            one.
        caption: a sentence below the table; what the tints mean is added.
        labels: what columns are shown as, e.g. {"Δ": "gain over KD"}, on every level.
        marks: more classes, a cell each, e.g. ``augkd.study.report.rows.ranks``: best (bold), second
            (underlined).

    Returns:
        A Styler. Δ has the class ``better``, ``worse`` or, where the interval holds 0,
        ``undecided``: no interval leaves it plain. Missing values have the class ``missing``.

    Raises:
        ValueError: columns of another form, an unknown part or metric.
        KeyError: two rows, or two columns, of one name.
    """
    columns = frame.columns
    if not isinstance(columns, pd.MultiIndex):
        raise ValueError("paper_table: columns must be a MultiIndex ending in the part")
    unknown = [part for part in columns.unique(-1) if part not in PARTS]
    if unknown:
        raise ValueError(f"paper_table: part {unknown[0]!r} is unknown: use {', '.join(PARTS)}")

    shown = frame.astype(object).copy()
    classes = pd.DataFrame("", index=frame.index, columns=columns)
    for position, column in enumerate(columns):
        of = column[columns.names.index("metric")] if "metric" in columns.names else metric
        if of not in DECIMALS:
            raise ValueError(f"paper_table: metric {of!r} is unknown: use {', '.join(DECIMALS)}")
        part = column[-1]
        interval = (*column[:-1], "interval")
        for row in range(len(frame)):
            value = frame.iat[row, position]
            held = frame.iloc[row][interval] if interval in columns else None
            shown.iat[row, position] = _text(value, part, DECIMALS[of])
            mark = "" if marks is None else str(marks.iat[row, position])
            classes.iat[row, position] = f"{_class(value, part, held)} {mark}".strip()

    shown = shown.rename(columns=dict(labels or {}))
    classes.columns = shown.columns
    legend = (
        "▲ better, ▼ worse: the interval, before rounding, leaves out 0; ○ not decided."
        if "interval" in columns.unique(-1)
        else ""
    )
    styler = Styler(shown, uuid=name, cell_ids=False, table_attributes='class="paper-table"')
    styler.set_table_styles(_TABLE_STYLES).set_td_classes(classes).format(escape="html")
    styler.hide(axis="columns", names=True)
    for axis in (0, 1):
        styler.format_index(escape="html", axis=axis).format_index_names(escape="html", axis=axis)
    return styler.set_caption(" ".join(filter(None, (escape(caption), legend))))


def signed(value: float, decimals: int) -> str:
    """+0.12, −0.12 (a true minus) or 0.00."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _missing(value: Any) -> bool:
    """None, NaN, or an interval with a NaN end."""
    return value is None or not bool(np.all(np.isfinite(np.asarray(value, dtype=float))))


def _text(value: Any, part: str, decimals: int) -> str:
    if _missing(value):
        return "not run" if part in ("ours", "Δ") and value is not None else "–"
    if part == "interval":
        low, high = value
        return f"{signed(low, decimals)} … {signed(high, decimals)}"
    text = signed(value, decimals)
    return text if part in ("Δ", "difference") else text.removeprefix("+")


def _class(value: Any, part: str, interval: Any) -> str:
    if _missing(value):
        return "missing"
    if part == "interval":
        return "interval"
    if part != "Δ" or _missing(interval):
        return ""
    low, high = interval
    if low <= 0 <= high:
        return "undecided"
    return "better" if low > 0 else "worse"


TONES = {"more": "#1f9a78", "less": "#d4553f"}
"""Of points whose interval lies on one side of zero; others are in ``INK``."""
UNITS = {"dB": 2, "SSIM": 4, "NIQE": 3, "s": 2}
"""Decimals of signed columns, where a column names the unit."""
SIGNED = ("gain", "paper_gain", "low", "high", "difference", "gap", "share")


def forest(table: pd.DataFrame, unit: str) -> Figure | None:
    """One line a row: gain and interval, grouped by topic, the verdict by tone and sign.

    Args:
        table: columns topic, label, gain, low, high, verdict; rows without a gain are left out.
        unit: the label of the axis.

    Returns:
        The figure, closed, for the notebook to show; None where no row has a gain.
    """
    table = table[table["gain"].notna()]
    if table.empty:
        return None
    places, heads, place = [], [], 0.0
    for topic, part in table.groupby("topic", sort=False):
        heads.append((place, str(topic)))
        places += [place + 1 + k for k in range(len(part))]
        place += len(part) + 1.5
    figure, axis = plt.subplots(figsize=(6, 0.27 * place + 0.7))
    axis.axvline(0, color=INK, linewidth=1.2)
    for where, row in zip(places, table.to_dict("records"), strict=True):
        tone = TONES.get(row["verdict"], INK)
        ends = [[row["gain"] - row["low"]], [row["high"] - row["gain"]]]
        known = bool(np.isfinite(ends).all())
        filled = tone if row["verdict"] in TONES else "none"
        axis.errorbar(
            row["gain"],
            where,
            xerr=ends if known else None,
            fmt="o",
            color=tone,
            markerfacecolor=filled,
            markersize=5.5,
            capsize=2.5,
        )
        low, high = (signed(row[end], 2) for end in ("low", "high"))
        text = f"{signed(row['gain'], 2)}  ({low} … {high})" if known else signed(row["gain"], 2)
        axis.text(1.02, where, text, transform=axis.get_yaxis_transform(), va="center", fontsize=9)
    axis.set_yticks(places, list(table["label"]), fontsize=9)
    for where, topic in heads:
        axis.text(
            -0.01,
            where,
            topic,
            transform=axis.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=9.5,
            fontweight="bold",
        )
    axis.set_ylim(place - 0.5, -0.8)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(unit)
    plt.close(figure)
    return figure


def draw_sweep(axis: Axes, of: Sweep, line: pd.DataFrame) -> None:
    """A panel of ``augkd.study.report.controls.sweep``: gain against value, the default ringed."""
    axis.set_title(of.title, fontsize=9)
    if line.empty:
        axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center")
        axis.set_xticks([])
        return
    values = line["value"]
    if (values > 0).all() and values.max() / values.min() > 10:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(list(values), [f"{value:g}" for value in values])
    axis.axhline(0, color=INK, linewidth=1.2)
    error = [line["gain"] - line["low"], line["high"] - line["gain"]]
    known = np.isfinite(error).all()
    axis.errorbar(values, line["gain"], error if known else None, fmt="o-", capsize=3, markersize=5)
    own = line[values == of.default]
    axis.plot(own["value"], own["gain"], "o", markersize=13, fillstyle="none", color="C1")
    axis.set_xlabel("value (default ringed)")


def plain_table(frame: pd.DataFrame, name: str) -> Styler:
    """A table of words and numbers, with ids that repeat: words wrap, missing ones are a dash.

    Args:
        frame: its index is not shown. Columns named gain, low, high, difference, gap and share
            carry a sign; their decimals are alike, and
            those of the row's unit where a column "unit" names it.
        name: unique on the page.
    """
    shown = frame.astype(object).reset_index(drop=True)
    units = list(frame["unit"]) if "unit" in frame else [""] * len(frame)
    alike = [column for column in shown if column in SIGNED]
    for column in shown:
        decimals = _decimals(_numbers(shown[alike if column in alike else [column]]))
        shown[column] = [
            _forest_text(
                value, column in alike, UNITS.get(unit, decimals) if column in alike else decimals
            )
            for value, unit in zip(shown[column], units, strict=True)
        ]
    shown.columns = pd.Index([str(column).replace("_", " ") for column in shown])
    styler = Styler(shown, uuid=name, cell_ids=False, table_attributes='class="plain-table"')
    numbers = [
        column
        for column, of in zip(shown, frame, strict=True)
        if pd.api.types.is_numeric_dtype(frame[of]) and not pd.api.types.is_bool_dtype(frame[of])
    ]
    styler.set_td_classes(
        pd.DataFrame({column: ["n" if column in numbers else ""] * len(shown) for column in shown})
    )
    right: list[Any] = [{"selector": "td.n", "props": "text-align: right"}]
    left: list[Any] = [{"selector": "td, th", "props": "text-align: left"}]
    if frame.empty:
        styler.set_caption("Nothing was run.")
    return styler.set_table_styles(left + right).hide(axis="index").format(escape="html")


def _numbers(frame: pd.DataFrame) -> list[float]:
    every = [value for column in frame for value in frame[column]]
    known = [float(value) for value in every if isinstance(value, float | np.floating)]
    return [value for value in known if np.isfinite(value)]


def _decimals(values: Sequence[float]) -> int:
    if not values or all(float(value).is_integer() for value in values):
        return 0
    for decimals in (1, 2, 3, 4):
        if all(abs(round(value, decimals) - value) < 1e-9 for value in values):
            return decimals
    return 2 if max(map(abs, values)) >= 0.02 else 4


def _forest_text(value: Any, sign: bool, decimals: int) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:g}" for item in value) or "–"
    if value is None or value == "" or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        text = signed(float(value), decimals)
        return text if sign else text.removeprefix("+")
    return str(value)
