"""What each stage's result rests on, in code: one file a stage, which dvc.yaml names as its dep.

build/sources/distil-rcan_x2.txt has the SHA-256 of every module that the training of that cohort
runs through, and the code of its notebook. It follows the imports at the head of each module, so
that no list has to be kept by hand. What a stage may leave alone is left out:

- networks and methods that the cohort does not have, and what functions import when they need
  it: quantisation, BSRGAN's degradation;
- for runs (prepare, take, teach, distil, score), the notebook's prose, the look of its plots and
  the record of the run; for all, how params.yaml is checked and how files are replaced. A changed
  value of params.yaml is a dependency of its own.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from augkd.errors import replacing

RUNS = ("prepare", "take", "teach", "distil", "score")  # one run each; the rest are pages
LEFT_OUT = {"augkd/__init__.py", "augkd/errors.py"} | {
    f"augkd/study/{n}.py" for n in ("__init__", "params", "ensure")
}
LEFT_OUT_OF_RUNS = LEFT_OUT | {
    *("augkd/study/report/style.py", "augkd/study/record.py"),
    *("augkd/data/__init__.py", "augkd/models/__init__.py", "augkd/distill/__init__.py"),
}
_DATA = re.compile(r'"([\w.-]+\.(?:csv|npz|yaml))"')  # a file beside a module that it reads


def write_sources(root: Path = Path(), out: Path = Path("build/sources")) -> None:
    """Writes the file of every stage that a notebook and params.yaml can make."""
    params = yaml.load((root / "params.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    written = set()
    for file in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        for entry, special in _entries(root, file.stem, params):
            name = f"{file.stem}-{entry}" if entry else file.stem
            run = file.stem in RUNS
            text = _text(cells, ("code",) if run else ("code", "markdown"))
            code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
            begin = [*_imports(root, code), *special]
            modules = closure(root, begin, _chosen_by_cohort(root) if run else set())
            kept = sorted(modules - (LEFT_OUT_OF_RUNS if run else LEFT_OUT))
            lines = [f"{_hash(root / module)}  {module}" for module in kept]
            with replacing(root / out / f"{name}.txt") as partial:
                partial.write_text("\n".join(lines) + "\n\n" + text, encoding="utf-8")
            written.add(f"{name}.txt")
    for left in {path.name for path in (root / out).glob("*.txt")} - written:
        (root / out / left).unlink()


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
    return tuple(_imported(root, code))


def _imported(root: Path, code: str) -> Iterator[str]:
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("augkd"):
            base = node.module.replace(".", "/")
            names = [base, *(f"{base}/{alias.name}" for alias in node.names)]
            for name in names:
                for file in (f"{name}.py", f"{name}/__init__.py"):
                    if (root / file).is_file():
                        yield file


def _entries(root: Path, notebook: str, params: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """What a notebook is run for, and the files that this has and others may not."""
    if notebook == "take":
        teachers = params["teachers"].values()
        for network in sorted({str(t["network"]) for t in teachers if t.get("network")}):
            yield network, _of_networks([{"network": network}])
    elif notebook == "teach":
        for name, entry in params["teachers"].items():
            plain = {_methods(root)["scratch"]}  # Equation 1 alone
            yield name, plain | _of_networks([entry]) | _of_cases([entry])
    elif notebook == "distil":
        for name, cohort in params["cohorts"].items():
            yield name, _of_cohort(root, params, cohort)
    elif notebook == "score":
        for group in ("edsr", "rcan", "swinir", "extras", "mixed"):
            cohorts = [c for n, c in params["cohorts"].items() if _group(n, c) == group]
            taught = [_teacher(params, cohort) for cohort in cohorts]
            yield group, _of_networks([*cohorts, *taught]) | _of_cases(cohorts)
    else:
        yield "", set()


def _group(name: str, cohort: dict[str, Any]) -> str:
    """As ``Study.group``; a test holds the two together."""
    network = str(cohort["network"])
    main = {f"{network}_x{scale}" for scale in (2, 3, 4)}
    return network if name in main else "extras" if network == "edsr" else "mixed"


def _of_cohort(root: Path, params: dict[str, Any], cohort: dict[str, Any]) -> set[str]:
    files = _methods(root)
    methods = {files[(options or {}).get("method", n)] for n, options in cohort["methods"].items()}
    return methods | _of_networks([cohort, _teacher(params, cohort)]) | _of_cases([cohort])


def _teacher(params: dict[str, Any], cohort: dict[str, Any]) -> dict[str, Any]:
    source = cohort["teacher"]
    table, name = ("teachers", "trained") if "trained" in source else ("cohorts", "student")
    return dict(params[table][source[name]])


def _of_networks(entries: Iterable[dict[str, Any]]) -> set[str]:
    """Network files; a teacher from elsewhere comes through models/teacher.py alone."""
    return {f"augkd/models/{entry['network']}.py" for entry in entries if entry.get("network")}


def _of_cases(entries: Iterable[dict[str, Any]]) -> set[str]:
    """What is imported only where it is needed."""
    files = set()
    for entry in entries:
        if entry.get("bits"):
            files.add("augkd/models/quantize.py")
        if entry.get("degradation") == "bsrgan":
            files |= {"augkd/degrade/bsrgan.py", "augkd/metrics/niqe.py"}
    return files


def _chosen_by_cohort(root: Path) -> set[str]:
    """Files of networks and of methods."""
    networks = {f"augkd/models/{name}.py" for name in ("edsr", "rcan", "swinir")}
    return networks | set(_methods(root).values())


def _methods(root: Path) -> dict[str, str]:
    """The file of each method, read out of augkd/distill/__init__.py without importing torch."""
    tree = ast.parse((root / "augkd/distill/__init__.py").read_text(encoding="utf-8"))
    files: dict[str, str] = {}
    table: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            files |= {a.name: node.module.replace(".", "/") + ".py" for a in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Name):
                    table[str(key.value)] = files[value.id]
    return table


def _text(cells: list[dict[str, Any]], kinds: tuple[str, ...]) -> str:
    """What a notebook says, without what opening it in Jupyter changes."""
    parts = []
    for cell in cells:
        if cell["cell_type"] in kinds:
            tags = " ".join(cell["metadata"].get("tags", []))
            parts.append(f"# %% {cell['cell_type']} {tags}\n{''.join(cell['source'])}\n")
    return "\n".join(parts)


def hash_code(files: Iterable[Path]) -> str:
    """SHA-256 over what modules do: their statements, wherever they lie and however described.

    Comments, docstrings, layout, the order of statements and imports within the package count for
    nothing: what is imported is hashed itself.
    """
    found: set[str] = set()
    for file in files:
        found |= set(statements(file.read_text(encoding="utf-8")))
    return hashlib.sha256("\0".join(sorted(found)).encode()).hexdigest()


def statements(code: str) -> list[str]:
    """The statements at the head of a module, without docstrings and imports of this package."""
    tree = _Bare().visit(ast.parse(code))
    return [ast.unparse(node) for node in tree.body]


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
            node.body = kept or [] if isinstance(node, ast.Module) else kept or [ast.Pass()]  # type: ignore[attr-defined]
        return node


def _is_text(node: ast.AST) -> bool:
    """A docstring, of a module, a function, a class or a value above it."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
