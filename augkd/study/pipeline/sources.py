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

from augkd.study.pipeline.stage import RUNS, Stage, pipeline

LEFT_OUT = {
    *("augkd/__init__.py", "augkd/errors.py", "augkd/study/params.py"),
    *("augkd/study/pipeline/stage.py", "augkd/study/pipeline/sources.py"),
}
LEFT_OUT_OF_RUNS = LEFT_OUT | {
    *("augkd/study/report/style.py", "augkd/study/record.py"),
    *("augkd/data/__init__.py", "augkd/distill/__init__.py"),  # a method more retrains no other
}
_CHOSEN = ("augkd/models/edsr.py", "augkd/models/rcan.py", "augkd/models/swinir.py")
_DATA = re.compile(r'"([\w.-]+\.(?:csv|npz|yaml))"')  # a file beside a module that it reads

# Keys of params.yaml, with {entry} for the stage's, {network} for its student's, {teacher} for its
# teacher's, {budget} for budgets.NAME. A key that is not there counts as null.
_TRAINING = ("seed", "data.edges", "optimiser", "{budget}.images.datasets")
_STUDENTS = (
    *(*_TRAINING, "augment", "{budget}.methods", "{budget}.distil"),
    *("{budget}.schedules.{network}.distil", "{budget}.networks.{network}"),
)
_PICTURE = ("seed", "data.edges", "{budget}.networks.{network}")
KEYS: dict[str, tuple[str, ...]] = {
    "fetch": ("{budget}.images", "{budget}.checkpoints", "{budget}.methods", "data.registry"),
    "prepare": (
        *("data.benchmarks", "data.edges", "{budget}.images"),
        *("{budget}.teach.patch", "{budget}.distil.patch"),
    ),
    "take": (
        *("data.edges", "{budget}.checkpoints", "{budget}.networks.{entry}.teacher"),
        *(f"teachers.{{entry}}_x{scale}" for scale in (2, 3, 4)),
    ),
    "teach": (
        *(*_TRAINING, "teachers.{entry}", "{budget}.teach"),
        *("{budget}.networks.{network}.teacher", "{budget}.schedules.{network}.teach"),
    ),
    "distil": (*_STUDENTS, "cohorts.{entry}", "{budget}.networks.{teacher}"),
    "score": ("data.edges", "{budget}.images.datasets", "{budget}.score"),  # and the cohorts
    "table_01": ("{budget}.networks",),
    "table_09": ("{budget}.images", "cohorts.unexpanded_x4", "cohorts.expanded_x4"),
    "table_11": (*_STUDENTS, "cohorts.edsr_x2"),
    "figure_01": (*_PICTURE, "cohorts.edsr_x4"),
    "figure_04": (*_PICTURE, "cohorts.edsr_x4"),
    "crops": (*_PICTURE, "cohorts.edsr_x4"),
    "figure_08": (*_PICTURE, "cohorts.real_x4"),
    "methods": ("seed", "cohorts.controls_x2"),
    "site": ("{budget}.about",),
}


def write_sources(budget: str, root: Path = Path(), out: Path = Path("build/sources")) -> None:
    """Writes the file of every stage that dvc.yaml and params.yaml make of a budget."""
    params = yaml.load((root / "params.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    partial = root / out / f"{budget}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for stage in pipeline(root, budget).values():
        if stage.notebook != "sources":
            name = f"{stage.notebook}-{stage.entry}" if stage.entry else stage.notebook
            text = describe(root, params, budget, stage)
            (partial / f"{name}.txt").write_text(text, encoding="utf-8")
    shutil.rmtree(root / out / budget, ignore_errors=True)
    partial.rename(root / out / budget)


def describe(root: Path, params: dict[str, Any], budget: str, stage: Stage) -> str:
    """The text of a stage's file."""
    cells: list[dict[str, Any]] = []
    if (file := root / "notebooks" / f"{stage.notebook}.ipynb").is_file():
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    found = modules(root, code, params, stage)
    data = sorted(path.read_bytes() for path in found if path.suffix != ".py")
    return "\n".join(
        [
            f"code {hash_code(path for path in found if path.suffix == '.py')}",
            *(f"data {hashlib.sha256(content).hexdigest()}" for content in data),
            yaml.safe_dump(chosen(params, budget, stage), sort_keys=True),
            *notebook_text(cells, prose=stage.notebook not in RUNS),
        ]
    )


def chosen(params: dict[str, Any], budget: str, stage: Stage) -> dict[str, Any]:
    """The values of params.yaml that a stage reads, by their keys."""
    taught, cohorts = _entries(params, stage)
    of = (cohorts or [taught] if taught or cohorts else [{"network": "edsr"}])[0]
    if stage.notebook == "figure_08":
        of = params["cohorts"]["real_x4"]
    names = {
        "entry": stage.entry,
        "budget": f"budgets.{budget}",
        "network": of.get("network"),
        "teacher": (_teacher(params, of) if "teacher" in of else of).get("network"),
    }
    keys = [key.format(**names) for key in KEYS.get(stage.notebook, ())]
    if stage.notebook == "score":
        keys += [f"cohorts.{name}" for name in _group(params, stage.entry)]
    return {key: _look(params, key) for key in keys}


def _look(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def modules(root: Path, code: str, params: dict[str, Any], stage: Stage) -> set[Path]:
    """The modules that a stage runs through, and the data files beside them that they read."""
    methods = methods_by_file(root)
    begin = [*_imports(root, code), *_special(params, methods, stage)]
    if stage.notebook == "fetch":
        begin, methods = ["augkd/study/acquire/fetch.py"], {}
    if stage.notebook == "site":
        begin = ["augkd/study/report/site.py"]
        begin += [p.relative_to(root).as_posix() for p in (root / _TEMPLATES).iterdir()]
    run = stage.notebook in RUNS
    skipped = {*_CHOSEN, *methods.values()} if run else set()
    found = closure(root, begin, skipped) - (LEFT_OUT_OF_RUNS if run else LEFT_OUT)
    return {root / name for name in found}


_TEMPLATES = "augkd/study/report/templates"


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


def _entries(params: dict[str, Any], stage: Stage) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The teacher that a stage trains or takes, and the cohorts that it trains or scores."""
    if stage.notebook == "take":
        return {"network": stage.entry}, []
    if stage.notebook == "teach":
        return params["teachers"][stage.entry], []
    if stage.notebook == "distil":
        return {}, [params["cohorts"][stage.entry]]
    if stage.notebook == "score":
        return {}, [params["cohorts"][name] for name in _group(params, stage.entry)]
    return {}, []


def _group(params: dict[str, Any], group: str) -> list[str]:
    """As ``Study.group``; a test holds the two together."""
    found = []
    for name, cohort in params["cohorts"].items():
        network = cohort["network"]
        main = {f"{network}_x{scale}" for scale in (2, 3, 4)}
        own = network if name in main else "extras" if network == "edsr" else "mixed"
        found += [name] if own == group else []
    return found


def _special(params: dict[str, Any], methods: dict[str, str], stage: Stage) -> Iterator[str]:
    """The files of networks, methods and cases that this stage has and others may not."""
    taught, cohorts = _entries(params, stage)
    if stage.notebook == "teach":
        yield methods["scratch"]  # Equation 1 alone
    if stage.notebook == "distil":
        for name, options in cohorts[0]["methods"].items():
            yield methods[(options or {}).get("method", name)]
    for entry in [taught, *cohorts, *(_teacher(params, cohort) for cohort in cohorts)]:
        if entry.get("network"):  # a teacher from elsewhere comes through models/foreign.py alone
            yield f"augkd/models/{entry['network']}.py"
    for entry in (taught, *cohorts):
        if entry.get("bits"):
            yield "augkd/models/quantize.py"
        if entry.get("degradation") == "bsrgan":
            yield from ("augkd/degrade/bsrgan.py", "augkd/metrics/niqe.py")


def _teacher(params: dict[str, Any], cohort: dict[str, Any]) -> dict[str, Any]:
    source = cohort["teacher"]
    table, name = ("teachers", "trained") if "trained" in source else ("cohorts", "student")
    return dict(params[table][source[name]])


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
    """The statements at the head of a module, without docstrings and imports of this package."""
    tree = _Bare().visit(ast.parse(code))
    return [ast.unparse(ast.fix_missing_locations(node)) for node in tree.body]


class _Bare(ast.NodeTransformer):
    """Leaves out docstrings and imports of this package, at every depth."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if (node.module or "").split(".")[0] == "augkd" else node

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        names = [alias for alias in node.names if alias.name.split(".")[0] != "augkd"]
        return ast.Import(names) if names else None

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_text(part)]
            empty = [] if isinstance(node, ast.Module) else [ast.Pass()]
            node.body = kept or empty  # type: ignore[attr-defined]
        return node


def _is_text(node: ast.AST) -> bool:
    """A docstring, of a module, a function, a class or a value above it."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
