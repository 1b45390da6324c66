"""The stages of dvc.yaml, and how one of them is run: a notebook by papermill, or the site.

    python -m augkd.study.pipeline.stage NOTEBOOK BUDGET [ENTRY]

DVC calls it; the notebook's prints and progress bars reach the terminal as they happen.
"""

import gc
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

from augkd.errors import UserError, one_line

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

    Its command runs a notebook ("sources", "fetch" and "site" are none), for an entry: a cohort, a
    teacher, a group of scores, a page; "" where there is but one.
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
    from augkd.study.params import read_params  # which calls this module

    (_, dvc), (_, params) = (read_params(root / name) for name in ("dvc.yaml", "params.yaml"))
    if budget:
        params["budget"] = params["budgets"][budget]
    found: dict[str, Stage] = {}
    for stage, body in dvc["stages"].items():
        lists = [_fill(values, params) for values in body.get("matrix", {}).values()]
        for chosen in product(*lists):
            name = "@".join([stage, "-".join(map(str, chosen))]) if lists else stage
            of = params | {"item": dict(zip(body.get("matrix", {}), chosen, strict=True))}
            deps, outs = (tuple(_fill(body.get(key, []), of)) for key in ("deps", "outs"))
            command = _fill(body["cmd"], of)
            notebook, _, entry = [*command.partition(f"{MODULE} ")[2].split(), "", "", ""][:3]
            found[name] = Stage(name, command, deps, outs, notebook, entry)
    return found


def _fill(text: Any, params: dict[str, Any]) -> Any:
    """``text``, or each in a list, with every ${a.b} replaced by what it names."""
    if isinstance(text, list):
        return [_fill(item, params) for item in text]
    if isinstance(text, dict):  # a path with its options
        return _fill(next(iter(text)), params)
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
    of = {stage.entry: stage for stage in stages if stage.notebook == notebook}
    if entry not in of:
        has = f"budget '{study.budget.name}' has no such stage: it has {', '.join(of) or 'none'}"
        raise UserError(f"{notebook} '{entry}': {has}")
    return of[entry]


def need(study: "Study", notebook: str, entry: str = "") -> None:
    """Sees to it that a notebook that was opened by hand finds what a stage makes.

    A stage of the pipeline has it already. Opened by hand, at budget smoke, the stage is run, with
    all that it rests on; at other budgets that takes too long to be done unasked, and a UserError
    names the command.
    """
    if not study.by_hand:
        return
    stage = find(study, notebook, entry)
    results = [out for out in stage.outs if not out.endswith("notebook.ipynb")]
    if all((study.root / out).exists() for out in results):
        return
    if study.budget.name != "smoke" or study.params.budget.name != "smoke":
        how = f"run 'make repro BUDGET={study.budget.name}' first, or 'dvc repro {stage.name}'"
        raise UserError(f"{results[0]}: not there yet: {how}")
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", stage.name]
    done = subprocess.run(command, cwd=study.root, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc repro {stage.name} failed: run it in a shell to see why")


def run_notebook(notebook: str, budget: str, entry: str) -> None:
    """Executes notebooks/NOTEBOOK.ipynb into a copy, which takes its name once every cell has run.

    Raises:
        UserError: a cell raised one; its line alone is passed on, and no copy is left. Whatever
            else a cell raises is passed on too; the copy then stays as failed.ipynb.
    """
    gc.disable()  # until the notebook has imported: of that time it would take a fifth
    from papermill import execute_notebook
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError

    from augkd.study.pipeline.engine import InProcess

    own = Path("teach" if notebook == "take" else notebook, entry.replace("-", "/"))
    folder = Path("runs", budget, own if notebook in RUNS else Path("pages", entry or notebook))
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / "failed.ipynb"
    parameters = {"budget": budget} | ({ENTRIES.get(notebook, "page"): entry} if entry else {})
    os.environ[STAGE] = notebook  # for the notebook
    papermill_engines.register("in_process", InProcess)
    try:
        how: dict[str, Any] = {"engine_name": "in_process", "progress_bar": False}
        source = Path("notebooks", f"{notebook}.ipynb")
        execute_notebook(source, failed, parameters, autosave_cell_every=0, **how)
    except PapermillExecutionError as error:
        told = {"UserError": UserError, "KeyboardInterrupt": KeyboardInterrupt}
        told |= {"OSError": OSError, "PermissionError": OSError}  # full, or read-only
        if error.ename not in told:
            raise
        failed.unlink()
        raise told[error.ename](error.evalue) from None
    finally:
        gc.enable()
    os.replace(failed, folder / "notebook.ipynb")


def run(notebook: str, budget: str, entry: str) -> None:
    """What a stage does. UserError if there is none such, or it lacks what it needs."""
    notebooks = sorted(file.stem for file in Path("notebooks").glob("*.ipynb"))
    if notebook not in (known := ["sources", "fetch", *notebooks, "site"]):
        raise UserError(f"stage '{notebook}' is unknown: choose of {', '.join(known)}")
    if not budget or (notebook in ENTRIES and not entry):
        more = f" and a {ENTRIES[notebook]}" if notebook in ENTRIES else ""
        raise UserError(f"stage '{notebook}' needs a budget{more}: as dvc.yaml has it")
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
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore  # any name, in any locale
    try:
        names, label = list(pipeline()), os.environ.get("DVC_STAGE", "")  # where DVC runs it
        number = f"[{names.index(label) + 1}/{len(names)}] " if label in names else ""
        print(f"\n{number}{notebook} {entry}".rstrip(), flush=True)
        run(notebook, budget, entry)
    except (UserError, OSError) as error:
        print(f"augkd: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    took = time.monotonic() - begun
    print(f"{number}{notebook} {entry}".rstrip() + f": done in {took:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
