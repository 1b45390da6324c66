"""Runs one stage of the pipeline: a notebook by papermill, or the site.

    python -m augkd.study.pipeline.stage NAME BUDGET [COHORT]

DVC calls it; the notebook's prints and progress bars reach the terminal as they happen.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from augkd.errors import UserError
from augkd.study.pipeline.sources import RUNS, write_sources
from augkd.study.pipeline.warm import ADDRESS, fork, keep_memory

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


def stage_names() -> list[str]:
    """The stages that dvc.yaml and params.yaml make together, in the order of the file."""
    return list(stage_commands())


def stage_commands(budget: str | None = None) -> dict[str, str]:
    """Those stages and their commands, for the chosen budget or for the one of that name.

    DVC can list them too, in over a second: too long for every stage.
    """
    stages, params = _read("dvc.yaml")["stages"], _read("params.yaml")
    if budget:
        params["budget"] = params["budgets"][budget]
    commands: dict[str, str] = {}
    for stage, body in stages.items():
        if "matrix" not in body:
            commands[stage] = body["cmd"]
            continue
        combinations: list[dict[str, str]] = [{}]
        for key, values in body["matrix"].items():
            listed: list[Any] = []
            for value in [values] if isinstance(values, str) else values:
                found = _interpolate(value, params)
                listed += found if isinstance(found, list) else [found]
            combinations = [{**one, key: str(value)} for one in combinations for value in listed]
        for item in combinations:
            command = body["cmd"]
            for key, value in item.items():
                command = command.replace(f"${{item.{key}}}", value)
            commands[f"{stage}@{'-'.join(item.values())}"] = command
    return commands


def _read(name: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = yaml.load(Path(name).read_text(encoding="utf-8"), yaml.CSafeLoader)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}: run in a clone of the study") from None
    except yaml.YAMLError:
        raise UserError(f"{name}: not YAML: mend it (git diff shows what changed)") from None
    return values


def _interpolate(text: Any, params: dict[str, Any]) -> Any:
    if not (isinstance(text, str) and text.startswith("${") and text.endswith("}")):
        return text
    value: Any = params
    for key in text[2:-1].split("."):
        value = value[key]
    return value


def place(name: str, cohort: str | None) -> str:
    """A stage as the terminal names it: "[n/m] stage", with its number where DVC runs it."""
    label = os.environ.get("DVC_STAGE", "")
    names = stage_names() if label else []
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
