"""What each stage's result rests on beside files: code, its notebook, parameters.

build/sources/BUDGET/distil-rcan_x2.txt, on which dvc.yaml lets that stage depend, has

- a hash of the code that the training of that cohort runs through. It follows the imports at the
  head of each module, so that no list has to be kept by hand, and hashes what the code does: a
  comment, a docstring, a module that lies elsewhere change nothing. What a stage may leave alone is
  left out: networks and methods that the cohort does not have, what functions import when they
  need it (quantisation, BSRGAN's degradation), for runs the look of plots and the record of the
  run, for all how params.yaml is checked.
- the code of its notebook; for pages the prose too.
- the values of params.yaml that it reads, and no others.
"""

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from augkd.study.params import load_study
from augkd.study.pipeline.stage import RUNS, Stage, pipeline

LEFT_OUT = {
    *("augkd/__init__.py", "augkd/errors.py", "augkd/study/params.py"),
    *("augkd/study/pipeline/stage.py", "augkd/study/pipeline/sources.py"),
}
LEFT_OUT_OF_RUNS = LEFT_OUT | {
    *("augkd/study/report/style.py", "augkd/study/record.py"),
    *("augkd/data/__init__.py", "augkd/distill/__init__.py"),  # a method more retrains no other
}
_NETWORKS = {name: f"augkd/models/{name}.py" for name in ("edsr", "rcan", "swinir")}
_READS = Path(__file__).with_name("reads.yaml")
_DATA = re.compile(
    r'"([\w.-]+\.(?:csv|npz|yaml|mplstyle))"'
)  # a file beside a module that it reads


def write_sources(budget: str, root: Path = Path(), out: Path = Path("build/sources")) -> None:
    """Writes the file of every stage that dvc.yaml and params.yaml make of a budget."""
    partial = root / out / f"{budget}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for stage in pipeline(root, budget).values():
        if stage.notebook != "sources":
            name = f"{stage.notebook}-{stage.entry}" if stage.entry else stage.notebook
            (partial / f"{name}.txt").write_text(describe(root, budget, stage), encoding="utf-8")
    shutil.rmtree(root / out / budget, ignore_errors=True)
    partial.rename(root / out / budget)


def describe(root: Path, budget: str, stage: Stage) -> str:
    """The text of a stage's file."""
    cells, found = cells_of(root, stage), modules(root, stage)
    data = sorted(path.read_bytes() for path in found if path.suffix != ".py")
    return "\n".join(
        [
            f"code {hash_code(path for path in found if path.suffix == '.py')}",
            *(f"data {hashlib.sha256(content).hexdigest()}" for content in data),
            yaml.safe_dump(values(root, budget, stage)),
            *notebook_text(cells, prose=stage.notebook not in RUNS),
        ]
    )


def cells_of(root: Path, stage: Stage) -> list[dict[str, Any]]:
    file = root / "notebooks" / f"{stage.notebook}.ipynb"
    return json.loads(file.read_text(encoding="utf-8"))["cells"] if file.is_file() else []


@cache
def _parsed(file: Path, modified: int) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return found


def parsed(file: Path) -> dict[str, Any]:
    """A YAML file as it is written: a default that is new in code is no new value."""
    return _parsed(file, file.stat().st_mtime_ns)


def keys(stage: Stage) -> list[str]:
    """The keys that its notebook reads, lists within lists made one."""
    listed = parsed(_READS).get(stage.notebook, [])
    return [key for item in listed for key in ([item] if isinstance(item, str) else item)]


def entries(root: Path, stage: Stage) -> dict[str, dict[str, Any]]:
    """What a stage teaches, distils, scores or shows, by its key in params.yaml."""
    params, own = parsed(root / "params.yaml"), list[str]()
    if stage.notebook in ("teach", "distil"):
        own = [f"{'teachers' if stage.notebook == 'teach' else 'cohorts'}.{stage.entry}"]
    elif stage.notebook == "score":
        group = load_study("", root, check_methods=False).group
        own = [f"cohorts.{name}" for name in params["cohorts"] if group(name) == stage.entry]
    own += [key for key in keys(stage) if key.startswith("cohorts.")]
    return {key: _look(params, key) for key in own}


def values(root: Path, budget: str, stage: Stage) -> dict[str, Any]:
    """The values of params.yaml that a stage reads, by their keys."""
    params, own = parsed(root / "params.yaml"), entries(root, stage)
    of = next(iter(own.values()), {"network": stage.entry})
    names = {
        "entry": stage.entry,
        "budget": f"budgets.{budget}",
        "network": of.get("network"),
        "teacher": _teacher(params, of).get("network"),
    }
    return own | {key: _look(params, key) for key in (k.format(**names) for k in keys(stage))}


def _look(found: Any, key: str) -> Any:
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _teacher(params: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a cohort's teacher; of others their own."""
    source = entry.get("teacher")
    if not source:
        return entry
    table, name = ("teachers", "trained") if "trained" in source else ("cohorts", "student")
    return dict(params[table][source[name]])


def modules(root: Path, stage: Stage) -> set[Path]:
    """The modules that a stage runs through, and the data files beside them that they read."""
    run, methods = stage.notebook in RUNS, methods_by_file(root)
    left, special = (LEFT_OUT_OF_RUNS if run else LEFT_OUT), list[str]()
    if stage.notebook in ("fetch", "site"):
        room = "acquire" if stage.notebook == "fetch" else "report"
        begin = [f"augkd/study/{room}/{stage.notebook}.py"]
        templates = root / "augkd/study/report/templates"
        begin += [p.relative_to(root).as_posix() for p in templates.iterdir() if room == "report"]
    else:
        cells = [cell for cell in cells_of(root, stage) if cell["cell_type"] == "code"]
        begin = list(_imports(root, "\n".join("".join(cell["source"]) for cell in cells)))
        special += _special(root, methods, stage) if run else ()
    skipped = {*left, *_NETWORKS.values(), *methods.values()} if run else left
    begin = [name for name in begin if name not in left]
    return {root / name for name in closure(root, [*begin, *special], skipped)}


def _special(root: Path, methods: dict[str, str], stage: Stage) -> Iterator[str]:
    """The files of networks, methods and cases that this run has and others may not."""
    own = [*entries(root, stage).values()] or [{"network": stage.entry}]
    if stage.notebook == "teach":
        yield methods["scratch"]  # Equation 1 alone
    for entry in own:
        if stage.notebook == "distil":
            for name, options in entry["methods"].items():
                yield methods[(options or {}).get("method", name)]
        for network in (
            entry.get("network"),
            _teacher(parsed(root / "params.yaml"), entry).get("network"),
        ):
            if network in _NETWORKS:  # a teacher from elsewhere comes through models/foreign.py
                yield _NETWORKS[network]
        if entry.get("bits"):
            yield "augkd/models/quantize.py"
        if entry.get("degradation") == "bsrgan":
            yield from ("augkd/degrade/bsrgan.py", "augkd/metrics/niqe.py")


def closure(root: Path, begin: Iterable[str], skipped: set[str]) -> set[str]:
    """The files that the given ones import at their heads, and so on, but for ``skipped`` ones.

    Those that ``begin`` has are followed in any case. Paths are relative to ``root``.
    """
    found: set[str] = set()
    waiting = list(begin)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        if file.endswith(".py"):
            text = (root / file).read_text(encoding="utf-8")
            waiting += [name for name in _imports(root, text) if name not in skipped]
            beside = {(root / file).parent / name for name in _DATA.findall(text)}
            waiting += [p.relative_to(root).as_posix() for p in beside if p.is_file()]
    return found


@cache  # a module is met once for each of fifty stages
def _imports(root: Path, code: str) -> tuple[str, ...]:
    """Files of this package that the head of a module, or a notebook's code, imports."""
    found = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("augkd"):
            base = node.module.replace(".", "/")
            for name in (base, *(f"{base}/{alias.name}" for alias in node.names)):
                found += [f for f in (f"{name}.py", f"{name}/__init__.py") if (root / f).is_file()]
    return tuple(found)


@cache
def methods_by_file(root: Path) -> dict[str, str]:
    """The file of each method, read out of augkd/distill/__init__.py without importing torch."""
    tree = ast.parse((root / "augkd/distill/__init__.py").read_text(encoding="utf-8"))
    files: dict[str, str] = {}
    table: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            files |= {a.name: node.module.replace(".", "/") + ".py" for a in node.names}
        elif isinstance(value := getattr(node, "value", None), ast.Dict):
            for key, name in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(name, ast.Name):
                    table[str(key.value)] = files[name.id]
    return table


def notebook_text(cells: list[dict[str, Any]], *, prose: bool) -> Iterator[str]:
    """What a notebook says, without what opening it in Jupyter changes."""
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            tags = " ".join(cell["metadata"].get("tags", []))
            yield "\n".join([f"# %% {tags}", *statements(text)])
        elif prose:
            yield f"# %% [markdown]\n{text}"


def hash_code(files: Iterable[Path]) -> str:
    """SHA-256 over what modules do: their statements, wherever they lie and however described.

    Comments, docstrings, layout, the order of statements and imports within the package count for
    nothing: what is imported is hashed itself.
    """
    found: set[str] = set()
    for file in files:
        found |= set(_statements_of(file))
    return hashlib.sha256("\0".join(sorted(found)).encode()).hexdigest()


@cache
def _statements_of(file: Path) -> tuple[str, ...]:
    return tuple(statements(file.read_text(encoding="utf-8")))


def statements(code: str) -> list[str]:
    """The statements of a module, without docstrings and imports of this package."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [part for part in body if not _is_left_out(part)] or [ast.Pass()]
    return [ast.unparse(node) for node in tree.body]


def _is_left_out(node: ast.AST) -> bool:
    """A text that stands for itself (a docstring), or an import of this package."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    if isinstance(node, ast.Import):
        return all(alias.name.split(".")[0] == "augkd" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "augkd"
