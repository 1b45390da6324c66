"""Lint, layout, types, imports, notebooks free of outputs: what ``make check`` does, as tests."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.notebooks_are_clean import dirty_notebooks

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command", ["ruff check .", "ruff format --check .", "mypy", "lint-imports --no-cache"]
)
def test_the_sources_are_clean(command: str) -> None:
    name, *arguments = command.split()
    tool = Path(sys.executable).with_name(name)
    if not tool.exists():
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_notebooks_hold_no_outputs() -> None:
    assert list((ROOT / "notebooks").glob("*.ipynb"))
    assert dirty_notebooks(ROOT / "notebooks") == []


def test_a_notebook_with_outputs_is_found(tmp_path: Path) -> None:
    def write(name: str, outputs: list[str], count: int | None) -> None:
        cell = {"cell_type": "code", "outputs": outputs, "execution_count": count}
        prose = {"cell_type": "markdown", "source": []}
        (tmp_path / name).write_text(json.dumps({"cells": [prose, cell]}))

    write("clean.ipynb", [], None)
    write("printed.ipynb", ["text"], None)
    write("counted.ipynb", [], 3)
    assert dirty_notebooks(tmp_path) == ["counted.ipynb", "printed.ipynb"]


def test_the_lock_installs_on_the_oldest_python() -> None:
    """As pyproject.toml promises it; Debian 12 has 3.11.2."""
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    for name in pinned:
        with suppress(PackageNotFoundError):  # what this platform does not need
            wanted = str(metadata(name).json.get("requires_python", ""))
            assert "3.11.0" in SpecifierSet(wanted), f"{name} needs Python {wanted}"
