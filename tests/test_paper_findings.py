"""The audit in words: every finding that the tables give, each number from them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

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
def page(study: Path) -> list[dict[str, str]]:
    """What the executed page shows, one output after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv(STAGE, "audit")
        made = papermill.execute_notebook(NOTEBOOK, None, progress_bar=False, cwd=study)
    return [output["data"] for cell in made.cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def table(study: Path, page: list[dict[str, str]]) -> pd.DataFrame:
    (file,) = study.glob("runs/*/pages/audit/findings.csv")
    return pd.read_csv(file, index_col=0)


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
        ("Not every method", ["EDSR lacks CrossKD", "RCAN lacks CSD", "SwinIR lacks"]),
        ("NIQE", ["0.027", "0.030", "0.158"]),
        ("Fewer operations", ["7.1", "1.9"]),
        ("only", ["0.21", "43 %", "0.55"]),
        ("CSD's row", ["4 PSNR", "0.04"]),
    ],
)
def test_each_finding_states_the_computed_numbers(
    table: pd.DataFrame, page: list[dict[str, str]], title: str, numbers: list[str]
) -> None:
    (row,) = (row for row in table.to_dict("records") if title in row["finding"])
    kind, where, finding, says, shows = row.values()
    for number in numbers:
        assert number in f"{finding} {says} {shows}", number
    texts = [data.get("text/markdown", "") for data in page]
    (place,) = (k for k, text in enumerate(texts) if text.startswith(f"### {finding}\n"))
    assert f"*{where} · {kind}.*" in texts[place]
    for words in (f"paper says:** {says}", f"tables say:** {shows}", "Why it matters:** "):
        assert words in texts[place]
    assert not re.search(r"nan|None|[a-z]+_[a-z]+|:\*\* *$", texts[place])
    assert "<td" in page[place + 1]["text/html"]


def test_contradictions_come_first(table: pd.DataFrame, page: list[dict[str, str]]) -> None:
    assert list(table) == ["kind", "where", "finding", "it says", "its tables say"]
    assert list(table["kind"]) == sorted(table["kind"], key=KINDS.index)
    assert len(table) == table["finding"].nunique() == 14
    # the table at the head of the page, which is filled in at its end
    assert 'id="T_glance"' in page[0]["text/html"]
    assert page[0]["text/html"].count("<tr>") == 1 + len(table)


def _findings(study: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the cells of the notebook find here, in this process."""
    monkeypatch.chdir(study)
    values: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), values)
    found: list[dict[str, str]] = values["found"]
    return found


def test_findings_follow_the_tables(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains, pairs = audit.average_gains(), audit.reprinted_values().assign(difference=0.0)
    same = audit.duplicated_rows().query("same_model")
    monkeypatch.setattr(audit, "average_gains", lambda: gains)
    monkeypatch.setattr(audit, "reprinted_values", lambda: pairs)
    monkeypatch.setattr(audit, "duplicated_rows", lambda: same)
    told = gains["stated"].notna()
    gains.loc[told & (gains["network"] == "rcan"), "stated"] = 0.99
    assert "0.99 dB for RCAN" in _findings(study, monkeypatch)[0]["it says"]
    gains["stated"] = gains["mean"].where(told)
    titles = " ".join(one["finding"] for one in _findings(study, monkeypatch))
    assert "last digit" in titles
    for gone in ("Stated average", "two versions", "Two different"):
        assert gone not in titles  # a clean check has no finding
