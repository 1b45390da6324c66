"""Bad input: one line that names what is wrong and the mend, and nothing half written."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from augkd.data.images import write_image
from augkd.errors import UserError
from augkd.models import create_model, save_checkpoint
from augkd.study import prepare as listing
from augkd.study.gate import take
from augkd.study.params import STAGE, Budget, Study, budgets, find_root, load_study, open_study
from augkd.study.pipeline.stage import main
from augkd.study.prepare import Photograph, prepare_study
from augkd.study.record import by_method, plot_curves
from augkd.study.runs import distil, teach
from augkd.study.score import write_group
from augkd.train import Curves
from tests.study_copy import run

ROOT = Path(__file__).parent.parent
ORIGINAL = (ROOT / "params.yaml").read_text()
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
START = "start: {cohort: edsr_x2}"
FOUR = "at: {night: {seeds: 4}}"
CHECKPOINT = "edsr_x2: edsr_x2"
LOCAL = "    images: {train: null}\n    checkpoints:\n"  # of which the later one counts
AT = "at: {night: {steps: 600, decay_every: 420, validate_every: 100}}"  # of unexpanded_x4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(ORIGINAL)
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    return tmp_path


def edit(root: Path, old: str, new: str) -> None:
    """Replaces the first ``old`` in params.yaml, which must be there."""
    assert old in ORIGINAL, old
    (root / "params.yaml").write_text(ORIGINAL.replace(old, new, 1))


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as error:
        load_study(None, root)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


def written(root: Path) -> list[Path]:
    return [path for path in (root / "runs").rglob("*") if path.is_file()]


def test_the_study_as_it_is_loads(root: Path) -> None:
    for budget in ("smoke", "cpu"):
        study = load_study(budget, root)
        assert study.budget.name == budget
        assert study.folder("score", "edsr_x2") == root / "runs" / budget / "score" / "edsr_x2"
    assert load_study(None, root).budget.name in ("smoke", "cpu")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # unknown and missing keys
        ("seed: 10", "seeed: 10", r"params.yaml: (seed: missing: add it|seeed: unknown key)"),
        ("seed: 10", "seed: 10\nsedd: 1", r"sedd: unknown key: remove it or correct its name"),
        ("edges: replicate", "edge: replicate", r"data\.edge: unknown key"),
        ("  benchmarks: data/benchmarks", "", r"data\.benchmarks: missing: add it"),
        ("    trend_cohorts: []", "", r"budgets\.smoke\.trend_cohorts: missing: add it"),
        ("    trends: [length]", "", r"budgets\.smoke\.trends: missing: add it"),
        ("decay: 0.1", "decay: 0.1\n  momentum: 0.9", r"optimiser\.momentum: unknown key"),
        ("steps: 8,", "step: 8,", r"budgets\.smoke\.teach\.(steps: missing|step: unknown)"),
        ("train_crop: 48", "train_crop: 48, crop: 1", r"budgets\.smoke\.score\.crop: unknown key"),
        (START, "begin: {cohort: edsr_x2}", r"cohorts\.edsr_x4\.begin: unknown key"),
        # values
        ("edges: replicate", "edges: mirrored", r"data\.edges: .*'replicate'.*not 'mirrored'"),
        ("probability: 0.3", "probability: 1.5", r"augment\.probability: .*1, not 1\.5: correct"),
        ("probability: 0.3", "probability: often", r"augment\.probability: .*not 'often'"),
        ("crops: 1", "crops: 0", r"augment\.crops: .*greater than 0, not 0"),
        ("seed: 10", "seed: ten", r"seed: .*integer.*not 'ten'"),
        ("betas: [0.9, 0.99]", "betas: [0.9]", r"optimiser\.betas\.1: missing"),
        ("steps: 8,", "steps: 8.5,", r"budgets\.smoke\.teach\.steps: .*not 8\.5"),
        ("lr: 2.0e-3,", "lr: -1.0,", r"budgets\.smoke\.teach\.lr: .*above 0, not -1\.0: correct"),
        ("lr: 2.0e-3,", "lr: fast,", r"budgets\.smoke\.teach\.lr: .*number.*not 'fast'"),
        ("ema: 0.0", "ema: 1.0", r"budgets\.smoke\.teach\.ema: .*less than 1, not 1\.0"),
        ("scale: 2\n", "scale: 5\n", r"cohorts\.edsr_x2\.scale: .*2, 3 or 4, not 5: correct"),
        ("edsr, scale: 2}", "edsr, scale: 1}", r"teachers\.edsr_x2\.scale: .*2, 3 or 4, not 1"),
        # names that must be known
        ("  dfkd: {}", "  dfkk: {}", r"edsr_x2\.methods\.dfkk: method 'dfkk' is unknown: choose"),
        ("in: {method: augkd,", "in: {method: augcd,", r"methods\.zoom_in: method 'augcd' is unk"),
        ("in: {method: augkd,", "in: {method: [],", r"methods\.zoom_in: method '\[\]' is unknown"),
        ("      augkd: {}", "      augkd: {zoom: 1}", r"methods\.augkd\.zoom: unknown key"),
        ("  kd: {}", "  kd: {kd: -1}", r"methods\.kd\.kd: .*(at least|or equal to) 0, not -1"),
        ("network: edsr\n", "network: edsa\n", r"cohorts\.edsr_x2\.network: 'edsa' is unknown"),
        ("x2: {network: edsr", "x2: {network: edsa", r"teachers\.edsr_x2\.network: 'edsa' is unk"),
        ("backbones: [edsr]", "backbones: [edsa]", r"smoke\.backbones: 'edsa' is unknown: choose"),
        ("start: edsr_x2}", "start: edsr_x9}", r"teachers\.edsr_x4\.start 'edsr_x9' is unknown"),
        ("trained: edsr_x2", "trained: edsr_x9", r"edsr_x2\.teacher\.trained 'edsr_x9' is unk"),
        ("{trained: edsr_x2}", "{}", r"cohorts\.edsr_x2\.teacher: give trained: NAME"),
        (AT, "at: 2", r"cohorts\.unexpanded_x4\.at: .*dictionary, not 2"),
        (AT, "at: {cpu: {seeds: 0}}", r"at\.cpu\.seeds: expected a whole number, at lea"),
        (AT, "at: {cpu: {sheds: 2}}", r"at\.cpu\.sheds: unknown key: remove it"),
        (AT, "at: {cpv: {seeds: 2}}", r"cohorts\.unexpanded_x4\.at: budget 'cpv' is unknown"),
        ("width_8_x2,", "edsr_x2,", r"night\.trend_cohorts: edsr_x2 is of no trend: name cohorts"),
        ("only: [scratch,", "only: [scritch,", r"budgets\.gpu: no cohort has 'scritch'"),
        (START, f"{START}\n    {FOUR}", r"edsr_x4\.at\.night\.seeds: 4 .* edsr_x2"),
        ("x4, method: augkd}", "x4, method: augk}", r"ablation_x4\.teacher\.method 'augk' is unk"),
        ("  rcan: {teach: {}", "  rcam: {teach: {}", r"smoke\.schedules: 'rcam' is unknown:"),
        ("rcan: {teach: {}", "rcan: {teach: {step: 1}", r"schedules\.rcan\.teach\.step: unknown"),
        ("rcan: {teach: {}", "rcan: {teach: {lr: 0}", r"rcan\.teach\.lr: .*above 0, not 0.*: corr"),
        ("rcan: {teach: {}", "rcan: {taech: {}", r"rcan\.taech\.\S+: .*, not 'taech': correct"),
        ("mixed: []", "mixed: [cpu]", r"budgets\.smoke\.mixed: give \[smoke\], or \[\] for none"),
        ("student: small", "student: tiny", r"ablation_x4\.student: .* smoke 'tiny' is unknown"),
        # of a budget that fetches
        ("public: [paper]", "public: [papers]", r"budgets\.paper\.public: give \[paper\], or \[\]"),
        ("teaching: []", "teaching: [paper]", r"paper: give either teaching as \[paper\], or publ"),
        ("    images:\n", LOCAL, r"budgets\.paper: give either .*, or public and images\.datasets"),
        (CHECKPOINT, "edsr_x9: a\n      " + CHECKPOINT, r"checkpoints: edsr_x9: give one for each"),
        (CHECKPOINT, "#", r"paper\.checkpoints: edsr_x2: give one for each backbone and scale"),
        ("csd: {vgg:", "csf: {vgg:", r"budgets\.paper: no cohort has 'csf': correct its name"),
        ("csd: {vgg:", "csd: {vgh:", r"budgets\.paper\.methods\.csd\.vgh: unknown key"),
        ("real: [RealSR", "reel: [RealSR", r"images\.datasets\.reel: unknown key"),
    ],
)
def test_a_wrong_value_is_named(root: Path, old: str, new: str, expected: str) -> None:
    edit(root, old, new)
    text = refusal(root)
    assert text.startswith("params.yaml: ")
    assert re.search(expected, text), text


def test_a_network_has_a_schedule_of_its_own() -> None:
    """The budget's, but for what ``schedules`` says of it; longer where a cohort asks for it."""
    study = load_study("teachers", ROOT)
    budget, own = study.budget, study.budget.schedules["swinir"]["teach"]
    assert study.schedule(study.teacher("edsr_x2")) == budget.teach
    half = study.schedule(study.teacher("edsr_x4"))  # it starts from the x2 one
    assert half == budget.teach.longer(budget.teach.continued)
    assert half.steps == budget.teach.steps * budget.teach.continued < budget.teach.steps
    teach = study.schedule(study.teacher("swinir_x2"))
    assert (teach.decay_every, teach.steps) == (own["decay_every"], own["steps"])
    assert teach.batch == budget.teach.batch
    night = load_study("night", ROOT)
    few, all_images = (night.cohort(f"{name}_x4") for name in ("unexpanded", "expanded"))
    assert night.schedule(all_images) == night.schedule(few).longer(2)
    sides = {name: night.schedule(night.cohort(name)).patch for name in ("edsr_x3", "edsr_x4")}
    assert sides == {"edsr_x3": 24, "edsr_x4": 32}  # zoomed out, 8 pixels each


def test_what_is_not_yaml_is_placed(root: Path) -> None:
    edit(root, "betas: [0.9, 0.99]", "betas: [0.9, 0.99")
    assert re.search(r"params\.yaml: not YAML at line \d+ .*: mend the YAML there$", refusal(root))
    edit(root, "budget: *", "budget: *un")
    assert re.search(r"params\.yaml.*undefined alias", refusal(root))
    for value in ("2024-13-45", "0x_", "!!int ''", "!!bool x", "1" + "0" * 5000):
        edit(root, "seed: 10", f"seed: {value}")
        assert re.search(r"params\.yaml: not YAML .*: mend the YAML there$", refusal(root)), value
    edit(root, "data:\n", "data: true\nd:\n")
    assert budgets(root / "params.yaml")[0] == load_study("cpu").params.budget.name
    for content in (b"", b"- a\n- list\n"):
        (root / "params.yaml").write_bytes(content)
        assert refusal(root).startswith("params.yaml: the file: ")
    (root / "params.yaml").write_bytes(b"seed: \xff\xfe\n")
    assert "params.yaml: cannot be read as text" in refusal(root)


def test_a_float_without_a_point_is_still_a_number(root: Path) -> None:  # YAML reads a text
    edit(root, "lr: 2.0e-3,", "lr: 2e-3,")
    assert load_study("smoke", root).budget.teach.lr == 2e-3


def test_what_dvc_reads_of_a_budget_has_no_default() -> None:
    read = set(re.findall(r"\$\{budget\.(\w+)\}", (ROOT / "dvc.yaml").read_text()))
    assert {name for name in read if not Budget.model_fields[name].is_required()} == set()


def test_missing_files_and_budgets(root: Path, monkeypatch: Patch) -> None:
    with pytest.raises(UserError, match=r"budget 'gpuu' is unknown: choose one of smoke, teachers"):
        load_study("gpuu", root)
    (root / "params.yaml").unlink()
    assert "params.yaml: cannot be read" in refusal(root)
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match=r"no params\.yaml here or above: run this"):
        find_root()


# --- through a stage ---


def test_a_stage_ends_with_one_line(root: Path) -> None:
    """An error inside a notebook's cell, as it reaches the terminal."""
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    edit(root, "edges: replicate", "edges: mirrored")
    done = run(root, "augkd.study.pipeline.stage", "prepare", "smoke", code=ROOT)
    assert done.returncode == 1
    assert re.fullmatch(r"augkd: params\.yaml: data\.edges: .*'mirrored'.*\n", done.stderr)
    assert "Traceback" not in done.stdout
    assert not written(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table_99", "smoke"], "stage 'table_99' is unknown: choose of "),
        (["prepare"], "stage 'prepare' needs a budget"),
        (["teach", "smoke"], "stage 'teach' needs a budget and a cohort"),
        (["site", "nowhere"], "budget 'nowhere' is unknown: choose one of smoke, teachers"),
        (["sources", "smoke"], "params.yaml: not YAML"),
    ],
)
def test_stages_are_called_by_name(
    root: Path, arguments: list[str], message: str, monkeypatch: Patch, capsys: Capture
) -> None:
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    monkeypatch.chdir(root)
    if arguments[0] == "sources":
        edit(root, "betas: [0.9, 0.99]", "betas: [0.9, 0.99")
        monkeypatch.setenv("DVC_STAGE", "sources")
    assert main(arguments) == 1
    assert re.fullmatch(f"augkd: .*{re.escape(message)}.*\n", capsys.readouterr().err)
    assert not (root / "runs").exists()


# --- photographs ---


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: Patch) -> Path:
    """A package of one photograph, and a list that names it."""
    folder = tmp_path / "site" / "mvtbdata"
    image = torch.arange(3 * 60 * 70).remainder(251).view(3, 60, 70).to(torch.uint8)
    write_image(folder / "images" / "one.png", image)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    write_list(tmp_path, folder / "images" / "one.png", monkeypatch)
    return folder / "images" / "one.png"


def write_list(folder: Path, file: Path, monkeypatch: Patch) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rows = [f"one,{split},mvtbdata,images/one.png,1,{digest}" for split in ("train", "test")]
    place = folder / "photographs.csv"
    place.write_text("\n".join(["name,split,package,path,shrink,sha256", *rows]))
    monkeypatch.setattr(listing, "LIST", place)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: data + b"x", r"^photograph one: .*one\.png .*has changed .*SHA-256.*pip"),
        (None, r"^photograph one: .*one\.png of package mvtbdata is missing; install the"),
        (lambda data: data[:-300], r"one\.png: does not decode \(.*\): replace"),
    ],
)
def test_a_photograph_is_as_it_was_listed(
    harm: Any, message: str, root: Path, packaged: Path, monkeypatch: Patch
) -> None:
    data = packaged.read_bytes()
    packaged.unlink()
    if harm:
        packaged.write_bytes(harm(data))
    if "decode" in message:  # as if it were the listed one
        write_list(root, packaged, monkeypatch)
    with pytest.raises(UserError, match=message) as error:
        prepare_study(load_study("smoke", root))
    assert "\n" not in str(error.value)
    assert not written(root)


def test_a_package_that_is_missing() -> None:
    absent = Photograph("one", "train", "no_such_package", "one.png", 1, "0")
    with pytest.raises(UserError, match="of package no_such_package is missing; install the lock"):
        absent.read()


# --- checkpoints and sizes ---


def test_a_checkpoint_of_another_network(root: Path) -> None:
    other = create_model("edsr", scale=2, channels=6, blocks=2, res_scale=1.0)
    save_checkpoint(root / "other.safetensors", other)
    edit(root, "x2: {network: edsr,", "x2: {weights: other.safetensors, network: edsr,")
    with pytest.raises(UserError, match=r"other\.safetensors: not a checkpoint of this EDSR") as e:
        teach(load_study("smoke", root), "edsr_x2")
    assert "\n" not in str(e.value)
    assert not written(root)


def test_sizes_and_seeds_are_their_own_or_else_of_table_1_and_the_budget() -> None:
    smoke, night, paper = (load_study(budget, ROOT) for budget in ("smoke", "night", "paper"))
    assert paper.size("edsr", "small") == {"channels": 64, "blocks": 16, "res_scale": 1.0}
    assert paper.size("edsr", "central") == paper.size("edsr", "student")
    assert night.size("edsr", "student") == night.budget.networks["edsr"]["student"]
    assert night.seeds("edsr_x3") == 1
    assert night.seeds("rcan_x2") == night.budget.distil.seeds == 3
    assert smoke.seeds("edsr_x2") == smoke.budget.distil.seeds == 2


# --- runs ---


def test_a_notebook_opened_by_hand_makes_none(root: Path, monkeypatch: Patch) -> None:
    """It asks for what the stage makes, whose absence here ends it, before anything is written."""

    def need(study: Study, *names: str) -> None:
        raise UserError(f"no {names}")

    monkeypatch.setattr("augkd.study.pipeline.stage.need", need)
    monkeypatch.delenv(STAGE, raising=False)
    monkeypatch.chdir(root)
    study = open_study("smoke")
    calls: list[tuple[Callable[[], object], tuple[str, str]]] = [
        (lambda: prepare_study(study), ("prepare", "")),
        (lambda: teach(study, "edsr_x2"), ("teach", "edsr_x2")),
        (lambda: distil(study, "edsr_x2"), ("distil", "edsr_x2")),
        (lambda: write_group(study, "edsr"), ("score", "edsr")),
        (lambda: take(study, "edsr_x2"), ("take", "edsr")),
    ]
    for make, asked in calls:
        with pytest.raises(UserError, match=re.escape(f"no {asked}")):
            make()
    assert sorted(path.name for path in root.iterdir()) == ["dvc.yaml", "params.yaml"]


def test_a_training_is_done_by_one_process(root: Path, monkeypatch: Patch) -> None:
    study = load_study("smoke", root)
    prepare_study(study)

    def train(*_: object, label: str, **__: object) -> Curves:
        with pytest.raises(UserError, match=f"{label}: another process is training it") as error:
            teach(study, "edsr_x2")  # while it is being trained
        assert "\n" not in str(error.value)
        return Curves()

    monkeypatch.setattr("augkd.study.runs.train", train)
    loss, psnr = teach(study, "edsr_x2")
    assert list(loss) == ["step", "member", "term", "value"]
    assert list(psnr) == ["step", "member", "value"]
    assert not any((root / ".state").iterdir())


def test_curves_are_plotted_a_line_a_method() -> None:
    rows = [(s, f"{m}-{i}", 30.0 + s) for s in (0, 2, 4) for m in ("kd", "augkd") for i in (0, 1)]
    curves = by_method(pd.DataFrame(rows, columns=["step", "member", "value"]))
    assert curves.columns.to_list() == ["step", "kd", "augkd"]
    figure = plot_curves(curves, curves)
    assert [len(axis.lines) for axis in figure.axes] == [2, 2]
    assert figure.axes[1].get_ylim()[0] == 31.5  # half a dB below what the first steps leave
    assert [text.get_text() for text in figure.legends[0].texts] == ["KD", "AugKD"]
    nothing = by_method(pd.DataFrame(columns=["step", "member", "value"]))
    assert not plot_curves(nothing, nothing).axes[0].lines  # of a teacher from elsewhere
