"""The pipeline's graph, as DVC itself resolves it: what rests on what, and what does not."""

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
from augkd.study.pipeline.sources import LEFT_OUT, LEFT_OUT_OF_RUNS, write_sources
from augkd.study.pipeline.stage import stage_names
from tests.study_copy import ROOT, copy_study, environment

TRAINING = ("augkd/train.py", "augkd/study/runs.py", "augkd/distill", "augkd/data/sampler.py")
TEACH = {"teach", "teach_x4", "teach_real"}
DISTIL = {
    *("distil", "distil_x4", "control", "expand", "ablate", "quantize"),
    *("foreign", "real"),
}
SCORE = {"score", "score_extras", "score_mixed"}
PICTURES = {f"figure_{n:02}" for n in (1, 4, 5, 7, 8)}
RUNS = {"fetch", "prepare", "take"} | TEACH | DISTIL | SCORE
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

LIST = """
import json, os, sys
from dvc.repo import Repo
def stages(root):
    os.chdir(root)
    return [s for s in Repo(".").index.stages if hasattr(s, "name")]
print(json.dumps({root: [{
    "name": s.addressing,
    "cmd": s.cmd,
    "deps": [d.def_path for d in s.deps if not hasattr(d, "params")],
    "params": sorted({p for d in s.deps if hasattr(d, "params") for p in d.params}),
    "outs": {o.def_path: o.use_cache for o in s.outs},
} for s in stages(root)] for root in sys.argv[1:]}))
"""
BUDGETS = ("smoke", "cpu", "paper")

Stage = dict[str, Any]
Graph = dict[str, Stage]


@pytest.fixture(scope="session")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[Stage]]:
    """A copy of the study for each budget, and DVC's list of its stages."""
    folder = tmp_path_factory.mktemp("graph")
    studies = [copy_study(folder / budget, budget) for budget in BUDGETS]
    done = subprocess.run(
        [sys.executable, "-c", LIST, *map(str, studies)],
        env=environment(folder, studies[0]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {Path(root): stages for root, stages in json.loads(done.stdout).items()}


@pytest.fixture(scope="session", params=BUDGETS)
def graph(request: pytest.FixtureRequest, listed: dict[Path, list[Stage]]) -> Graph:
    (study,) = (root for root in listed if root.name == request.param)
    write_sources(study)
    graph = {stage["name"]: stage for stage in listed[study]}
    graph["study"] = {"root": study, "budget": request.param}
    return graph


def stages(graph: Graph) -> Graph:
    return {name: stage for name, stage in graph.items() if name != "study"}


def holds(folder: str, path: str) -> bool:
    """Whether a declared file or folder is or lies around a path."""
    return PurePosixPath(path).is_relative_to(folder)


def touches(one: str, other: str) -> bool:
    return holds(one, other) or holds(other, one)


def parents(graph: Graph, name: str) -> set[str]:
    if "parents" not in graph[name]:
        deps = graph[name]["deps"]
        graph[name]["parents"] = {
            other
            for other, stage in stages(graph).items()
            if other != name and any(touches(dep, out) for dep in deps for out in stage["outs"])
        }
    found: set[str] = graph[name]["parents"]
    return found


def ancestors(graph: Graph, name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for parent in parents(graph, waiting.pop()) - found:
            found.add(parent)
            waiting.append(parent)
    return found


def kind(name: str) -> str:
    return name.partition("@")[0]


def pages(graph: Graph) -> list[str]:
    return [name for name in stages(graph) if kind(name) not in (*RUNS, "sources", "site")]


def test_stages_are_those_that_the_terminal_counts(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(graph["study"]["root"])
    assert sorted(stage_names()) == sorted(stages(graph))
    assert len(stages(graph)) < 60  # with more, DVC's own time is felt
    assert stage_names()[0] == "sources"
    assert kind(stage_names()[-1]) == "site"


def sources(graph: Graph, name: str) -> dict[str, str]:
    """The modules that a stage's file of sources lists, with their SHA-256."""
    (file,) = [dep for dep in graph[name]["deps"] if dep.startswith("build/sources/")]
    head = (graph["study"]["root"] / file).read_text().partition("\n\n")[0]
    return {path: digest for digest, path in (line.split("  ") for line in head.splitlines())}


def test_tables_and_figures_rest_on_scores_and_not_on_training_code(graph: Graph) -> None:
    assert {kind(name) for name in pages(graph)} >= {
        *(f"table_{n:02}" for n in (1, 2, 6, 7, 8, 9, 11, 12)),
        *("figure_01", "figure_02", "figure_04", "figure_05", "figure_06", "figure_07"),
        *("audit", "controls", "weights", "scorecard"),
    }
    for name in pages(graph):
        if kind(name) in ("methods", "table_11"):  # about the training code itself
            assert "augkd/train.py" in sources(graph, name)
            continue
        if kind(name) in ("table_01", "audit"):  # parameters counted, the paper's own tables
            continue
        if kind(name) in PICTURES:  # what students answer; score files have no pixels
            assert DISTIL & {kind(p) for p in parents(graph, name)}, name
            continue
        for code in (*TRAINING, "augkd/models", "augkd/study/score.py", "augkd/data/sampler.py"):
            assert not any(touches(code, dep) for dep in sources(graph, name)), (name, code)
        assert SCORE & {kind(p) for p in parents(graph, name)}, name
        # whatever it rests on in the end was scored, taught and prepared by a stage
        assert {"prepare", "sources"} < {kind(p) for p in ancestors(graph, name)}, name
        assert (TEACH | DISTIL) & {kind(p) for p in ancestors(graph, name)}, name
        assert not (TEACH | DISTIL) & {kind(p) for p in parents(graph, name)}, name


def test_training_rests_on_what_it_runs(graph: Graph) -> None:
    study = load_study(graph["study"]["budget"], graph["study"]["root"])
    files = {method: module_file(cls) for method, cls in METHODS.items()}
    networks = {"edsr", "rcan", "swinir"}
    for name, stage in stages(graph).items():
        if kind(name) not in TEACH | DISTIL:
            continue
        *_, entry = stage["cmd"].split()
        taught = kind(name) in TEACH
        cohort = None if taught else study.cohort(entry)
        needed = {
            "augkd/train.py",
            "augkd/study/runs.py",
            "augkd/augment.py",
            "augkd/data/sampler.py",
        }
        own = {cohort.network if cohort else str(study.teacher(entry).network)}
        if cohort and cohort.teacher.trained:
            own.add(str(study.teacher(cohort.teacher.trained).network))
        needed |= {f"augkd/models/{network}.py" for network in own}
        for method, options in cohort.methods.items() if cohort else [("scratch", {})]:
            needed |= imported(files[options.get("method", method)], "augkd/distill/")
        if cohort and cohort.bits:
            needed.add("augkd/models/quantize.py")
        listed = set(sources(graph, name))
        assert needed <= listed, name
        others = {f"augkd/models/{network}.py" for network in networks - own}
        unused = set(files.values()) - needed
        assert not listed & (others | unused), name
        assert all(stage["outs"].values()), f"{name}: an output is not cached"
        assert "seed" in stage["params"]
        table = "teachers" if taught else "cohorts"
        assert f"{table}.{entry}" in stage["params"], name


def test_public_teachers_stand_before_their_students(graph: Graph) -> None:
    """Who takes teachers trains none but Table 5's, and nobody learns before they are measured."""
    study = load_study(graph["study"]["budget"], graph["study"]["root"])
    kinds = {kind(name) for name in stages(graph)}
    assert ("fetch" in kinds) == ("take" in kinds) == bool(study.budget.public)
    assert ("teach" in kinds) == ("teach_x4" in kinds) == bool(study.budget.teaching)
    if not study.budget.public:
        return
    (fetch,) = (stage for name, stage in stages(graph).items() if kind(name) == "fetch")
    assert fetch["outs"] == {"data/fetched": False}
    assert fetch["deps"] == ["augkd/study/acquire/registry.yaml"]
    for name, stage in stages(graph).items():
        if kind(name) in DISTIL:
            assert "take" in {kind(p) for p in ancestors(graph, name)}, name
        if kind(name) == "take":
            listed = sources(graph, name)
            assert {"augkd/study/gate.py", "augkd/metrics/fidelity.py"} <= set(listed)
            assert {kind(p) for p in parents(graph, name)} == {"sources", "fetch", "prepare"}
            assert "augkd/study/paper/external.csv" in stage["deps"]
            assert all(stage["outs"].values())


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
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        cwd=ROOT,
        env=environment(ROOT, ROOT),
        capture_output=True,
        text=True,
        check=True,
    )
    files = (Path(file) for file in done.stdout.split() if "augkd/" in file)
    return frozenset(file.relative_to(ROOT).as_posix() for file in files)


def test_sources_are_what_python_loads(graph: Graph) -> None:
    """The list that is read off the imports, against the modules that an import brings."""
    loaded = loaded_modules()
    budget = graph["study"]["budget"]
    listed = set(sources(graph, f"score@{budget}-edsr"))
    chosen = {path for path in loaded if path.startswith(("augkd/distill/", "augkd/models/"))}
    # what a package's own page of contents brings, and only some cohorts use
    chosen |= {"augkd/degrade/bsrgan.py", "augkd/metrics/niqe.py"}
    contents = {path for path in loaded if path.endswith("__init__.py")}
    assert loaded - chosen - contents - LEFT_OUT_OF_RUNS <= listed
    assert {path for path in listed if path.endswith(".py")} <= loaded
    for path in listed:
        assert len(sources(graph, f"score@{budget}-edsr")[path]) == 64
    assert LEFT_OUT < LEFT_OUT_OF_RUNS


def test_groups_are_those_of_the_study(graph: Graph) -> None:
    study = load_study(graph["study"]["budget"], graph["study"]["root"])
    for group in ("edsr", "rcan", "swinir", "extras", "mixed"):
        text = (graph["study"]["root"] / f"build/sources/score-{group}.txt").read_text()
        members = [name for name in study.params.cohorts if study.group(name) == group]
        networks = {study.cohort(name).network for name in members}
        for network in networks:
            assert f"augkd/models/{network}.py" in text
        for stage in stages(graph).values():
            if stage["cmd"].endswith(f" {group}") and " score " in stage["cmd"]:
                held = {p.removeprefix("cohorts.") for p in stage["params"] if "cohorts." in p}
                assert held == set(members)


def test_every_source_that_is_named_is_there(graph: Graph) -> None:
    outs = [out for stage in stages(graph).values() for out in stage["outs"]]
    for name, stage in stages(graph).items():
        for dep in stage["deps"]:
            made = any(touches(dep, out) for out in outs)
            assert made or (graph["study"]["root"] / dep).exists(), (name, dep)


def test_x4_starts_from_x2(graph: Graph) -> None:
    budget = graph["study"]["budget"]
    assert f"distil@{budget}-edsr-2" in parents(graph, f"distil_x4@{budget}-edsr")
    if f"teach@{budget}-edsr-2" in graph:
        assert f"teach@{budget}-edsr-2" in parents(graph, f"teach_x4@{budget}-edsr")


def test_the_report_comes_last(graph: Graph) -> None:
    site = f"site@{graph['study']['budget']}"
    assert ancestors(graph, site) == set(stages(graph)) - {site}
    assert graph[site]["outs"] == {
        f"reports/{graph['study']['budget']}": False,
        "reports/index.html": False,
    }


def test_no_output_is_in_git_but_reports(graph: Graph) -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, stage in stages(graph).items():
        for out, cached in stage["outs"].items():
            if not cached:  # reports and what is fetched; all else is pulled, not made again
                assert out.startswith(("reports", "data/fetched")), out
                if out != "data/fetched":
                    continue
            held = [file for file in tracked.split("\0") if file and holds(out, file)]
            assert held == [], name


def test_a_table_without_its_prose_is_another_table(tmp_path: Path) -> None:
    """Run notebooks are code alone to the pipeline, pages are prose too; outputs are neither."""
    study = copy_study(tmp_path / "study")
    for name, entry in (("distil", "distil-edsr_x2"), ("table_02", "table_02")):
        path = study / "notebooks" / f"{name}.ipynb"
        notebook = json.loads(path.read_text())

        def text(entry: str = entry) -> str:
            write_sources(study, Path("out"))
            return (study / "out" / f"{entry}.txt").read_text()

        first = text()
        code = next(c for c in notebook["cells"] if c["cell_type"] == "code")
        code["execution_count"] = 3
        path.write_text(json.dumps(notebook))
        assert text() == first
        notebook["cells"][0]["source"] = ["# Other"]
        path.write_text(json.dumps(notebook))
        assert (text() == first) == (name == "distil")
        code["source"] = [*code["source"], "\nb = 1"]
        path.write_text(json.dumps(notebook))
        assert text() != first


def test_an_edit_moves_what_it_must(tmp_path: Path) -> None:
    """A method's file, a network's file, a look: the stages whose sources change."""
    study = copy_study(tmp_path / "study")

    def texts() -> dict[str, str]:
        write_sources(study, Path("out"))
        return {file.stem: file.read_text() for file in (study / "out").glob("*.txt")}

    before = texts()

    def moved(module: str) -> set[str]:
        file = study / module
        kept = file.read_text()
        file.write_text(kept + "# a word\n")
        after = texts()
        file.write_text(kept)
        return {name for name in before if before[name] != after[name]}

    method = moved("augkd/distill/fitnet.py")
    assert {"distil-edsr_x2", "distil-rcan_x4"} <= method
    assert not {"distil-swinir_x2", "distil-ablation_x4", "teach-edsr_x2"} & method
    network = moved("augkd/models/rcan.py")
    assert {"teach-rcan_x2", "distil-rcan_x3", "distil-rcan_x4_from_edsr"} <= network
    assert not {"teach-edsr_x2", "distil-edsr_x2", "score-edsr", "table_02"} & network
    look = moved("augkd/study/report/style.py")
    assert {"table_02", "figure_02"} <= look
    assert not {name for name in look if name.startswith(("teach", "distil", "score-", "prepare"))}
    assert moved("augkd/study/params.py") == set()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_notebook_has_parameters_with_working_defaults(file: Path) -> None:
    cells = json.loads(file.read_text())["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    values: dict[str, Any] = {}
    exec("".join(tagged[0]["source"]), values)
    study = load_study(values["budget"])
    assert study.budget.name == "smoke"  # opened alone it runs in under a minute
    if file.stem in ("teach", "distil"):
        assert study.cohort(values["cohort"])
    if file.stem == "score":
        assert values["group"] in study.groups()
    assert cells[0]["cell_type"] == "markdown"
    assert "".join(cells[0]["source"]).startswith("# ")
