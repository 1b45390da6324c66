"""Public teachers: fetched, read in their own layouts, measured before anyone learns from them."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from augkd.data.store import ImageStore
from augkd.errors import UserError
from augkd.metrics import psnr_y
from augkd.models import SIZES, create_model, load_network, save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.study.acquire.fetch import fetch_study
from augkd.study.gate import TOLERANCE, mean_psnr, take
from augkd.study.params import Study, load_study
from augkd.study.pipeline import stage
from augkd.study.prepare import find_datasets, prepare_pairs, prepare_study
from augkd.study.runs import load_teacher, teach, validation
from augkd.study.score import scored_images
from augkd.study.ship import ship
from tests.miniature_archives import NAMES, make_archives, registry, write_registry
from tests.public_layouts import publish
from tests.study_copy import ROOT, edit
from tests.test_cohort import small_study

SIZE: dict[str, Any] = {"channels": 4, "blocks": 1, "res_scale": 1.0}
KINDS = ("weight", "bias")
REAL = ("RealSR", "DRealSR", "OST300")
LAYERS = (
    *(("conv_first", "head.0"), ("conv_after_body", "body.1"), ("conv_last", "tail.1")),
    *(("body.0.conv1", "body.0.body.0"), ("body.0.conv2", "body.0.body.2")),
    ("upsample.0", "tail.0.0"),
)
"""Ours, and those of the published layout."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose budget `paper` is small, with all that it fetches, and nothing run."""
    root = tmp_path_factory.mktemp("study")
    mirror, fetched = root / "mirror", root / "data" / "fetched"
    make_archives(mirror, 264)
    torch.manual_seed(3)
    for scale in (2, 3, 4):
        publish(create_model("edsr", scale=scale, **SIZE), mirror / f"edsr_x{scale}.pt")
    write_registry(root / "registry.yaml", registry(mirror, "http://127.0.0.1:9"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    paper = params["budgets"]["paper"]
    params["data"] |= {"mirror": "mirror", "registry": "registry.yaml"}
    paper |= {"backbones": ["edsr"], "mixed": [], "methods": {}}
    paper["checkpoints"] = {f"edsr_x{scale}": f"edsr_x{scale}" for scale in (2, 3, 4)}
    paper["networks"] = {"edsr": dict.fromkeys(("teacher", "student", "small", "central"), SIZE)}
    paper["schedules"] = {"edsr": paper["schedules"]["edsr"]}
    params["budget"] = paper
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    study = load_study(None, root)
    files = {file.name for file in fetch_study(study)}
    assert files >= {"edsr_x2.pt", "DIV2K_train_HR.zip", "benchmark.tar", "OST300_img.zip"}
    before = sorted(fetched.rglob("*"))
    prepare_study(study)
    assert sorted(fetched.rglob("*")) == before  # a stage must not change what it depends on
    return root


@pytest.fixture
def study(made: Path) -> Study:
    shutil.rmtree(made / "runs" / "paper" / "teach", ignore_errors=True)
    return load_study(None, made)


def published(study: Study, **off: float) -> pd.DataFrame:
    """What the x2 stand-in scores, found without the gate's code; some figures wrong."""
    weights = torch.load(study.root / "mirror" / "edsr_x2.pt", weights_only=True)
    network = create_model("edsr", scale=2, **SIZE).eval()
    parts = [(f"{a}.{kind}", f"{b}.{kind}") for a, b in LAYERS for kind in KINDS]
    network.load_state_dict(network.state_dict() | {own: weights[name] for own, name in parts})
    store, rows = ImageStore(study.folder("prepare") / "benchmarks"), []
    for dataset in ("Set5", "Urban100"):
        values = []
        for name in NAMES[dataset]:
            lr, hr = store.pair(dataset, name, 2)
            with torch.no_grad():
                values.append(float(psnr_y(network(lr[None].float() / 255), hr[None], 2)))
        value = round(sum(values) / len(values), 2) + off.get(dataset, 0)
        rows.append((dataset, "psnr_y", round(value, 2), 2))
        rows.append((dataset, "ssim_y", 0.5, 4))  # not judged
    return pd.DataFrame(rows, columns=["dataset", "metric", "value", "decimals"])


def expect(monkeypatch: pytest.MonkeyPatch, table: pd.DataFrame) -> None:
    monkeypatch.setattr("augkd.study.gate.expected_scores", lambda checkpoint: table)


@pytest.mark.parametrize("off", [0.0, 0.05, -0.05])
def test_a_teacher_that_scores_as_published_is_taken(
    study: Study, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    expect(monkeypatch, published(study, Set5=off))
    table, out = take(study, "edsr_x2"), study.folder("teach", "edsr_x2")
    assert table["difference"].to_list() == [pytest.approx(-off), 0.0]
    assert table["dataset"].to_list() == ["Set5", "Urban100"]
    assert table["images"].to_list() == [2, 2]
    names = {path.name for path in out.iterdir()}
    assert names == {"teacher.safetensors", "curves", "run.json", "gate.csv"}
    pd.testing.assert_frame_equal(pd.read_csv(out / "gate.csv"), table)
    record = json.loads((out / "run.json").read_text())
    assert (record["source"]["file"], record["steps"]) == ("edsr_x2.pt", 0)
    assert record["source"]["checkpoint"] == "edsr_x2"
    taught = load_teacher(study, study.cohort("edsr_x2"), torch.device("cpu"))
    again = load_network(out / "teacher.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in taught.state_dict().items())

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    asked: list[tuple[str, str]] = []  # opened by hand, it shows what was taken
    monkeypatch.setattr(stage, "need", lambda study, *names: asked.append(names))
    pd.testing.assert_frame_equal(take(replace(study, by_hand=True), "edsr_x2"), table)
    assert asked == [("take", "edsr")]
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


@pytest.mark.parametrize("off", [0.06, -0.06])
def test_a_teacher_that_is_off_stops_the_run(
    study: Study, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    table = published(study, Urban100=off)
    expect(monkeypatch, table)
    with pytest.raises(UserError) as error:
        take(study, "edsr_x2", "edsr_x2")
    text = str(error.value)
    assert "\n" not in text
    figure = table[table.dataset == "Urban100"]["value"].iloc[0]
    assert f"off by more than {TOLERANCE} dB (edsr_x2 on Urban100" in text
    assert f"published {figure:g}" in text
    assert "Set5" not in text
    assert not study.folder("teach").exists()


def test_a_score_that_nobody_published_is_not_judged(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect(monkeypatch, published(study).iloc[:0])
    assert take(study, "edsr_x2").empty
    assert (study.folder("teach", "edsr_x2") / "teacher.safetensors").is_file()


def test_a_set_that_was_not_prepared(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, published(study).replace("Urban100", "Manga109"))
    with pytest.raises(UserError, match=r"Manga109: not prepared.*images\.datasets\.test"):
        take(study, "edsr_x2")


def test_images_are_those_that_the_budget_names(study: Study) -> None:
    folder = study.folder("prepare")
    for part, datasets in (
        ("train", ["DIV2K", "Flickr2K"]),
        ("test", ["DIV2K-valid"]),
        ("benchmarks", ["Set5", "Set14", "B100", "Urban100", *REAL]),
    ):
        assert list(dict.fromkeys(key[0] for key in ImageStore(folder / part).keys)) == datasets
    index = pd.read_csv(folder / "train" / "index.csv", keep_default_na=False)
    assert set(index[index.scale > 1]["lr_source"]) == {"shipped"}
    cohorts = ("edsr_x2", "unexpanded_x4", "expanded_x4", "real_x4")
    entries: list[Any] = [*map(study.cohort, cohorts), study.teacher("real_x4")]
    plain, expanded = (("DIV2K",), None), (("DIV2K", "Flickr2K"), None)
    sets = [plain, plain, expanded, expanded, expanded]
    assert [study.training_set(entry) for entry in entries] == sets
    validate = validation(study, study.cohort("edsr_x2"), torch.device("cpu"))
    assert 0 < validate(create_model("edsr", scale=2, **SIZE)) < 60


@pytest.mark.parametrize(
    ("cohort", "expected"),
    [("edsr_x4", {"Set5", "Set14", "B100", "Urban100"}), ("real_x4", set(REAL))],
)
def test_what_a_cohort_is_scored_on(study: Study, cohort: str, expected: set[str]) -> None:
    scored = list(scored_images(study, study.cohort(cohort)))
    tests = [row for row in scored if row[1] == "test"]
    assert {row[0] for row in tests} == expected
    assert {row[0] for row in tests if row[4] is None} == expected & {"OST300"}
    store = ImageStore(study.folder("prepare") / "benchmarks")
    for dataset, _, image, lr, hr in tests:
        assert torch.equal(lr, store.image(dataset, image, 4))  # as it was shipped
        assert hr is None or hr.shape == (3, 4 * lr.shape[1], 4 * lr.shape[2])
    assert {row[0] for row in scored if row[1] == "train"} <= {"DIV2K", "Flickr2K"}


def test_a_set_without_lr_is_reduced(study: Study, tmp_path: Path) -> None:
    """Flickr2K's second source ships HR alone."""
    shutil.copyfile(study.root / "mirror" / "Flickr2K.zip", tmp_path / "Flickr2K.zip")
    found = []
    for folder, source in ((tmp_path, "bicubic"), (study.budget.origin, "shipped")):
        of = replace(study, budget=study.budget.model_copy(update={"origin": folder}))
        found.append(list(prepare_pairs(of, find_datasets(of, ["Flickr2K"]))))
        assert [image.lr_source for image in found[-1]] == [source] * 2
    for one, two in zip(*found, strict=True):
        assert all(torch.equal(one.lr[scale], two.lr[scale]) for scale in (2, 3, 4))


def test_what_a_budget_does_not_fetch(study: Study) -> None:
    with pytest.raises(UserError, match="budget 'smoke' fetches nothing"):
        fetch_study(load_study("smoke", study.root))


def test_the_paper_is_as_published() -> None:
    """Appendix A.1 and Table 1, at the budget of that name."""
    study = load_study("paper", ROOT)
    for training in (study.budget.distil, study.budget.teach):
        assert (training.steps, training.batch, training.patch) == (250_000, 16, 48)
        assert (training.lr, training.decay_every) == (1e-4, 100_000)
    for network, roles in SIZES.items():
        for role, size in roles.items():
            assert study.size(network, role) == size
            assert study.budget.networks[network][role] == {}  # Table 1 stands in one place
    assert study.cohort("edsr_x4").methods["csd"]["vgg"].startswith("data/fetched/vgg19")
    assert "vgg" not in study.cohort("controls_x2").methods["csd_features"]
    assert "vgg" not in load_study("cpu", ROOT).cohort("edsr_x4").methods["csd"]
    untrained = study.params.cohorts.keys() - study.trained()
    assert all(study.cohort(name).trend for name in untrained)  # which are ours


# --- those that come with the study ---


def test_a_shipped_teacher_is_taken_with_its_card(tmp_path: Path) -> None:
    """In half precision, with its recipe, and only while it scores what its card says."""
    root = small_study(tmp_path)
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    trained = load_study("smoke", root)
    teach(trained, "edsr_x2")
    table = ship(trained)
    assert list(table["teacher"]) == ["edsr_x2"]
    file = root / "data" / "teachers" / "edsr_x2.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in (file.parent / "README.md").read_text()
    edit(root, "    name: smoke\n", "    name: smoke\n    shipped: data/teachers\n")
    study = load_study("smoke", root)
    loss, _ = teach(study, "edsr_x2")
    assert loss.empty
    record = json.loads((study.folder("teach", "edsr_x2") / "run.json").read_text())
    assert record["source"]["card"]["recipe"]["steps"] == trained.budget.teach.steps
    entry = study.teacher("edsr_x2")
    network = load_network(study.folder("teach", "edsr_x2") / "teacher.safetensors")
    store = ImageStore(study.folder("prepare") / "test")
    score = mean_psnr(network, store, store.keys, entry)
    assert f"{score:.2f}" == table["PSNR-Y"][0]

    with torch.no_grad():
        network.get_parameter("conv_last.bias").add_(50)  # grey levels
    card = read_header(file)["card"]
    save_checkpoint(file, network.half(), {"card": card})
    with pytest.raises(UserError, match=r"edsr_x2\.safetensors: scores .* as on its card: restore"):
        teach(study, "edsr_x2")
