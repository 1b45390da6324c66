"""Tables, figures, forest plots and sweeps: what they show, and that they stand absent data."""

import math
import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from augkd.study.report.controls import WEIGHTS
from augkd.study.report.style import (
    COLOURS,
    INK,
    TONES,
    draw_sweep,
    error_bars,
    forest,
    paper_table,
    plain_table,
    signed,
    use_style,
)
from tests.report_runs import svg, table


def _luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colour", [INK, *COLOURS])
@pytest.mark.parametrize("background", ["#ffffff", "#14171b"])
def test_colours_read_on_both_backgrounds(colour: str, background: str) -> None:
    dark, light = sorted((_luminance(colour), _luminance(background)))
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 1.4.11, graphical objects


def test_a_figure_repeats_byte_for_byte() -> None:
    use_style()
    first = svg()
    assert first == svg()
    assert "<dc:date>" not in first
    assert ">step</text>" in first  # text is text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.125, 2, "+0.12"), (-0.5, 1, "−0.5"), (-0.0001, 2, "0.00"), (0.004, 2, "0.00")],
)
def test_signed(value: float, decimals: int, text: str) -> None:
    assert signed(value, decimals) == text


def test_paper_table_says_what_is_known() -> None:
    html = table().to_html()
    assert html == table().to_html()
    assert 'id="T_fixture"' in html
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert cells[:4] == ["38.00", "35.12", "+0.33", "+0.10 … +0.50"]
    assert cells[-4:] == ["–", "not run", "not run", "–"]
    for row, verdict in enumerate(("better", "worse", "undecided", "missing")):
        assert f'"data row{row} col2 {verdict}"' in html
    assert "A&lt;b&gt;" in html
    assert "gain &amp; loss" in html
    assert "PSNR &lt;dB&gt;." in html
    assert "<b>" not in html


def test_decimals_follow_the_metric() -> None:
    columns = pd.MultiIndex.from_tuples(
        [("Set5", "psnr_y", "ours"), ("Set5", "ssim_y", "ours")], names=["set", "metric", "part"]
    )
    html = paper_table(pd.DataFrame([[38.0, 0.96]], columns=columns), "m").to_html()
    assert ">38.00<" in html
    assert ">0.9600<" in html


def test_no_interval_no_tint() -> None:
    columns = pd.MultiIndex.from_tuples([("Set5", "Δ")])
    html = paper_table(pd.DataFrame([[0.3], [math.nan]], columns=columns), "n").to_html()
    assert 'class="data row0 col0"' in html.replace(" >", ">")
    assert 'class="data row1 col0 missing"' in html


@pytest.mark.parametrize(
    ("columns", "metric", "message"),
    [
        (pd.Index(["paper"]), "psnr_y", "MultiIndex"),
        (pd.MultiIndex.from_tuples([("Set5", "theirs")]), "psnr_y", "'theirs' is unknown"),
        (pd.MultiIndex.from_tuples([("Set5", "ours")]), "psnr", "'psnr' is unknown"),
    ],
)
def test_paper_table_refuses(columns: pd.Index, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paper_table(pd.DataFrame([[1.0]], columns=columns), "x", metric)


FOREST = pd.DataFrame(
    [
        ("a", "x − y", 0.1, 0.05, 0.15, "more"),
        ("a", "y − z", 0.0, -0.1, 0.1, "not told apart"),
        ("b", "u − v", 0.2, math.nan, math.nan, "no interval"),
        ("b", "w − v", math.nan, math.nan, math.nan, "not run"),
    ],
    columns=["topic", "label", "gain", "low", "high", "verdict"],
)


def test_a_forest_has_a_line_for_each_gain() -> None:
    figure = forest(FOREST, "gain (dB)")
    assert figure is not None
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x − y", "y − z", "u − v"]
    texts = [text.get_text() for text in axis.texts]
    assert "+0.10  (+0.05 … +0.15)" in texts
    assert "+0.20" in texts
    assert {"a", "b"} <= set(texts)
    containers: list[Any] = axis.containers
    points = [container.lines[0] for container in containers]
    assert points[0].get_color() == TONES["more"]
    assert points[1].get_markerfacecolor() == "none"
    low, high = axis.get_ylim()
    assert low > high  # the first row is on top
    assert forest(FOREST[FOREST["gain"].isna()], "gain") is None


def test_a_sweep_marks_its_default() -> None:
    line = pd.DataFrame(
        {"value": [0.05, 0.2, 3.2], "gain": [0.1, 0.2, 0.0], "low": 0.0, "high": 0.3}
    )
    figure, axis = plt.subplots()
    draw_sweep(axis, WEIGHTS[0], line)
    assert axis.get_xscale() == "log"
    ring: Any = axis.lines[-1]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([0.2], [0.2])
    draw_sweep(axis, WEIGHTS[0], line.iloc[:0])
    assert axis.texts[-1].get_text() == "not run"
    plt.close(figure)


def test_a_plain_table_says_what_it_has() -> None:
    frame = pd.DataFrame(
        {
            "a_name": ["<b>", None],
            "gain": [0.12345, -0.00031],
            "unit": ["dB", "SSIM"],
            "count": [3, 4],
            "stated": [0.43, math.nan],
            "at": [[0.05, 3.2], []],
            "same": [True, False],
        }
    )
    html = plain_table(frame, "t").to_html()
    for shown in ("a name", "&lt;b&gt;", "+0.12", "−0.0003", ">0.43<", "0.05, 3.2", ">yes<", ">3<"):
        assert shown in html, shown
    assert html.count(">–<") == 3
    assert html == plain_table(frame, "t").to_html()
    assert "Nothing was run" in plain_table(frame.iloc[:0], "t").to_html()


def test_error_bars_are_none_where_an_end_is_not_known() -> None:
    bars = error_bars(FOREST[:2])
    assert bars is not None
    assert bars.tolist() == pytest.approx(np.array([[0.05, 0.1], [0.05, 0.1]]))
    assert error_bars(FOREST) is None
