"""Teachers from elsewhere, from params.yaml to distilled and scored students."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from augkd.data.store import ImageStore, write_store
from augkd.errors import UserError
from augkd.metrics import psnr_y
from augkd.models import SRNetwork, load_checkpoint, save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.models.upscale import SelfEnsemble
from augkd.study.params import Study, load_study
from augkd.study.runs import build, distil, load_teacher, student_path, teach
from augkd.study.score import Scored, ensembled, score_cohort
from tests.imdn import IMDN
from tests.study_copy import ROOT
from tests.test_cohort import photographs
from tests.test_models import tiny

CPU = torch.device("cpu")
Make = Callable[..., Study]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A study of the smoke size with one cohort, one teacher, noise for images and three steps."""

    def study(entry: dict[str, Any], methods: Any = None) -> Study:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        smoke, cohort = params["budgets"]["smoke"], params["cohorts"]["edsr_x2"]
        cohort |= {"methods": methods or {"kd": {}, "augkd": {}}, "at": {"smoke": {"seeds": 1}}}
        cohort |= {"teacher": {"trained": "foreign"}}
        smoke["teach"] |= {"steps": 2, "patch": 12}
        smoke["distil"] |= {"steps": 3, "patch": 12}
        params |= {"cohorts": {"edsr_x2": cohort}, "teachers": {"foreign": entry}}
        params |= {"budgets": {"smoke": smoke}, "budget": smoke}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        (tmp_path / "dvc.yaml").write_text("")
        made = load_study(root=tmp_path)
        for part, n in (("train", 2), ("test", 1), ("benchmarks", 0)):
            write_store(made.folder("prepare") / part, photographs(part, n, 60))
        return made

    return study


def _taught(study: Study) -> nn.Module:
    """The teacher as the later stages see it."""
    return load_teacher(study, study.cohort("edsr_x2"), CPU)


def test_a_factory_teaches_a_student(make: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file = IMDN(2).eval(), tmp_path / "imdn.pth"
    torch.save({"params": model.state_dict()}, file)
    study = make({"factory": "tests.imdn:imdn", "weights": "imdn.pth", "scale": 2})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    teach(study, "foreign")
    distil(study, "edsr_x2")
    for method in ("kd", "augkd"):  # both have learned something
        student = build(study, "edsr", "student", 2, 0)
        before = student.state_dict()["conv_first.weight"].clone()
        path = student_path(study, "edsr_x2", method, 0)
        assert read_header(path)["network"] == "edsr"
        load_checkpoint(path, student)
        assert not torch.equal(student.state_dict()["conv_first.weight"], before)
    assert {"teacher", "kd", "augkd"} <= set(score_cohort(study, "edsr_x2")["method"])

    folder = study.folder("teach", "foreign")
    record = json.loads((folder / "run.json").read_text())
    source = {"factory": "tests.imdn:imdn", "file": "imdn.pth", "sha256": digest}
    assert record["source"] == source == read_header(folder / "teacher.safetensors")
    assert record["steps"] == 0
    assert (folder / "curves" / "psnr.csv").is_file()  # the stage's declared outputs

    file.unlink()  # from here on, the stage's own copy is what counts
    x = torch.rand(1, 3, 9, 8)
    assert torch.equal(_taught(study)(x), model(x))


@pytest.mark.parametrize("ours", [True, False], ids=["its own size", "the budget's size"])
def test_a_checkpoint_of_our_networks_teaches(ours: bool, make: Make, tmp_path: Path) -> None:
    study = make({"weights": "file", "scale": 2} | ({} if ours else {"network": "edsr"}))
    if ours:
        model = tiny("rcan")
        save_checkpoint(tmp_path / "file", model)
    else:
        model = build(study, "edsr", "teacher", 2, seed=5).eval()
        torch.save(model.state_dict(), tmp_path / "file")
    teach(study, "foreign")
    teacher, x = _taught(study), torch.rand(1, 3, 9, 8)
    assert isinstance(teacher, SRNetwork)
    torch.testing.assert_close(teacher(x), model(x))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "teachers.foreign: nothing is given: give one of network"),
        ({"network": "edsr", "factory": "a:b"}, "network and factory is given: give one of"),
        ({"spandrel": "a", "factory": "a:b"}, "spandrel and factory is given: give one of"),
        ({"spandrel": "a", "weights": "b"}, "weights: spandrel names the file already: remove"),
        ({"network": "vdsr"}, "network: 'vdsr' is unknown: choose one of edsr, rcan, swinir"),
        ({"factory": "imdn"}, "teachers.foreign.factory: .* not 'imdn': correct the value"),
        ({"factory": "a:b", "start": "foreign"}, "start: only a teacher that is trained here"),
        ({"network": "edsr", "start": "other"}, "foreign.start 'other' is unknown"),
        ({"weights": "a", "scale": 3}, "foreign enlarges x3, the students x2: choose a teacher"),
        ({"file": "a"}, "teachers.foreign.file: unknown key"),
    ],
)
def test_a_bad_entry_is_named(make: Make, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make({"scale": 2} | entry)
    assert "\n" not in str(caught.value)


def test_a_student_that_stopped_is_saved_and_scored_so(make: Make) -> None:
    methods = {"scratch": {}, "kd": {"rec": 1e39}}  # infinite, once it is a float32
    study = make({"network": "edsr", "scale": 2}, methods=methods)
    teach(study, "foreign")
    distil(study, "edsr_x2")
    folder = study.folder("distil", "edsr_x2")
    assert json.loads((folder / "run.json").read_text())["stopped"] == {"kd-0": 0}
    scores = score_cohort(study, "edsr_x2").query("metric == 'stopped'")
    assert list(scores["method"]) == ["kd"]
    assert list(scores["value"]) == [0]
    assert (folder / "stopped" / "kd-0.pt").is_file()


def test_answers_are_of_a_single_pass(make: Make) -> None:
    study = make({"network": "edsr", "scale": 2}, methods={"kd": {}})
    teach(study, "foreign")
    distil(study, "edsr_x2")
    scores = score_cohort(study, "edsr_x2").set_index(["method", "split", "metric"])["value"]

    teacher = _taught(study)
    student = build(study, "edsr", "student", 2, 0)
    load_checkpoint(student_path(study, "edsr_x2", "kd", 0), student)
    store = ImageStore(study.folder("prepare") / "test")
    lr, hr = (image[None] for image in store.pair(*store.keys[0], 2))
    for name, network in {"teacher": teacher, "kd": student.eval()}.items():
        both = (network, SelfEnsemble(network))
        single, mean = (psnr_y(each(lr / 255), hr, 2).item() for each in both)
        assert abs(single - mean) > 1e-3  # noise for images: the two do differ
        assert scores[name, "test", "psnr_y"] == pytest.approx(single, abs=1e-4)

    own, target = (n(lr / 255) for n in (student, teacher))
    near = psnr_y(own, (target * 255).round().clamp(0, 255).to(torch.uint8), 2).item()
    assert scores["kd", "test", "psnr_y_teacher"] == pytest.approx(near, abs=1e-4)


@pytest.mark.parametrize(("limit", "chosen"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 3]), (9, None)])
def test_ensembles_are_spread_over_each_set(limit: int, chosen: list[int] | None) -> None:
    """So many test images of each set, never training ones; of all, where there are fewer."""
    none, every = torch.empty(0), [(s, f"{i}") for s in ("a", "b") for i in range(5)]
    images: list[Scored] = [("a", "train", "other", none, none)]
    images += [(s, "test", i, none, none) for s, i in every]
    assert ensembled(images, limit) == {(s, i) for s, i in every if int(i) in (chosen or range(5))}
    assert ensembled(images, None) == set(every)
