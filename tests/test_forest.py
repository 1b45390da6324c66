"""Forest plot, sweep panel and plain tables: what they show, and that they stand absent data."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from augkd.study.report.controls import WEIGHTS
from augkd.study.report.style import TONES, draw_sweep, forest, plain_table

NAN = float("nan")
ROWS = pd.DataFrame(
    [
        ("a", "x − y", 0.1, 0.05, 0.15, "more"),
        ("a", "y − z", 0.0, -0.1, 0.1, "not told apart"),
        ("b", "u − v", 0.2, NAN, NAN, "no interval"),
        ("b", "w − v", NAN, NAN, NAN, "not run"),
    ],
    columns=["topic", "label", "gain", "low", "high", "verdict"],
)


def test_a_forest_has_a_line_for_each_gain() -> None:
    figure = forest(ROWS, "gain (dB)")
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
    assert forest(ROWS[ROWS["gain"].isna()], "gain") is None


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
            "stated": [0.43, NAN],
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
