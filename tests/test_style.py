"""Tables, figures, forest plots and sweeps: what they show, and that they stand absent data."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from augkd.study.report import style
from tests.report_runs import svg, table


def _luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colour", [style.INK, *style.COLOURS])
@pytest.mark.parametrize("background", ["#ffffff", "#14171b"])
def test_colours_read_on_both_backgrounds(colour: str, background: str) -> None:
    dark, light = sorted((_luminance(colour), _luminance(background)))
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 1.4.11, graphical objects


def test_a_figure_repeats_byte_for_byte() -> None:
    first = svg()
    assert first == svg()
    assert "<dc:date>" not in first
    assert ">step</text>" in first  # text is text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.125, 2, "+0.12"), (-0.5, 1, "−0.5"), (-0.0001, 2, "0.00"), (0.004, 2, "0.00")],
)
def test_signed(value: float, decimals: int, text: str) -> None:
    assert style.signed(value, decimals) == text


def test_paper_table_says_what_is_known() -> None:
    html = table().to_html()
    assert html == table().to_html()
    assert 'id="T_fixture"' in html
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert cells[:4] == ["38.00", "35.12", "+0.33", "+0.10 … +0.50"]
    assert cells[-4:] == ["–", "not run", "not run", "–"]
    for row, verdict in enumerate(("better", "worse", "undecided", "missing")):
        assert f'"data row{row} col2 {verdict}"' in html
    assert all(text in html for text in ("A&lt;b&gt;", "gain &amp; loss", "PSNR &lt;dB&gt;."))
    assert "<b>" not in html


def test_without_an_interval_there_is_no_tint_and_decimals_follow_the_metric() -> None:
    columns = pd.MultiIndex.from_tuples([("Set5", "Δ"), ("Set14", "ours")])
    frame = pd.DataFrame([[0.3, 0.96], [math.nan] * 2], columns=columns)
    html = style.paper_table(frame, "n", "ssim_y")
    found = re.findall(r'<td class="(data row. col.[^"]*)" ?>(.*?)<', html.to_html())
    assert [(of.split()[3:], text) for of, text in found] == [
        *[([], "+0.3000"), ([], "0.9600")],
        *[(["missing"], "not run"), (["missing"], "not run")],
    ]


def test_a_plain_table_says_what_it_has() -> None:
    rows = [
        ("<b>", 0.12345, "dB", 3, 0.43, [0.05, 3.2], True),
        (None, -0.00031, "SSIM", 4, math.nan, [], False),
    ]
    frame = pd.DataFrame(rows, columns=["a_name", "gain", "unit", "count", "stated", "at", "same"])
    html = style.plain_table(frame, "t").to_html()
    for shown in ("a name", "&lt;b&gt;", "+0.12", "−0.0003", ">0.43<", "0.05, 3.2", ">yes<", ">3<"):
        assert shown in html, shown
    assert html.count(">–<") == 3
    assert html == style.plain_table(frame, "t").to_html()
    assert "Nothing to show" in style.plain_table(frame.iloc[:0], "t").to_html()


def test_error_bars_are_none_where_an_end_is_not_known() -> None:
    lines = pd.DataFrame(
        {"gain": [0.1, 0, 0.2], "low": [0.05, -0.1, np.nan], "high": [0.2, 0.1, 1]}
    )
    bars = style.error_bars(lines[:2])
    assert bars is not None
    assert bars.tolist() == pytest.approx(np.array([[0.05, 0.1], [0.1, 0.1]]))
    assert style.error_bars(lines) is None
