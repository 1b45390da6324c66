"""The audit in words: every finding that the tables give, each number from them."""

import re

import pandas as pd
import pytest

from augkd.study.paper import audit
from augkd.study.paper.findings import Finding, at_a_glance, findings


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return findings()


@pytest.mark.parametrize(
    ("title", "numbers"),
    [  # worked out by hand from the printed page
        ("Stated average gains", ["0.43", "0.31", "0.410", "0.167", "0.373"]),
        ("Two different models", ["Table 10, row 3", "Table 3, row 1", "All 8", "32.44", "32.63"]),
        ("One number", ["0.7963", "0.7966"]),
        ("EDSR's teachers", ["26.87", "26.65", "26.86"]),
        ("ablation's base", ["24.87", "1.17", "0.01 dB", "2-bit"]),
        ("No row shows label", ["25.18", "+0.02"]),
        ("start from ×2", ["+0.27", "+0.13", "0.24"]),
        ("last digit", ["0.01 and 0.01"]),
        ("strongest teacher", ["26.62", "26.59", "27.07", "26.75"]),
        ("Not every method", ["EDSR lacks CrossKD", "RCAN lacks CSD"]),
        ("NIQE", ["0.027", "0.030", "0.158"]),
        ("Fewer operations", ["7.1", "1.9"]),
        ("only", ["0.21", "43 %", "0.55"]),
        ("CSD's row", ["4 PSNR", "0.04"]),
    ],
)
def test_each_finding_states_the_computed_numbers(
    found: list[Finding], title: str, numbers: list[str]
) -> None:
    (finding,) = [one for one in found if title in one.title]
    for number in numbers:
        assert number in f"{finding.title} {finding.says} {finding.shows}", number
    assert not finding.evidence.empty
    assert finding.matters in finding.markdown
    assert not re.search(r"nan|None|[a-z]+_[a-z]+", finding.markdown)


def test_contradictions_come_first(found: list[Finding]) -> None:
    kinds = [one.weight for one in found]
    assert kinds == sorted(kinds, key=["contradiction", "doubtful", "confounded", "unstated"].index)
    glance = at_a_glance(found)
    assert len(glance) == len({one.title for one in found}) == 14
    assert list(glance["kind"]) == kinds


def test_a_clean_check_has_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = audit.average_gains().assign(
        stated=lambda t: t["stated"].where(t["stated"].isna(), t["mean"])
    )
    pairs = audit.reprinted_values().assign(difference=0.0)
    same = audit.duplicated_rows().query("same_model")
    monkeypatch.setattr(audit, "average_gains", lambda: gains)
    monkeypatch.setattr(audit, "reprinted_values", lambda: pairs)
    monkeypatch.setattr(audit, "duplicated_rows", lambda: same)
    titles = " ".join(one.title for one in findings())
    for gone in ("Stated average", "two versions", "Two different"):
        assert gone not in titles


def test_sentences_follow_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = audit.average_gains()
    gains.loc[gains["stated"].notna() & (gains["network"] == "rcan"), "stated"] = 0.99
    monkeypatch.setattr(audit, "average_gains", lambda: gains)
    first = findings()[0]
    assert "0.99 dB for RCAN" in first.says
    assert isinstance(first.evidence, pd.DataFrame)
