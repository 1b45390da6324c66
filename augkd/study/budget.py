"""The budget that params.yaml chooses: one line, ``budget: *cpu``, that aliases an anchor."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from augkd.errors import UserError, replacing

_LINE = re.compile(rb"^(budget:[ \t]*\*)([\w.-]+)", re.MULTILINE)


def find_params() -> Path:
    """params.yaml of the folder that the working directory lies in, however deep.

    Raises:
        UserError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder / "params.yaml"
    raise UserError("params.yaml: not found here or above: run this in a clone of the study")


def read_budgets(path: Path) -> tuple[str, list[str]]:
    """The chosen budget's name, and the names of all.

    Raises:
        UserError: the file is not YAML, or lacks ``budgets`` or the line that chooses one.
    """
    return _parse(path, _read(path))


def switch_budget(path: Path, name: str) -> str:
    """Rewrites the one line that chooses the budget, and returns the name chosen before.

    Every other byte stays, comments and line ends included.

    Raises:
        UserError: the budget is unknown or has no anchor of its name, or as ``read_budgets``.
    """
    text = _read(path)
    before, names = _parse(path, text)
    if name not in names:
        raise UserError(f"budget '{name}' is unknown: choose one of {', '.join(names)}")
    if name == before:
        return before
    changed = _LINE.sub(rb"\g<1>" + name.encode(), text)
    mend = f"{path}: budgets.{name} needs an anchor of its name: write '{name}: &{name}'"
    try:
        after, _ = _parse(path, changed)
        same = yaml.safe_load(changed)["budget"] == yaml.safe_load(text)["budgets"][name]
    except UserError:
        raise UserError(mend) from None
    if after != name or not same:
        raise UserError(mend)
    with replacing(path) as partial:
        partial.write_bytes(changed)
    return before


def refuse_links(path: Path) -> None:
    """Sees to it that the benchmarks' folder has no linked folders in it.

    DVC does not look behind them: it would not score a set that is added so, and say nothing.

    Raises:
        UserError: it has, or as ``read_budgets``.
    """
    text = _read(path)
    _parse(path, text)
    data = yaml.safe_load(text).get("data") or {}
    if not data.get("benchmarks"):
        return
    for folder, below, _ in os.walk(path.parent / data["benchmarks"]):
        for name in sorted(below):
            if (Path(folder) / name).is_symlink():
                raise UserError(
                    f"{Path(folder) / name}: is a link, and DVC does not see what is behind it: "
                    "copy the folder, or let data.benchmarks of params.yaml name the folder that "
                    "it lies in"
                )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): name a params.yaml") from None


def _parse(path: Path, text: bytes) -> tuple[str, list[str]]:
    try:
        values: Any = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: not YAML{where}: mend it there") from None
    budgets = values.get("budgets") if isinstance(values, dict) else None
    if not isinstance(budgets, dict) or not budgets:
        raise UserError(f"{path}: has no 'budgets': expected a list of budgets by name")
    chosen = _LINE.findall(text)
    if len(chosen) != 1:
        raise UserError(
            f"{path}: has {len(chosen)} lines like 'budget: *name', expected one: write it so"
        )
    return chosen[0][1].decode(), [str(name) for name in budgets]
