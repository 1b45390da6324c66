"""Runs one stage of the pipeline: a notebook by papermill, or the site.

    python -m augkd.study.pipeline.stage NAME BUDGET [COHORT]

DVC calls it; the notebook's prints and progress bars reach the terminal as they happen.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from augkd.errors import UserError
from augkd.study.pipeline.sources import RUNS, write_sources
from augkd.study.pipeline.warm import ADDRESS, fork, keep_memory

if TYPE_CHECKING:
    from augkd.study.params import Study

MODULE = "augkd.study.pipeline.stage"
_PLACE = re.compile(r"\$\{([\w.]+)\}")
OF_COHORTS = ("take", "teach", "distil", "score")
FOLDERS = {"take": "teach"}  # where a stage's runs lie, if not under its own name
USES_GPU = ("teach", "distil", "score")
TIMED = ("table_01", "table_11", "methods")  # which measure seconds: nothing runs beside them


def notebook_of(command: str | None) -> str:
    """The notebook that a stage's command in dvc.yaml runs; nothing for another command."""
    words = (command or "").split()
    return (
        words[words.index("augkd.study.pipeline.stage") + 1]
        if "augkd.study.pipeline.stage" in words
        else ""
    )


def notebook_folder(name: str, budget: str, cohort: str | None) -> Path:
    """Where a stage keeps its executed notebook."""
    stage = FOLDERS.get(name, name)
    parts = [stage, cohort] if cohort else [stage] if name in RUNS else ["pages", name]
    return Path("runs", budget, *parts)


@dataclass(frozen=True)
class Stage:
    """A stage as dvc.yaml and params.yaml make it together; paths are relative to the study.

    Attributes:
        name: DVC's, e.g. "distil@cpu-edsr-2".
        command: what DVC runs.
        deps, outs: what it reads and writes.
        desc: one line for people.
    """

    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    desc: str = ""

    @property
    def notebook(self) -> str:
        """The notebook that it runs, or "sources", "fetch", "site"."""
        words = self.command.split()
        return words[words.index(MODULE) + 1] if MODULE in words else ""

    @property
    def entry(self) -> str:
        """What of it: a cohort, a teacher, a group of scores, a page; "" where there is but one."""
        words = self.command.split()
        return words[words.index(MODULE) + 3] if len(words) > words.index(MODULE) + 3 else ""


def pipeline(root: Path = Path(), budget: str = "") -> dict[str, Stage]:
    """The stages of the chosen budget, or of the one of that name, in the order of dvc.yaml.

    DVC can list the chosen budget's too, in over a second: too long for every stage.
    """
    stages, params = _read(root / "dvc.yaml")["stages"], _read(root / "params.yaml")
    if budget:
        params["budget"] = params["budgets"][budget]
    found: dict[str, Stage] = {}
    for stage, body in stages.items():
        items: list[dict[str, str]] = [{}]
        for key, values in body.get("matrix", {}).items():
            listed: list[Any] = []
            for value in [values] if isinstance(values, str) else values:
                filled = _fill(value, params)
                listed += filled if isinstance(filled, list) else [filled]
            items = [{**one, key: str(value)} for one in items for value in listed]
        for item in items:
            name = f"{stage}@{'-'.join(item.values())}" if "matrix" in body else stage
            of = params | {"item": item}
            paths = [
                tuple(
                    str(_fill(next(iter(p)) if isinstance(p, dict) else p, of))
                    for p in body.get(kind, ())
                )
                for kind in ("deps", "outs")
            ]
            found[name] = Stage(name, str(_fill(body["cmd"], of)), *paths, body.get("desc", ""))
    return found


def _fill(text: Any, params: dict[str, Any]) -> Any:
    """``text`` with every ${a.b} replaced by what it names; a list where it is just that."""

    def look(match: re.Match[str]) -> Any:
        value: Any = params
        for key in match[1].split("."):
            value = value[key]
        return value

    if not isinstance(text, str):
        return text
    if whole := _PLACE.fullmatch(text):
        return look(whole)
    return _PLACE.sub(lambda match: str(look(match)), text)


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
    stages = pipeline(study.root, study.budget.name).values()
    stage = next((s for s in stages if (s.notebook, s.entry) == (notebook, entry)), None)
    if stage is None:
        raise UserError(
            f"budget '{study.budget.name}' has no stage {notebook} {entry}: choose another budget"
        )
    if all((study.root / out).exists() for out in stage.outs):
        return
    if study.budget.name != "smoke" or study.params.budget.name != "smoke":
        raise UserError(
            f"{stage.outs[0]}: not there yet: run 'make repro BUDGET={study.budget.name}' first, "
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


def place(name: str, cohort: str | None) -> str:
    """A stage as the terminal names it: "[n/m] stage", with its number where DVC runs it."""
    label = os.environ.get("DVC_STAGE", "")
    names = list(pipeline()) if label else []
    where = f"[{names.index(label) + 1}/{len(names)}] " if label in names else ""
    return f"{where}{name}{f' {cohort}' if cohort else ''}"


def run_notebook(name: str, budget: str, cohort: str | None) -> Path:
    """Executes notebooks/NAME.ipynb into a copy, which takes its name once every cell has run.

    Raises:
        UserError: a cell raised one; its line alone is passed on, and no copy is left. Whatever
            else a cell raises is passed on too; the copy then stays as failed.ipynb.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    keep_memory(os.environ)  # for the kernel, which reads it when it starts
    folder = notebook_folder(name, budget, cohort)
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / "failed.ipynb"
    of = {"score": "group", "take": "network"}.get(name, "cohort")
    parameters = {"budget": budget} | ({of: cohort} if cohort else {})
    try:
        papermill.execute_notebook(
            Path("notebooks", f"{name}.ipynb"),
            failed,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=CRITICAL"],  # not the kernel's word on unencrypted TCP
        )
    except PapermillExecutionError as error:
        if error.ename == "UserError":
            failed.unlink()
            raise UserError(str(error.evalue)) from None
        raise
    os.replace(failed, folder / "notebook.ipynb")
    return folder / "notebook.ipynb"


def check_request(name: str, budget: str, cohort: str | None) -> None:
    """Raises UserError for a stage that there is not, or one without what it needs."""
    notebooks = sorted(file.stem for file in Path("notebooks").glob("*.ipynb"))
    known = ["sources", "fetch", *notebooks, "site"]
    if name not in known:
        raise UserError(f"stage '{name}' is unknown: choose of {', '.join(known)}")
    if name != "sources" and not budget:
        raise UserError(
            f"stage '{name}' needs a budget: python -m augkd.study.pipeline.stage {name} smoke"
        )
    if name in OF_COHORTS and not cohort:
        raise UserError(
            f"stage '{name}' needs a cohort: python -m augkd.study.pipeline.stage {name} {budget} "
            f"{'edsr' if name in ('take', 'score') else 'edsr_x2'}"
        )


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 3:
        print("usage: python -m augkd.study.pipeline.stage NAME BUDGET [COHORT]", file=sys.stderr)
        return 2
    name = arguments[0]
    budget = arguments[1] if len(arguments) > 1 else ""
    cohort = arguments[2] if len(arguments) > 2 else None
    # jsonschema would build a grammar of IRIs, for a second, which no notebook has
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    begun = time.monotonic()
    try:
        check_request(name, budget, cohort)
        print(f"\n{(announced := place(name, cohort))}", flush=True)
        if name == "sources":
            write_sources()
        elif name == "fetch":
            from augkd.study.acquire.fetch import fetch_study
            from augkd.study.params import load_study

            fetch_study(load_study(budget, check_methods=False))
        elif name == "site":
            from augkd.study.report.site import build

            print(build(budget))
        else:
            run_notebook(name, budget, cohort)
    except UserError as error:
        print(f"augkd: {error}", file=sys.stderr)
        return 1
    print(f"{announced}: done in {time.monotonic() - begun:.0f} s", flush=True)
    return 0


def run(arguments: list[str]) -> int:
    """``main``, in a process that has the libraries loaded if there is one to fork."""
    if ADDRESS in os.environ:
        try:
            return fork("augkd.study.pipeline.stage", arguments).wait()
        except OSError:
            pass  # without it, it is only slower
        except KeyboardInterrupt:
            return 130
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
