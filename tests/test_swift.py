"""dvc.lock as augkd/study/pipeline/swift.py writes it, against DVC's own."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml
from dvc.utils.serialize._yaml import YAMLFileCorruptedError

from augkd.study.pipeline.swift import HEAD, parse_once, replace_stage

STAGES = {
    "prepare": {"cmd": "a 'b' | c", "outs": [{"path": "x y", "hash": "md5", "nfiles": 2}]},
    "teach@cpu-edsr-2": {"params": {"params.yaml": {"lr": 0.002, "none": None, "list": []}}},
    "last": {"cmd": ["one", "two # no comment"], "deps": [{"path": "é" * 60, "size": 1}]},
}


def text(*names: str, **changed: object) -> str:
    return str(
        dumps_yaml({"schema": "2.0", "stages": {n: changed.get(n, STAGES[n]) for n in names}})
    )


def lines(name: str, body: object) -> str:
    return str(dumps_yaml({"stages": {name: body}})).partition("\n")[2]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_replaced_where_it_stands(name: str) -> None:
    body = {"cmd": "another", "deps": [{"path": "z"}, {"path": "w"}]}
    expected = text(*STAGES, **{name: body})
    assert replace_stage(text(*STAGES), name, lines(name, body)) == expected


def test_a_new_stage_comes_last() -> None:
    first, second, third = STAGES
    assert replace_stage(text(first, second), third, lines(third, STAGES[third])) == text(*STAGES)
    assert replace_stage(HEAD, first, lines(first, STAGES[first])) == text(first)


@pytest.mark.parametrize("odd", ["", "stages: {}\n", HEAD + "# a remark\n", HEAD + "  a: {}\n"])
def test_what_dvc_did_not_write_is_left_to_dvc(odd: str) -> None:
    assert replace_stage(odd, "a", lines("a", {"cmd": "b"})) is None


def test_a_text_that_was_parsed_is_as_new_each_time() -> None:
    first = parse_once("a: &a {b: [1]}\nc: *a\n", "params.yaml")
    first["a"]["b"].append(2)
    assert first["c"] == {"b": [1, 2]}  # an alias is one object, as DVC's own parser has it
    assert parse_once("a: &a {b: [1]}\nc: *a\n", "params.yaml") == {
        "a": {"b": [1]},
        "c": {"b": [1]},
    }
    assert parse_once("a: {b: [3]}\n", "params.yaml") == {"a": {"b": [3]}}
    with pytest.raises(YAMLFileCorruptedError, match=r"broken\.yaml"):
        parse_once("a: [", "broken.yaml")


def test_a_pipeline_is_locked_as_dvc_locks_it(tmp_path: Path) -> None:
    pipeline = {
        "stages": {
            "one": {"cmd": "echo 1 > one", "params": ["b.lr", "c"], "outs": ["one"]},
            "two": {
                "matrix": {"k": [1, 2]},
                "cmd": "mkdir two${item.k} && cp one two${item.k}",
                "deps": ["one"],
                "params": ["b"],
                "outs": ["two${item.k}"],
            },
        }
    }
    locks = []
    for module in ("dvc", "augkd.study.pipeline.swift"):
        folder = tmp_path / module
        folder.mkdir()
        (folder / "dvc.yaml").write_text(dumps_yaml(pipeline))
        (folder / "params.yaml").write_text("a: &a {lr: 2.0e-3, n: null}\nb: *a\nc: yes\n")
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text(
            "[core]\n    no_scm = True\n    analytics = false\n"
        )
        call = [sys.executable, "-m", module, "repro", "-q"]
        subprocess.run(call, cwd=folder, check=True, capture_output=True)
        locks.append((folder / "dvc.lock").read_text())
    assert locks[0] == locks[1]
    assert locks[0].count("path: ") == 5
