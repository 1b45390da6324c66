"""The site in a real browser: nothing missing, no complaint, nothing too wide, and its controls.

One start of headless Chromium opens every page in frames of two widths and works its buttons by
script. Pages are opened from disk, as a reader does.
"""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from augkd.study.report.pictures import SIDE
from augkd.study.report.site import build
from tests.report_runs import example, write_study

Seen = tuple[list[dict[str, Any]], list[str]]
"""What the script found, a dictionary a page and width; and the browser's console."""

CHROMIUM = shutil.which("chromium") or ""
WIDTHS = (1280, 390)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync
--allow-file-access-from-files --enable-logging=stderr --virtual-time-budget=20000
--dump-dom"""
PROBE = Path(__file__).with_name("probe.js").read_text(encoding="utf-8")


pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    build("smoke", root)
    return look(sorted((root / "reports").rglob("*.html")), root)


def look(pages: list[Path], root: Path) -> Seen:
    frames = "".join(
        f'<iframe data-page="{page.name}" src="{page.as_uri()}" width="{width}" height="900">'
        "</iframe>"
        for page in pages
        for width in WIDTHS
    )
    probe = root / "probe.html"
    probe.write_text(f"<body>{frames}<script>{PROBE}</script>", encoding="utf-8")
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={root / 'profile'}", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    seen: list[dict[str, Any]] = json.loads(unescape(found[1]))
    assert len(seen) == len(WIDTHS) * len(pages)
    return seen, console


def test_pages_fit_and_are_whole_in_both_themes(opened: Seen) -> None:
    assert opened[1] == []  # no complaint
    for one in opened[0]:
        assert one["overflow"] <= 0, one  # negative: a scroll bar
        assert one["broken"] == 0, one
        assert int(one["styled"]) > 600, one  # the style sheet was found
        assert {one["first"], one["second"]} == {"dark", "light"}
        assert one["paper"][0] != one["paper"][1]


def test_a_heading_sorts_and_a_figure_enlarges(opened: Seen) -> None:
    sortable = [one for one in opened[0] if "sorts" in one]
    assert {one["width"] for one in sortable} == set(WIDTHS)
    for one in sortable:
        assert one["sorts"] == ["ascending", "descending", None]
        assert one["restored"]
        assert one["focusable"]
    shown = [one for one in opened[0] if one["figures"]]
    assert shown
    for one in shown:
        assert one["zoom"] == [False, True, False, True], one


def test_two_answers_are_compared_by_hand(opened: Seen) -> None:
    widest, typical = (window for _, window in example().windows.iterrows())
    x, y = (int(widest[key]) for key in ("column", "row"))  # the crop is all of the image
    key, address = "x4/photos/a cat/typical", "#image=x4/photos/a cat/typical&a=augkd&b=hr"
    expected = {
        "compared": ["x4/photos/a cat/widest", "kd", "augkd", 50, x, y, SIDE],
        "keys": [[x + 6, y, SIDE], [x + 14, y + 8, 32], [x, y, SIDE]],
        "slid": [[False, False], [True, False], [True, True]],
        "asked": [key, "augkd", "hr", 100, typical["column"], typical["row"], SIDE, address],
        "zoom": [False, True, False, True],  # a link in a figure is followed: nothing is enlarged
    }
    for one in [one for one in opened[0] if one["page"] == "compare.html"]:
        assert {key: one[key] for key in expected} == expected
        # in view is what the figure shows
        assert all(f"{m}{widest[n]:.2f}" in one["scores"] for m, n in (("A", "kd"), ("B", "augkd")))
        assert len({*one["maps"], "0,0,0,0"}) == 3


def test_the_probe_sees_faults(tmp_path: Path) -> None:
    """A page with a missing file, an error and a wide line must not pass."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<h1>x</h1><button class="theme"></button><dialog class="zoom"></dialog>'
        '<div style="width:2000px">wide</div><img src="gone.png">'
        '<script>console.error("complaint")</script>'
    )
    seen, console = look([bad], tmp_path)
    assert all(one["overflow"] > 0 and one["broken"] == 1 for one in seen)
    assert any("complaint" in line for line in console)
