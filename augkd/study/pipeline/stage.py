"""The stages of dvc.yaml, and how one of them is run: a notebook by papermill, or the site.

    python -m augkd.study.pipeline.stage NOTEBOOK BUDGET [ENTRY]

DVC calls it; the notebook's prints and progress bars reach the terminal as they happen.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import reduce
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from augkd.errors import UserError

if TYPE_CHECKING:
    from augkd.study.params import Study

MODULE = "augkd.study.pipeline.stage"
STAGE = "AUGKD_STAGE"  # set in the notebook of a stage
# notebooks that are run for one thing at a time, and what they call it; others' is their page
ENTRIES = {"take": "network", "teach": "cohort", "distil": "cohort", "score": "group"}
RUNS = ("prepare", *ENTRIES)  # notebooks that make results; the rest are pages
_PLACE = re.compile(r"\$\{([\w.]+)\}")


class Stage(NamedTuple):
    """A stage as dvc.yaml and params.yaml make it together; paths are relative to the study.

    Attributes:
        name: DVC's, e.g. "distil@cpu-edsr-2".
        command: what DVC runs.
        deps, outs: what it reads and writes.
        notebook: what the command runs: a notebook, or "sources", "fetch", "site".
        entry: what of it: a cohort, a teacher, a group of scores, a page; "" where it is one.
    """

    name: str
    command: str
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    notebook: str = ""
    entry: str = ""


def pipeline(root: Path = Path(), budget: str = "") -> dict[str, Stage]:
    """The stages of the chosen budget, or of the one of that name, in the order of dvc.yaml.

    DVC can list the chosen budget's too, in over a second: too long for every stage.
    """
    stages, params = _read(root / "dvc.yaml")["stages"], _read(root / "params.yaml")
    if budget:
        params["budget"] = params["budgets"][budget]
    found: dict[str, Stage] = {}
    for stage, body in stages.items():
        lists = [_fill(values, params) for values in body.get("matrix", {}).values()]
        for chosen in product(*lists):
            name = "@".join([stage, "-".join(map(str, chosen))]) if lists else stage
            of = params | {"item": dict(zip(body.get("matrix", {}), chosen, strict=True))}
            deps, outs = (
                tuple(_fill(p if isinstance(p, str) else next(iter(p)), of) for p in listed)
                for listed in (body.get("deps", ()), body.get("outs", ()))
            )
            command = _fill(body["cmd"], of)
            notebook, _, entry = [*command.partition(f"{MODULE} ")[2].split(), "", "", ""][:3]
            found[name] = Stage(name, command, deps, outs, notebook, entry)
    return found


def _fill(text: Any, params: dict[str, Any]) -> Any:
    """``text``, or each in a list, with every ${a.b} replaced by what it names."""
    if isinstance(text, list):
        return [_fill(item, params) for item in text]
    if not isinstance(text, str):
        return text
    if whole := _PLACE.fullmatch(text):  # which may be a list
        return reduce(lambda value, key: value[key], whole[1].split("."), params)
    return _PLACE.sub(lambda match: str(_fill(match[0], params)), text)


def upstream(stages: Mapping[str, Stage]) -> dict[str, set[str]]:
    """Of each stage, those that write what it reads: the file, a folder round it or in it."""
    makers = {Path(out): name for name, stage in stages.items() for out in stage.outs}
    return {
        name: {
            maker
            for dep in map(Path, stage.deps)
            for out, maker in makers.items()
            if out == dep or out in dep.parents or dep in out.parents
        }
        - {name}
        for name, stage in stages.items()
    }


def find(study: "Study", notebook: str, entry: str = "") -> Stage:
    """The stage that runs a notebook for an entry.

    Raises:
        UserError: the budget has none.
    """
    stages = pipeline(study.root, study.budget.name).values()
    of = [stage for stage in stages if stage.notebook == notebook]
    for stage in of:
        if stage.entry == entry:
            return stage
    known = ", ".join(stage.entry for stage in of) or "no such notebook"
    raise UserError(
        f"{notebook} '{entry}': budget '{study.budget.name}' has no such stage: it has {known}"
    )


def need(study: "Study", notebook: str, entry: str = "") -> None:
    """Sees to it that a notebook that was opened by hand finds what a stage makes.

    A stage of the pipeline has it already. Opened by hand, at budget smoke, the stage is run, with
    all that it rests on; at other budgets that takes too long to be done unasked.

    Args:
        notebook, entry: of the stage, e.g. ("score", "edsr"), ("distil", "edsr_x4"), ("prepare",).

    Raises:
        UserError: it is not there: names the command that makes it.
    """
    if not study.by_hand:
        return
    stage = find(study, notebook, entry)
    results = [out for out in stage.outs if not out.endswith("notebook.ipynb")]
    if all((study.root / out).exists() for out in results):
        return
    if study.budget.name != "smoke" or study.params.budget.name != "smoke":
        raise UserError(
            f"{results[0]}: not there yet: run 'make repro BUDGET={study.budget.name}' first, "
            f"or 'dvc repro {stage.name}'"
        )
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", stage.name]
    done = subprocess.run(command, cwd=study.root, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc repro {stage.name} failed: run it in a shell to see why")


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: run in a clone of the study") from None
    except yaml.YAMLError:
        raise UserError(f"{path}: not YAML: mend it (git diff shows what changed)") from None
    return values


def place(label: str, notebook: str, entry: str) -> str:
    """A stage as the terminal names it: "[n/m] notebook entry", numbered where DVC runs it."""
    names = list(pipeline()) if label else []
    where = f"[{names.index(label) + 1}/{len(names)}] " if label in names else ""
    return f"{where}{notebook} {entry}".rstrip()


def run_notebook(notebook: str, budget: str, entry: str) -> Path:
    """Executes notebooks/NOTEBOOK.ipynb into a copy, which takes its name once every cell has run.

    Raises:
        UserError: a cell raised one; its line alone is passed on, and no copy is left. Whatever
            else a cell raises is passed on too; the copy then stays as failed.ipynb.
    """
    from papermill import execute_notebook
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError

    from augkd.study.pipeline.engine import InProcess

    folder = Path("runs", budget) / (
        Path("teach" if notebook == "take" else notebook, entry)
        if notebook in RUNS
        else Path("pages", entry or notebook)
    )
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / "failed.ipynb"
    os.environ[STAGE] = notebook  # for the notebook
    papermill_engines.register("in_process", InProcess)
    try:
        execute_notebook(
            Path("notebooks", f"{notebook}.ipynb"),
            failed,
            parameters={"budget": budget}
            | ({ENTRIES.get(notebook, "page"): entry} if entry else {}),
            engine_name="in_process",
            progress_bar=False,
            autosave_cell_every=0,
        )
    except PapermillExecutionError as error:
        if error.ename in ("UserError", "KeyboardInterrupt"):
            failed.unlink()
            raise (UserError(str(error.evalue)) if error.evalue else KeyboardInterrupt) from None
        raise
    os.replace(failed, folder / "notebook.ipynb")
    return folder / "notebook.ipynb"


def run(notebook: str, budget: str, entry: str) -> None:
    """What a stage does.

    Raises:
        UserError: there is no such stage, it lacks what it needs, or whatever it says itself.
    """
    notebooks = sorted(file.stem for file in Path("notebooks").glob("*.ipynb"))
    if notebook not in (known := ["sources", "fetch", *notebooks, "site"]):
        raise UserError(f"stage '{notebook}' is unknown: choose of {', '.join(known)}")
    if not budget or (notebook in ENTRIES and not entry):
        more = f" and a {ENTRIES[notebook]}" if notebook in ENTRIES else ""
        example = {"take": " edsr", "score": " edsr", "teach": " edsr_x2", "distil": " edsr_x2"}
        raise UserError(
            f"stage '{notebook}' needs a budget{more}: python -m {MODULE} {notebook} smoke"
            f"{example.get(notebook, '')}"
        )
    if notebook == "sources":
        from augkd.study.pipeline.sources import write_sources

        write_sources(budget)
    elif notebook == "fetch":
        from augkd.study.acquire.fetch import fetch_study
        from augkd.study.params import load_study

        fetch_study(load_study(budget, check_methods=False))
    elif notebook == "site":
        from augkd.study.report.site import build

        print(build(budget))
    else:
        run_notebook(notebook, budget, entry)


def main(arguments: list[str]) -> int:
    notebook, budget, entry = [*arguments, "", "", ""][:3]
    begun = time.monotonic()
    try:
        announced = place(os.environ.get("DVC_STAGE", ""), notebook, entry)
        print(f"\n{announced}", flush=True)
        run(notebook, budget, entry)
    except UserError as error:
        print(f"augkd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{announced}: done in {time.monotonic() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
