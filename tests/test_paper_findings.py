"""The audit in words: every finding that the tables give, each number from them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest

from augkd.study.paper import audit
from augkd.study.params import STAGE

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "audit.ipynb"
KINDS = ["contradiction", "doubtful", "confounded", "unstated"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def page(study: Path) -> list[Any]:
    """What the executed page shows, cell by cell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv(STAGE, "audit")
        made = papermill.execute_notebook(
            NOTEBOOK, None, {"budget": "smoke"}, progress_bar=False, cwd=study
        )
    nbformat.validate(made)
    return [output for cell in made.cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def sections(page: list[Any]) -> dict[str, str]:
    """The findings as the page shows them, by title: the text, and the table below it."""
    texts = [output["data"].get("text/markdown", "") for output in page]
    return {
        text.split("\n")[0].removeprefix("### "): text + page[k + 1]["data"]["text/html"]
        for k, text in enumerate(texts)
        if text.startswith("### ")
    }


@pytest.fixture(scope="module")
def table(study: Path, page: list[Any]) -> pd.DataFrame:
    return pd.read_csv(study / "runs/smoke/pages/audit/findings.csv", index_col=0)


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
    table: pd.DataFrame, sections: dict[str, str], title: str, numbers: list[str]
) -> None:
    (row,) = (row for row in table.to_dict("records") if title in row["finding"])
    said = f"{row['finding']} {row['it says']} {row['its tables say']}"
    for number in numbers:
        assert number in said, number
    text, _, evidence = sections[row["finding"]].partition("<style")
    assert f"*{row['where']} · {row['kind']}.*" in text
    assert row["it says"] in text
    assert row["its tables say"] in text
    assert re.search(r"\*\*Why it matters:\*\* \w.+\.$", text)
    assert "<td" in evidence
    assert not re.search(r"nan|None|[a-z]+_[a-z]+", text)


def test_contradictions_come_first(
    table: pd.DataFrame, sections: dict[str, str], page: list[Any]
) -> None:
    assert list(table) == ["kind", "where", "finding", "it says", "its tables say"]
    assert list(table["kind"]) == sorted(table["kind"], key=KINDS.index)
    assert len(table) == table["finding"].nunique() == 14
    assert list(table["finding"]) == list(sections)
    # the table at the head of the page, which is filled in at its end
    glance = page[0]["data"]["text/html"]
    assert 'id="T_glance"' in glance
    assert glance.count("<tr>") == 1 + len(table)


def _findings(study: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the cells of the notebook find here, in this process."""
    monkeypatch.chdir(study)
    values: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), values)
    found: list[dict[str, str]] = values["found"]
    return found


def test_a_clean_check_has_no_finding(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains = audit.average_gains().assign(
        stated=lambda t: t["stated"].where(t["stated"].isna(), t["mean"])
    )
    pairs = audit.reprinted_values().assign(difference=0.0)
    same = audit.duplicated_rows().query("same_model")
    monkeypatch.setattr(audit, "average_gains", lambda: gains)
    monkeypatch.setattr(audit, "reprinted_values", lambda: pairs)
    monkeypatch.setattr(audit, "duplicated_rows", lambda: same)
    titles = " ".join(one["finding"] for one in _findings(study, monkeypatch))
    assert "last digit" in titles
    for gone in ("Stated average", "two versions", "Two different"):
        assert gone not in titles


def test_sentences_follow_the_tables(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains = audit.average_gains()
    gains.loc[gains["stated"].notna() & (gains["network"] == "rcan"), "stated"] = 0.99
    monkeypatch.setattr(audit, "average_gains", lambda: gains)
    assert "0.99 dB for RCAN" in _findings(study, monkeypatch)[0]["it says"]
