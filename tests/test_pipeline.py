"""The pipeline's graph, as DVC itself resolves it: what rests on what, and what does not."""

import ast
import json
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from augkd.config import load_study
from augkd.distill import METHODS
from augkd.stage import filter_notebooks, stage_names
from tests.study_copy import ROOT, copy_study, environment

TRAINING = ("augkd/train.py", "augkd/study.py", "augkd/distill", "augkd/data/sampler.py")
RUNS = ("prepare", "teach", "teach_x4", "distil", "distil_x4", "ablate", "score", "score_ablation")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

LIST = """
import json
from dvc.repo import Repo
stages = [s for s in Repo(".").index.stages if hasattr(s, "name")]
print(json.dumps([{
    "name": s.addressing,
    "cmd": s.cmd,
    "deps": [d.def_path for d in s.deps if not hasattr(d, "params")],
    "params": sorted({p for d in s.deps if hasattr(d, "params") for p in d.params}),
    "outs": {o.def_path: o.use_cache for o in s.outs},
} for s in stages]))
"""

Stage = dict[str, Any]
Graph = dict[str, Stage]


@pytest.fixture(scope="session", params=["smoke", "cpu"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    study = copy_study(tmp_path_factory.mktemp("graph") / "study", request.param)
    done = subprocess.run(
        [sys.executable, "-c", LIST],
        cwd=study,
        env=environment(study, study),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    stages: list[Stage] = json.loads(done.stdout)
    graph = {stage["name"]: stage for stage in stages}
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
    deps = graph[name]["deps"]
    return {
        other
        for other, stage in stages(graph).items()
        if other != name and any(touches(dep, out) for dep in deps for out in stage["outs"])
    }


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
    return [name for name in stages(graph) if kind(name) not in (*RUNS, "notebooks", "site")]


def test_stages_are_those_that_the_terminal_counts(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(graph["study"]["root"])
    assert sorted(stage_names()) == sorted(stages(graph))
    assert len(stages(graph)) < 60
    assert stage_names()[0] == "notebooks"
    assert kind(stage_names()[-1]) == "site"


def test_tables_and_figures_rest_on_scores_and_not_on_training_code(graph: Graph) -> None:
    assert {kind(name) for name in pages(graph)} >= {
        "table_01",
        "table_02",
        "table_06",
        "table_07",
        "figure_02",
        "scorecard",
    }
    for name in pages(graph):
        deps = graph[name]["deps"]
        if kind(name) == "methods":  # about the training code itself: of runs, images alone
            assert {kind(p) for p in ancestors(graph, name)} == {"prepare", "notebooks"}
            continue
        for code in (*TRAINING, "augkd/models", "augkd/data", "augkd/score.py"):
            if kind(name) == "table_01" and code == "augkd/models":
                continue  # it counts the networks' parameters
            assert not any(touches(code, dep) for dep in deps), (name, code)
        if kind(name) == "table_01":
            continue
        assert {"score", "score_ablation"} & {kind(p) for p in parents(graph, name)}, name
        # whatever it rests on in the end was scored, taught and prepared by a stage
        assert {"prepare", "notebooks"} < {kind(p) for p in ancestors(graph, name)}, name
        trained = {"teach", "distil", "distil_x4", "ablate"}
        assert trained & {kind(p) for p in ancestors(graph, name)}, name
        assert not trained & {kind(p) for p in parents(graph, name)}, name


def test_training_rests_on_what_it_runs(graph: Graph) -> None:
    study = load_study(graph["study"]["budget"], graph["study"]["root"])
    files = {method: module_file(cls) for method, cls in METHODS.items()}
    for name, stage in stages(graph).items():
        if kind(name) not in ("distil", "distil_x4", "ablate", "teach", "teach_x4"):
            continue
        *_, entry = stage["cmd"].split()
        taught = kind(name).startswith("teach")
        cohort = None if taught else study.cohort(entry)
        needed = {"augkd/train.py", "augkd/study.py", "augkd/augment.py", "augkd/data/sampler.py"}
        network = cohort.network if cohort else study.teacher(entry).network
        needed |= {f"augkd/models/{network}.py", "augkd/models/__init__.py"}
        for method, options in cohort.methods.items() if cohort else [("scratch", {})]:
            needed |= imported(files[options.get("method", method)], "augkd/distill/")
        if taught:  # Scratch is given no teacher: kd.py names its type alone
            needed -= {"augkd/distill/teacher.py"}
        for file in needed:
            assert any(holds(dep, file) for dep in stage["deps"]), (name, file)
        assert all(stage["outs"].values()), f"{name}: an output is not cached"
        assert "seed" in stage["params"]
        table = "teachers" if taught else "cohorts"
        assert f"{table}.{entry}" in stage["params"], name


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


def test_every_source_that_is_named_is_there(graph: Graph) -> None:
    outs = [out for stage in stages(graph).values() for out in stage["outs"]]
    for name, stage in stages(graph).items():
        for dep in stage["deps"]:
            made = any(touches(dep, out) for out in outs)
            assert made or (graph["study"]["root"] / dep).exists(), (name, dep)


def test_x4_starts_from_x2(graph: Graph) -> None:
    budget = graph["study"]["budget"]
    assert f"distil@{budget}-edsr-2" in parents(graph, f"distil_x4@{budget}-edsr")
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
            if not cached:  # reports, and metrics that DVC wants to read
                assert out.startswith("reports") or out.endswith("metrics.json"), out
                continue
            held = [file for file in tracked.split("\0") if file and holds(out, file)]
            assert held == [], name


def test_a_table_without_its_prose_is_another_table(tmp_path: Path) -> None:
    """Run notebooks are code alone to the pipeline, pages are prose too; outputs are neither."""
    source = tmp_path / "notebooks"
    source.mkdir()

    def text(name: str, prose: str, code: str, outputs: list[str]) -> str:
        cells = [
            {"cell_type": "markdown", "metadata": {}, "source": [prose]},
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"]},
                "source": [code],
                "outputs": outputs,
                "execution_count": len(outputs) or None,
            },
        ]
        (source / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))
        filter_notebooks(source, tmp_path / "out")
        return (tmp_path / "out" / f"{name}.txt").read_text()

    for name in ("distil", "table_02"):
        first = text(name, "# Title", "a = 1", [])
        assert text(name, "# Title", "a = 1", ["shown"]) == first
        assert text(name, "# Title", "a = 2", []) != first
        assert (text(name, "# Other", "a = 1", []) == first) == (name == "distil")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_notebook_has_parameters_with_working_defaults(file: Path) -> None:
    cells = json.loads(file.read_text())["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    values: dict[str, Any] = {}
    exec("".join(tagged[0]["source"]), values)
    study = load_study(values["budget"])
    assert study.budget.name == "smoke"  # opened alone it runs in under a minute
    if file.stem in ("teach", "distil", "score"):
        assert study.cohort(values["cohort"])
    assert cells[0]["cell_type"] == "markdown"
    assert "".join(cells[0]["source"]).startswith("# ")
