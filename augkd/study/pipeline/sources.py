"""What each stage's result rests on beside files: code, its notebook, parameters.

build/sources/BUDGET/distil-rcan_x2.txt, on which dvc.yaml lets that stage depend, has

- a hash of what the code does that the training of that cohort runs through, by the imports at the
  head of each module. What a stage may leave alone is left out: networks and methods that the
  cohort does not have, what functions import when they need it (quantisation, BSRGAN's
  degradation), for runs the look of plots and the record, for all how params.yaml is checked.
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

from augkd.errors import UserError
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
_READS = yaml.load(Path(__file__).with_name("reads.yaml").read_text(), yaml.CSafeLoader)
_DATA = re.compile(r'"([\w.-]+\.(?:csv|npz|yaml|mplstyle))"')  # what a module reads beside itself
Entry = dict[str, Any]  # of a teacher or a cohort, as params.yaml has it


def write_sources(budget: str, root: Path = Path(), out: Path = Path("build/sources")) -> None:
    """Writes the file of every stage that dvc.yaml and params.yaml make of a budget."""
    folder, sources = root / out / budget, Sources(root, budget)
    stages = [stage for stage in pipeline(root, budget).values() if stage.notebook != "sources"]
    texts = {f"{s.notebook}-{s.entry}".rstrip("-"): sources.text(s) for s in stages}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


class Sources:
    """What the stages of one budget rest on. Paths of modules are relative to ``root``."""

    def __init__(self, root: Path, budget: str) -> None:
        self.root, self.budget = root, budget
        # as it is written: a default that is new in code is no new value
        self.params: Any = yaml.load(self._read("params.yaml"), yaml.CSafeLoader)
        self.study = load_study(budget, root, check_methods=False)
        self.methods = methods_by_file(self._read("augkd/distill/__init__.py"))
        self._statements = cache(lambda file: statements(self._read(file), file))
        self._imports = cache(lambda file: [*self.imported(self._read(file), file)])

    def _read(self, file: str) -> str:
        return (self.root / file).read_text(encoding="utf-8", errors="surrogateescape")

    def text(self, stage: Stage) -> str:
        """The text of a stage's file."""
        cells, found = self.cells(stage), self.modules(stage)
        code = {line for file in found if file.endswith(".py") for line in self._statements(file)}
        data = sorted(self._read(file) for file in found if not file.endswith(".py"))
        head = f"code {_digest(code)}", f"data {_digest(data)}", yaml.safe_dump(self.values(stage))
        return "\n".join([*head, *notebook_text(cells, prose=stage.notebook not in RUNS)])

    def cells(self, stage: Stage) -> list[dict[str, Any]]:
        """Those of its notebook, magics as the calls that IPython makes of them. No other notebook
        is opened. UserError: it is none, or its code is not Python."""
        file = f"notebooks/{stage.notebook}.ipynb"
        if not (self.root / file).is_file():
            return []
        try:
            cells: list[dict[str, Any]] = json.loads(self._read(file))["cells"]
            for number, cell in enumerate(cells, 1):
                cell["source"] = "".join(cell["source"])
                if cell["cell_type"] == "code":
                    cell["source"] = _python(cell["source"], f"{file}: cell {number}")
        except (ValueError, LookupError, TypeError):
            raise UserError(f"{file}: not a notebook: restore it (git checkout {file})") from None
        return cells

    def entries(self, stage: Stage) -> dict[str, Entry]:
        """What a stage teaches, distils, scores or shows, by its key in params.yaml."""
        own = [key for key in keys(stage) if key.startswith("cohorts.")]
        if stage.notebook in ("teach", "distil"):
            table = "teachers" if stage.notebook == "teach" else "cohorts"
            own = [f"{table}.{stage.entry.partition('-')[0]}"]
        elif stage.notebook == "score":
            group = self.study.group
            own = [f"cohorts.{n}" for n in self.params["cohorts"] if group(n) == stage.entry]
        found = {key: self.value(key) for key in own}
        # of what is another at some budgets, what is at this one
        mine = {key: entry["at"].get(self.budget) for key, entry in found.items() if "at" in entry}
        return found | {key: found[key] | {"at": at} for key, at in mine.items()}

    def values(self, stage: Stage) -> dict[str, Any]:
        """The values of params.yaml that a stage reads, by their keys."""
        own = self.entries(stage)
        of = next(iter(own.values()), {"network": stage.entry})
        network, teacher = self.networks(of)
        names = {"network": network, "teacher": teacher, "budget": f"budgets.{self.budget}"}
        read = [key.format(entry=stage.entry, **names) for key in keys(stage)]
        values = own | {key: self.value(key) for key in read}
        if stage.notebook == "teach" and (file := self.study.teacher(stage.entry).file):
            try:
                weights = (self.root / file).read_bytes()  # as they come with the study
            except OSError as error:
                mend = f"put the weights of teacher '{stage.entry}' there"
                raise UserError(f"{file}: {error.strerror}: {mend}") from None
            values["weights"] = hashlib.sha256(weights).hexdigest()
        return values

    def value(self, key: str) -> Any:
        """None where there is no such key."""
        found = self.params
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def networks(self, entry: Entry) -> tuple[str | None, str | None]:
        """The network of a teacher or of a cohort's students, and that of its teacher."""
        source, taught = entry.get("teacher") or {}, entry
        if source:
            table = "teachers" if "trained" in source else "cohorts"
            taught = self.params[table][source.get("trained") or source["student"]]
        return entry.get("network"), taught.get("network")

    def modules(self, stage: Stage) -> set[str]:
        """The modules that a stage runs through, and the data files beside them that they read."""
        run = stage.notebook in RUNS
        left = LEFT_OUT_OF_RUNS if run else LEFT_OUT
        if stage.notebook in ("fetch", "site"):
            room = Path("augkd/study", {"fetch": "acquire", "site": "report"}[stage.notebook])
            templates = (self.root / room / "templates").glob("*")
            begin = [path.relative_to(self.root).as_posix() for path in templates]
            begin.append((room / f"{stage.notebook}.py").as_posix())
        else:
            code = [c for c in self.cells(stage) if c["cell_type"] == "code"]
            imported = self.imported("\n".join(cell["source"] for cell in code))
            begin = [name for name in imported if name not in left]
            begin += self._special(stage) if run else ()
        chosen = {*_NETWORKS.values(), *self.methods.values()} if run else set()
        return self.closure(begin, left | chosen)

    def _special(self, stage: Stage) -> Iterator[str]:
        """The files of networks, methods and cases that this run has and others may not."""
        if stage.notebook == "teach":
            yield self.methods["scratch"]  # Equation 1 alone
        for entry in [*self.entries(stage).values()] or [{"network": stage.entry}]:
            if stage.notebook == "distil":
                for name, options in entry["methods"].items():
                    yield self.methods[(options or {}).get("method", name)]
            # a foreign teacher, which is none of these, comes through models/foreign.py
            yield from (_NETWORKS[name] for name in self.networks(entry) if name in _NETWORKS)
            if entry.get("bits"):
                yield "augkd/models/quantize.py"
            if entry.get("degradation") == "bsrgan":
                yield from ("augkd/degrade/bsrgan.py", "augkd/metrics/niqe.py")

    def closure(self, begin: Iterable[str], skipped: set[str]) -> set[str]:
        """The files that the given ones import at their heads, and so on, but for ``skipped``."""
        found, waiting = set[str](), list(begin)
        while waiting:
            if (file := waiting.pop()) not in found:
                found.add(file)
                if file.endswith(".py"):
                    waiting += [name for name in self._imports(file) if name not in skipped]
                    named = _DATA.findall(self._read(file))
                    beside = [Path(file).with_name(name) for name in named]
                    waiting += [str(path) for path in beside if (self.root / path).is_file()]
        return found

    def imported(self, code: str, file: str = "") -> Iterator[str]:
        """Files of this package that the head of a module, or a notebook's code, imports."""
        for node in _parse(code, file).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("augkd"):
                base = str(node.module).replace(".", "/")
                for name in (base, *(f"{base}/{alias.name}" for alias in node.names)):
                    files = (f"{name}.py", f"{name}/__init__.py")
                    yield from (file for file in files if (self.root / file).is_file())


def keys(stage: Stage) -> list[str]:
    """The keys that a stage's notebook reads, lists within lists made one."""
    listed = _READS.get(stage.notebook, [])
    return [key for item in listed for key in ([item] if isinstance(item, str) else item)]


def methods_by_file(text: str) -> dict[str, str]:
    """The file of each method, read off augkd/distill/__init__.py without importing torch."""
    files: dict[str, str] = {}
    table: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            files |= {a.name: node.module.replace(".", "/") + ".py" for a in node.names}
        elif isinstance(value := getattr(node, "value", None), ast.Dict):
            names = zip(value.keys, value.values, strict=True)
            table |= {ast.literal_eval(key): files[ast.unparse(name)] for key, name in names if key}
    return table


def notebook_text(cells: list[dict[str, Any]], *, prose: bool) -> Iterator[str]:
    """What a notebook says, without what opening it in Jupyter changes."""
    for cell in cells:
        if cell["cell_type"] == "code":
            tags = " ".join(cell["metadata"].get("tags", []))
            yield "\n".join([f"# %% {tags}", *statements(cell["source"])])
        elif prose:
            yield f"# %% [markdown]\n{cell['source']}"


def hash_code(files: Iterable[Path]) -> str:
    """SHA-256 over the ``statements`` of modules, in whatever order and wherever they lie."""
    texts = [(file.read_text(encoding="utf-8"), str(file)) for file in files]
    return _digest({line for text in texts for line in statements(*text)})


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(sorted(texts)).encode(errors="surrogateescape")).hexdigest()


def _python(code: str, file: str) -> str:
    """A cell's code: magics as the calls that IPython makes of them, Python alone below %%time."""
    from IPython.core.inputtransformer2 import TransformerManager  # for this alone

    manager: Any = TransformerManager
    plain = str(manager().transform_cell(re.sub(r"^\s*%%(time|capture).*\n", "", code)))
    _parse(plain, file)
    return plain


def _parse(code: str, file: str) -> ast.Module:
    try:
        return ast.parse(code, file)
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        raise UserError(f"{file}: {error}: mend the code there") from None


def statements(code: str, file: str = "") -> list[str]:
    """What a module does: without comments, docstrings, layout, imports of this package."""
    tree = _parse(code, file)
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
