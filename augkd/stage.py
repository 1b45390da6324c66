"""Runs one stage of the pipeline: a notebook by papermill, or the site.

    python -m augkd.stage NAME BUDGET [COHORT]

DVC calls it; the notebook's prints and progress bars reach the terminal as they happen.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from augkd.errors import UserError

RUNS = ("prepare", "teach", "distil", "score")  # notebooks of one run each; the rest are pages


def notebook_folder(name: str, budget: str, cohort: str | None) -> Path:
    """Where a stage keeps its executed notebook."""
    parts = [name, cohort] if cohort else [name] if name in RUNS else ["pages", name]
    return Path("runs", budget, *parts)


def filter_notebooks(source: Path = Path("notebooks"), out: Path = Path("build/notebooks")) -> None:
    """Writes what each notebook says, without what opening it in Jupyter changes.

    Stages depend on these files. Those of the four run notebooks hold code alone, so that a
    word of prose never retrains; those of pages hold the prose too.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("*.ipynb")):
        cells = json.loads(file.read_text())["cells"]
        kinds = ("code",) if file.stem in RUNS else ("code", "markdown")
        parts = []
        for cell in cells:
            if cell["cell_type"] in kinds:
                tags = " ".join(cell["metadata"].get("tags", []))
                parts.append(f"# %% {cell['cell_type']} {tags}\n{''.join(cell['source'])}\n")
        (out / f"{file.stem}.txt").write_text("\n".join(parts))


def stage_names() -> list[str]:
    """The stages that dvc.yaml and params.yaml make together, in the order of the file.

    DVC can list them too, in over a second: too long for every stage.
    """
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    params = yaml.safe_load(Path("params.yaml").read_text())
    names: list[str] = []
    for stage, body in stages.items():
        if "matrix" not in body:
            names.append(stage)
            continue
        combinations = [""]
        for values in body["matrix"].values():
            listed: list[Any] = []
            for value in [values] if isinstance(values, str) else values:
                found = _interpolate(value, params)
                listed += found if isinstance(found, list) else [found]
            combinations = [f"{head}-{value}" for head in combinations for value in listed]
        names += [f"{stage}@{combination[1:]}" for combination in combinations]
    return names


def _interpolate(text: str, params: dict[str, Any]) -> Any:
    if not (text.startswith("${") and text.endswith("}")):
        return text
    value: Any = params
    for key in text[2:-1].split("."):
        value = value[key]
    return value


def announce(name: str, cohort: str | None) -> None:
    """Prints "[n/m] stage", with DVC's own name of the stage where it is known."""
    label = os.environ.get("DVC_STAGE", "")
    names = stage_names()
    where = f"[{names.index(label) + 1}/{len(names)}] " if label in names else ""
    print(f"\n{where}{name}{f' {cohort}' if cohort else ''}", flush=True)


def run_notebook(name: str, budget: str, cohort: str | None) -> Path:
    """Executes notebooks/NAME.ipynb; the executed copy is written even when a cell fails.

    Raises:
        UserError: a cell raised one; its line alone is passed on.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    folder = notebook_folder(name, budget, cohort)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"budget": budget} | ({"cohort": cohort} if cohort else {})
    try:
        papermill.execute_notebook(
            Path("notebooks", f"{name}.ipynb"),
            folder / "notebook.ipynb",
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(str(error.evalue)) from None
        raise
    return folder / "notebook.ipynb"


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 3:
        print("usage: python -m augkd.stage NAME BUDGET [COHORT]", file=sys.stderr)
        return 2
    name = arguments[0]
    budget = arguments[1] if len(arguments) > 1 else ""
    cohort = arguments[2] if len(arguments) > 2 else None
    # jsonschema would build a grammar of IRIs, for a second, which no notebook has
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    begun = time.monotonic()
    announce(name, cohort)
    try:
        if name == "notebooks":
            filter_notebooks()
        elif name == "site":
            from augkd.site import build

            print(build(budget))
        else:
            run_notebook(name, budget, cohort)
    except UserError as error:
        print(f"augkd: {error}", file=sys.stderr)
        return 1
    print(f"  done in {time.monotonic() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
