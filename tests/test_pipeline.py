"""The pipeline's graph: as DVC resolves it, what rests on what, and what does not."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from augkd.distill import METHODS
from augkd.study.params import load_study
from augkd.study.pipeline.sources import LEFT_OUT_OF_RUNS, Sources, write_sources
from augkd.study.pipeline.stage import Stage, pipeline, upstream
from tests.study_copy import ROOT, copy_study, environment

TRAINING = ("augkd/train.py", "augkd/study/runs.py", "augkd/distill", "augkd/data/sampler.py")
RUNS = {"fetch", "prepare", "take", "teach", "distil", "score"}
PICTURES = {f"figure_{n:02}" for n in (1, 4, 5, 7, 8)} | {"compare"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BUDGETS = ("smoke", "cpu", "paper")

LIST = """
import json, os, sys
from dvc.repo import Repo
def stages(root):
    os.chdir(root)
    return [s for s in Repo(".").index.stages if hasattr(s, "name")]
print(json.dumps({root: [{
    "name": s.addressing,
    "cmd": s.cmd,
    "deps": [d.def_path for d in s.deps],
    "outs": {o.def_path: o.use_cache for o in s.outs},
} for s in stages(root)] for root in sys.argv[1:]}))
"""


class Graph:
    """The stages of one budget in a copy of the study, and how they rest on one another."""

    def __init__(self, root: Path, budget: str) -> None:
        self.root, self.budget = root, budget
        self.sources = Sources(root, budget)
        self.params = self.sources.params
        self.stages = pipeline(root, budget)
        self.parents = upstream(self.stages)

    def of(self, *notebooks: str) -> list[Stage]:
        return [stage for stage in self.stages.values() if stage.notebook in notebooks]

    def page_name(self, stage: Stage) -> str:
        return stage.entry or stage.notebook

    @property
    def pages(self) -> list[Stage]:
        others = RUNS | {"sources", "site"}
        return [stage for stage in self.stages.values() if stage.notebook not in others]

    def above(self, name: str) -> set[str]:
        """Notebooks of what a stage rests on directly."""
        return {self.stages[parent].notebook for parent in self.parents[name]}

    def ancestors(self, name: str) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for parent in self.parents[waiting.pop()] - found:
                found.add(parent)
                waiting.append(parent)
        return found


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("graph")
    return [copy_study(folder / budget, budget) for budget in BUDGETS]


@pytest.fixture(scope="session", params=BUDGETS)
def graph(request: pytest.FixtureRequest, copies: list[Path]) -> Graph:
    return Graph(copies[BUDGETS.index(request.param)], request.param)


def holds(folder: str, path: str) -> bool:
    """Whether a declared file or folder is or lies around a path."""
    return PurePosixPath(path).is_relative_to(folder)


def touches(one: str, other: str) -> bool:
    return holds(one, other) or holds(other, one)


def python(code: str, *arguments: str, env: Any) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.check_output(command, cwd=ROOT, env=env, text=True)


def test_stages_are_those_that_dvc_sees(copies: list[Path]) -> None:
    said = python(LIST, *map(str, copies), env=environment(copies[0].parent, copies[0]))
    for root, listed in json.loads(said).items():
        ours = Graph(Path(root), Path(root).name).stages
        assert next(iter(ours)) == f"sources@{Path(root).name}"
        assert [*ours][-1] == f"site@{Path(root).name}"
        assert len(ours) < 66  # with more, DVC's own time is felt
        assert sorted(ours) == sorted(stage["name"] for stage in listed)
        for stage in listed:
            own = ours[stage["name"]]
            assert own.command == stage["cmd"]
            assert set(own.deps) == set(stage["deps"])
            metrics = {out for out in stage["outs"] if out.endswith("metrics.json")}
            assert set(own.outs) == set(stage["outs"]) - metrics
            kept = {out for out, cached in stage["outs"].items() if not cached}
            # reports and what is fetched; all else is pulled, not made again
            assert all(out.startswith(("reports", "data/fetched")) for out in kept)


def test_tables_and_figures_rest_on_scores_and_not_on_training_code(graph: Graph) -> None:
    slow = {"table_01", "table_11", "methods", "computed", "figure_07"}
    made = map(graph.page_name, graph.pages)
    assert {*made} >= {
        *(f"table_{n:02}" for n in (2, 6, 7, 8, 9, 12)),
        *("figure_01", "figure_02", "figure_04", "figure_05", "figure_06"),
        *("audit", "controls", "weights", "scorecard", "compare"),
        *(slow if graph.budget != "smoke" else ()),
    }
    for stage in graph.pages:
        name, page = stage.name, graph.page_name(stage)
        if page in ("methods", "table_11"):  # about the training code itself
            assert "augkd/train.py" in graph.sources.modules(stage)
            continue
        # parameters counted, the paper's own tables, timings
        if page in ("table_01", "audit", "computed"):
            continue
        if page in PICTURES:  # what students answer; score files have no pixels
            assert "distil" in graph.above(name), name
            continue
        built = () if page == "table_05" else ("augkd/models",)  # it counts parameters
        for code in (*TRAINING, *built, "augkd/study/score.py", "augkd/data/sampler.py"):
            own = graph.sources.modules(stage)
            assert not any(touches(code, file) for file in own), (name, code)
        assert "score" in graph.above(name), name
        # whatever it rests on in the end was scored, taught and prepared by a stage
        notebooks = {graph.stages[other].notebook for other in graph.ancestors(name)}
        assert {"prepare", "sources", "distil"} < notebooks, name
        # premises and trends: how students learnt
        verdicts = page in ("scorecard", "controls", "weights") or page.startswith("trend_")
        assert {"teach", "distil"} & graph.above(name) == ({"distil"} if verdicts else set()), name


def test_training_rests_on_what_it_runs(graph: Graph) -> None:
    study = load_study(graph.budget, graph.root)
    files = {method: module_file(cls) for method, cls in METHODS.items()}
    networks = {"edsr", "rcan", "swinir"}
    for stage in graph.of("teach", "distil"):
        taught = stage.notebook == "teach"
        cohort = None if taught else study.cohort(stage.entry)
        needed = {f"augkd/{m}.py" for m in ("train", "study/runs", "augment", "data/sampler")}
        own = {cohort.network if cohort else str(study.teacher(stage.entry).network)}
        if cohort and cohort.teacher.trained:
            own.add(str(study.teacher(cohort.teacher.trained).network))
        needed |= {f"augkd/models/{network}.py" for network in own}
        for method, options in cohort.methods.items() if cohort else [("scratch", {})]:
            needed |= imported(files[options.get("method", method)], "augkd/distill/")
        if cohort and cohort.bits:
            needed.add("augkd/models/quantize.py")
        listed = graph.sources.modules(stage)
        assert needed <= listed, stage
        others = {f"augkd/models/{network}.py" for network in networks - own}
        unused = set(files.values()) - needed
        assert not listed & (others | unused), stage
        read = graph.sources.values(stage)
        table = "teachers" if taught else "cohorts"
        assert read["seed"] == study.params.seed
        key = stage.entry.partition("-")[0]  # of one seed of a cohort: the cohort
        entry = graph.params[table][key]
        at = {"at": entry["at"].get(graph.budget)} if "at" in entry else {}  # of no other budget
        assert read[f"{table}.{key}"] == entry | at
        network = cohort.network if cohort else study.teacher(stage.entry).network
        assert read[f"budgets.{graph.budget}.schedules.{network}.{stage.notebook}"] is not None


def test_public_teachers_stand_before_their_students(graph: Graph) -> None:
    """Who takes teachers trains none but Table 5's, and nobody learns before they are measured."""
    study = load_study(graph.budget, graph.root)
    fetch, take = graph.of("fetch"), graph.of("take")
    assert bool(fetch) == bool(take) == bool(study.budget.public)
    own = [stage for stage in graph.of("teach") if stage.entry != "real_x4"]
    assert bool(own) == bool(study.budget.teaching)
    if not study.budget.public:
        return
    assert fetch[0].outs == ("data/fetched",)
    for stage in graph.of("distil"):
        above = {graph.stages[name].notebook for name in graph.ancestors(stage.name)}
        assert "take" in above, stage
    for stage in take:
        assert {"augkd/study/gate.py", "augkd/metrics/fidelity.py"} <= graph.sources.modules(stage)
        assert graph.above(stage.name) == {"sources", "fetch", "prepare"}
        assert "augkd/study/paper/external.csv" in stage.deps


def module_file(cls: type) -> str:
    return cls.__module__.replace(".", "/") + ".py"


def imported(file: str, below: str) -> set[str]:
    """The file, and what it imports of a folder, through every import."""
    found, waiting = {file}, [file]
    while waiting:
        for node in ast.walk(ast.parse((ROOT / waiting.pop()).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                name = node.module.replace(".", "/") + ".py"
                if name.startswith(below) and name not in found and (ROOT / name).is_file():
                    found.add(name)
                    waiting.append(name)
    return found


LOADED = """
import sys
from pathlib import Path
import augkd.study.runs, augkd.study.score
print(*(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "augkd"), sep="\\n")
"""


@cache
def loaded_modules() -> frozenset[str]:
    said = python(LOADED, env=environment(ROOT, ROOT))
    files = (Path(file) for file in said.splitlines() if "augkd/" in file)
    return frozenset(file.relative_to(ROOT).as_posix() for file in files)


def test_sources_are_what_python_loads(graph: Graph) -> None:
    """The list that is read off the imports, against the modules that an import brings."""
    loaded = loaded_modules()
    listed = graph.sources.modules(next(s for s in graph.of("score") if s.entry == "edsr"))
    chosen = {path for path in loaded if path.startswith(("augkd/distill/", "augkd/models/"))}
    # what a package's own page of contents brings, and only some cohorts use
    chosen |= {"augkd/degrade/bsrgan.py", "augkd/metrics/niqe.py"}
    contents = {path for path in loaded if path.endswith("__init__.py")}
    assert loaded - chosen - contents - LEFT_OUT_OF_RUNS <= listed
    assert {path for path in listed if path.endswith(".py")} <= loaded


def test_groups_are_those_of_the_study(graph: Graph) -> None:
    study = load_study(graph.budget, graph.root)
    for stage in graph.of("score"):
        members = [name for name in study.params.cohorts if study.group(name) == stage.entry]
        read = graph.sources.values(stage)
        assert {k.removeprefix("cohorts.") for k in read if "cohorts." in k} == set(members)
        networks = {f"augkd/models/{study.cohort(name).network}.py" for name in members}
        assert networks <= graph.sources.modules(stage)


def test_every_source_that_is_named_is_there(graph: Graph) -> None:
    write_sources(graph.budget, graph.root)
    outs = [out for stage in graph.stages.values() for out in stage.outs]
    for name, stage in graph.stages.items():
        for dep in stage.deps:
            if dep.startswith("build/sources"):
                assert (graph.root / dep).is_file(), (name, dep)
            made = any(touches(dep, out) for out in outs)
            assert made or (graph.root / dep).exists(), (name, dep)


def test_x4_starts_from_x2(graph: Graph) -> None:
    budget = graph.budget
    assert f"distil@{budget}-edsr-2" in graph.parents[f"distil_x4@{budget}-edsr"]
    if f"teach@{budget}-edsr-2" in graph.stages:
        assert f"teach@{budget}-edsr-2" in graph.parents[f"teach_x4@{budget}-edsr"]


def test_the_report_comes_last(graph: Graph) -> None:
    site = f"site@{graph.budget}"
    assert graph.ancestors(site) == set(graph.stages) - {site}
    assert graph.stages[site].outs == (f"reports/{graph.budget}", "reports/index.html")


def test_no_output_is_in_git_but_reports(graph: Graph) -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    outs = {out for stage in graph.stages.values() for out in stage.outs}
    for out in outs - {"reports/index.html", f"reports/{graph.budget}"}:
        held = [file for file in tracked.split("\0") if file and holds(out, file)]
        assert held == [], out


# --- what an edit moves


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """At a budget of every network, whose teachers are taken: here from files of no weights."""
    copy = copy_study(tmp_path / "study", "night")
    (copy / "data/teachers").mkdir(parents=True, exist_ok=True)
    for name in load_study("night").params.teachers:
        (copy / f"data/teachers/{name}.safetensors").write_bytes(b"")
    return copy


def texts(study: Path) -> dict[str, str]:
    write_sources("night", study, Path("out"))
    return {file.stem: file.read_text() for file in (study / "out" / "night").glob("*.txt")}


def moved(study: Path, file: str, change: Any) -> set[str]:
    """The stages whose sources another text of a file changes."""
    before, kept = texts(study), (study / file).read_text()
    (study / file).write_text(change(kept))
    after = texts(study)
    (study / file).write_text(kept)
    return {name for name in before if before[name] != after[name]}


def test_a_table_without_its_prose_is_another_table(study: Path) -> None:
    """Run notebooks are code alone to the pipeline, pages are prose too; outputs are neither."""

    def changed(**cell: Any) -> Any:
        def change(text: str) -> str:
            notebook = json.loads(text)
            kind = cell.pop("kind")
            found = [c for c in notebook["cells"] if c["cell_type"] == kind][-1]
            found.update(cell)
            return json.dumps(notebook)

        return change

    for name, entries in (
        ("distil", set()),
        ("backbone", {"backbone-table_02", "backbone-table_03", "backbone-table_10"}),
    ):
        file = f"notebooks/{name}.ipynb"
        assert moved(study, file, changed(kind="code", execution_count=3)) == set()
        assert moved(study, file, changed(kind="markdown", source=["# Other"])) == entries
        code = moved(study, file, changed(kind="code", source=["b = 1"]))
        assert code == (entries or {entry for entry in texts(study) if entry.startswith("distil-")})


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n# a word\n",
        lambda text: text.replace('"""', '"""A word. ', 1),
        lambda text: "\n\n" + text,
    ],
    ids=["comment", "docstring", "layout"],
)
def test_a_better_word_moves_nothing(study: Path, change: Any) -> None:
    for file in ("augkd/distill/fitnet.py", "augkd/train.py", "augkd/study/report/style.py"):
        assert moved(study, file, change) == set()


def test_a_module_that_lies_elsewhere_moves_nothing(study: Path) -> None:
    before = texts(study)
    (study / "augkd/distill/hints.py").write_text((study / "augkd/distill/fitnet.py").read_text())
    (study / "augkd/distill/fitnet.py").unlink()
    table = study / "augkd/distill/__init__.py"
    table.write_text(table.read_text().replace("distill.fitnet", "distill.hints"))
    after = texts(study)
    assert {name for name in before if before[name] != after[name]} == set()


def test_an_edit_moves_what_it_must(study: Path) -> None:
    """A method's file, a network's file, a look, a parameter: the stages whose sources change."""

    def line(text: str) -> str:
        return text + "\nEXTRA = 1\n"

    method = moved(study, "augkd/distill/fitnet.py", line)
    assert {"distil-edsr_x2", "distil-rcan_x4"} <= method
    assert not {"distil-swinir_x2", "distil-ablation_x4", "teach-edsr_x2"} & method
    network = moved(study, "augkd/models/rcan.py", line)
    assert {"teach-rcan_x2", "distil-rcan_x3", "distil-rcan_x4_from_edsr"} <= network
    assert not {"teach-edsr_x2", "distil-edsr_x2", "score-edsr", "backbone-table_02"} & network
    look = moved(study, "augkd/study/report/style.py", line)
    assert {"backbone-table_02", "figure_02"} <= look
    assert not {name for name in look if name.startswith(("teach", "distil", "score-", "prepare"))}
    assert moved(study, "augkd/study/params.py", line) == set()

    def value(old: str, new: str) -> Any:
        return lambda text: text.replace(old, new, 1)

    assert moved(study, "params.yaml", lambda text: "# a word\n" + text) == set()
    every = moved(study, "params.yaml", value("seed: 10", "seed: 11"))
    assert {"teach-edsr_x2", "distil-real_x4", "figure_01"} <= every
    assert not {"prepare", "score-edsr", "backbone-table_02", "audit"} & every
    assert moved(study, "params.yaml", value("crops: 1 ", "crops: 2 ")) == {
        name for name in texts(study) if name.startswith(("distil-", "table_11"))
    }
    larger = moved(study, "params.yaml", value("    zoomed: 8 ", "    zoomed: 30 "))
    assert {"prepare", "distil-edsr_x4"} <= larger  # by patches that are larger for it
    assert not {"teach-edsr_x4", "score-edsr"} & larger


# --- notebooks


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_notebook_has_parameters_with_working_defaults(file: Path) -> None:
    cells = json.loads(file.read_text())["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    values: dict[str, Any] = {}
    exec("".join(tagged[0]["source"]), values)
    assert values["budget"] == ""  # opened by hand it takes the one that params.yaml chooses
    study = load_study("cpu")
    if file.stem in ("teach", "distil"):
        assert study.cohort(values["cohort"])
    if file.stem == "score":
        assert values["group"] in study.groups()
    assert cells[0]["cell_type"] == "markdown"
    assert "".join(cells[0]["source"]).startswith("# ")
