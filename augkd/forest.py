"""Gains with intervals as a forest plot and along a sweep, and tables of words beside numbers."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from augkd.controls import Sweep
from augkd.style import INK, signed

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
    """A panel of ``augkd.controls.sweep``: gain against value, the default ringed."""
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
            _text(
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


def _text(value: Any, sign: bool, decimals: int) -> str:
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
