"""The whole smoke pipeline in a copy of the repository, and its report against its scores."""

import json
import os
import re
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from typer.testing import CliRunner

from augkd.cli import app
from augkd.data.images import write_image
from augkd.data.store import ImageStore
from augkd.study.params import load_study
from augkd.study.pipeline.stage import pipeline as stages_of
from augkd.study.report.style import METHOD_NAMES
from augkd.study.runs import distil, student_path, teach
from tests.study_copy import copy_study, run

pytestmark = pytest.mark.slow

RAN = re.compile(r"^Running stage '(.+)':", re.M)
METHODS = {title: method for method, title in METHOD_NAMES.items()}


class Pipeline(NamedTuple):
    root: Path
    output: str  # what the terminal showed

    @property
    def runs(self) -> Path:
        return self.root / "runs" / "smoke"

    @property
    def site(self) -> Path:
        return self.root / "reports" / "smoke"

    def scores(self, cohort: str) -> pd.DataFrame:
        return pd.read_csv(load_study("smoke", self.root).scores(cohort))


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    root = copy_study(tmp_path_factory.mktemp("smoke") / "study")
    done = run(root, "augkd.study.pipeline.side_by_side", apart=True)  # nothing is fetched
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return Pipeline(root, output)


def rows_of(page: Path) -> list[list[str]]:
    """The cells of all tables of a page, row by row."""
    rows = BeautifulSoup(page.read_text(), "html.parser").find_all("tr")
    return [[cell.get_text(strip=True) for cell in row.find_all(["td", "th"])] for row in rows]


def gain(scores: pd.DataFrame, method: str, reference: str) -> float:
    """Mean paired difference, over images and seeds, then over datasets: by hand."""
    chosen = scores[(scores.split == "test") & (scores.metric == "psnr_y")]
    wide = chosen.pivot(index=["dataset", "image", "seed"], columns="method", values="value")
    difference = (wide[method] - wide[reference]).dropna()
    return float(difference.groupby("dataset").mean().mean())


def shown(value: float) -> str:
    """A gain as tables print it: two decimals, a sign, a true minus."""
    text = f"{abs(value):.2f}"
    return text if text == "0.00" else ("+" if value > 0 else "−") + text


def test_every_stage_announces_its_place(pipeline: Pipeline) -> None:
    names = list(stages_of(pipeline.root))
    places = re.findall(r"^\[(\d+)/(\d+)\] (\w+)(?: [\w-]+)?$", pipeline.output, re.M)
    assert len(places) == len(names)
    assert {int(m) for _, m, _ in places} == {len(names)}
    # stages that do not wait for one another may change places: all appear, first and last fixed
    assert sorted(int(n) for n, _, _ in places) == list(range(1, len(names) + 1))
    assert (places[0][2], places[-1][2]) == ("sources", "site")
    assert sorted(RAN.findall(pipeline.output)) == sorted(names)


def test_a_second_clone_pulls_all_that_stages_wrote(pipeline: Pipeline) -> None:
    outs = {pipeline.root / o for stage in stages_of(pipeline.root).values() for o in stage.outs}
    files = [file for file in pipeline.runs.rglob("*") if file.is_file()]
    lost = [file for file in files if outs.isdisjoint((file, *file.parents))]
    assert {file.name for file in lost} == {"metrics.json"}  # dvc.yaml has them apart


def test_a_student_of_every_cohort_answers_as_scored(pipeline: Pipeline, tmp_path: Path) -> None:
    """From its file alone, through the command line."""
    study, out = load_study("smoke", pipeline.root), tmp_path / "out.csv"
    store = ImageStore(study.folder("prepare") / "test")
    for name in study.trained():
        scale, folder = study.cohort(name).scale, tmp_path / name
        student, (method, bits) = next(iter(study.cohort(name).variants().items()))
        for key in store.keys:
            for kind, pixels in zip(("lr", "hr"), store.pair(*key, scale), strict=True):
                write_image(folder / kind / f"{key[1]}.png", pixels)
        weights = student_path(study, name, student, 0)
        command = f"score --hr {folder}/hr --lr {folder}/lr -s {scale} -w {weights} --csv {out}"
        assert CliRunner().invoke(app, command.split()).exit_code == 0
        rows = pipeline.scores(name).query("seed == 0 and split == 'test' and metric == 'psnr_y'")
        rows = rows[
            (rows.method == method) & rows.cohort.str.endswith(f"{bits}bit" if bits else name)
        ]
        found = pd.read_csv(out).set_index("image").psnr_y.to_dict()
        assert found == pytest.approx(rows.set_index("image").value.to_dict(), abs=1e-4)


def test_training_shows_a_bar(pipeline: Pipeline) -> None:
    for label, steps in (("teach-smoke-edsr_x2", 8), ("distil-smoke-ablation_x4", 4)):
        bar = rf"{label}: 100%\|.*\| {steps}/{steps} \[[\d:]+<[\d:]+, +[\d.]+(step/s|s/step), loss="
        assert re.search(bar, pipeline.output), label


@pytest.mark.parametrize("cohort", ["edsr_x2", "edsr_x4", "ablation_x4"])
def test_scores_are_complete(pipeline: Pipeline, cohort: str) -> None:
    scores = pipeline.scores(cohort)
    keys = ["method", "seed", "dataset", "image", "metric"]
    assert not scores.duplicated(keys).any()
    assert scores.value.notna().all()
    params = load_study("smoke", pipeline.root)
    methods = set(params.cohort(cohort).methods)
    trained = scores[scores.seed >= 0]
    assert set(trained.method) == methods
    single = {"teacher", "bicubic"} | ({"teacher_ensemble"} if cohort != "ablation_x4" else set())
    assert set(scores[scores.seed == -1].method) == single
    ensembled = scores[scores.method == "teacher_ensemble"]
    limit = params.budget.score.ensemble_images
    assert set(ensembled.split) <= {"test"}
    assert ensembled.image.nunique() in (0, limit)
    # 2 test photographs and 2 training centres; 3 metrics; 2 seeds
    assert len(trained) == len(methods) * 2 * 4 * 3
    group = params.folder("score", params.group(cohort))
    means = json.loads((group / "metrics.json").read_text())[cohort]
    test = scores[(scores.split == "test") & (scores.metric == "psnr_y")]
    for method in methods | {"teacher", "bicubic"}:
        value = test[test.method == method].value.mean()
        assert means[method]["photographs"] == pytest.approx(value, abs=5.1e-5)


@pytest.mark.parametrize(
    ("table", "cohort", "scale", "titles"),
    [
        ("table_02", "edsr_x2", "×2", ["Scratch", "AugKD"]),
        ("table_02", "edsr_x4", "×4", ["Scratch", "AugKD"]),
        ("table_06", "ablation_x4", "", ["Both zooms", "Consistency alone", "AugKD"]),
        ("table_07", "ablation_x4", "", ["Zoom-in", "Zoom-out", "Both zooms"]),
    ],
)
def test_gains_in_the_report_are_those_of_the_scores(
    pipeline: Pipeline, table: str, cohort: str, scale: str, titles: list[str]
) -> None:
    scores = pipeline.scores(cohort)
    frame = pd.read_csv(pipeline.runs / "pages" / table / "table.csv")
    if scale:
        frame = frame[frame.scale == scale]
    frame = frame[(frame.metric == "psnr_y") & (frame.reference == "gain over KD")]
    page = rows_of(pipeline.site / f"{table}.html")
    for title in titles:
        expected = gain(scores, METHODS[title], "kd")
        means = frame[(frame.method == title) & (frame.dataset == "mean")]
        assert means.gain.to_list() == [pytest.approx(expected, abs=1e-9)]
        text = shown(expected)
        assert any(title in row and text in row for row in page), (title, text)
    for title in ("KD", "Bicubic", *titles):
        chosen = scores[(scores.method == METHODS[title]) & (scores.split == "test")]
        for metric, decimals in (("psnr_y", 2), ("ssim_y", 4)):
            mean = chosen[chosen.metric == metric].groupby("dataset").value.mean().iloc[0]
            text = f"{mean:.{decimals}f}"
            assert any(title in row and text in row for row in page), (title, metric, text)


def test_figure_2_is_drawn_from_the_scores(pipeline: Pipeline) -> None:
    scores = pipeline.scores("edsr_x4")
    frame = pd.read_csv(pipeline.runs / "pages" / "figure_02" / "similarity.csv")
    assert len(frame) == 2 * 2 * 10  # splits, metrics, the methods of Table 2 and those of Figure 2
    assert set(frame.method) < set(scores.method)
    for row in frame.to_dict("records"):
        chosen = scores[
            (scores.split == row["split"])
            & (scores.metric == row["metric"])
            & (scores.method == row["method"])
        ]
        assert row["mean"] == pytest.approx(chosen.value.mean(), abs=1e-9)
    assert "<svg" in (pipeline.site / "figure_02.html").read_text()


def test_the_scorecard_says_what_the_scores_say(pipeline: Pipeline) -> None:
    verdicts = pd.read_csv(pipeline.runs / "pages" / "scorecard" / "verdicts.csv")
    # RCAN and SwinIR have no cohort here; of EDSR's nothing can be said after so few steps
    assert set(verdicts.verdict) == {"not tested here", "not run"}
    ran = verdicts[verdicts.verdict != "not run"]
    assert (ran.images > 0).all()
    assert ran.reason.notna().all()
    premises = pd.read_csv(pipeline.runs / "pages" / "scorecard" / "premises.csv")
    assert set(premises.claim) == set(ran.id)
    assert not premises[premises.premise == "trainings"].met.any()
    assert not premises.comparison.str.contains("csd").any()  # without VGG19 it is another method
    assert verdicts.note.str.contains("absent: .*csd").any()
    page = unescape((pipeline.site / "scorecard.html").read_text())
    for claim in verdicts.itertuples():
        assert str(claim.verdict) in page


def test_links_of_the_report_lead_somewhere(pipeline: Pipeline) -> None:
    entry = pipeline.root / "reports" / "index.html"
    pages = [entry, *sorted(pipeline.site.rglob("*.html"))]
    assert len(pages) > 15
    seen = 0
    for page in pages:
        for link in re.findall(r'(?:href|src)="([^"]*)"', page.read_text()):
            parts = urlsplit(unescape(link))
            if parts.scheme or not parts.path:
                continue
            seen += 1
            assert not parts.path.startswith("/"), (page.name, link)
            assert (page.parent / unquote(parts.path)).is_file(), (page.name, link)
        assert not re.search(r'<(?:script|img)[^>]+src="https?:', page.read_text())
    assert seen > 100


def test_training_again_gives_the_same_bytes(pipeline: Pipeline, tmp_path: Path) -> None:
    """Here with all cores, there with some."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((pipeline.root / name).read_bytes())
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    os.symlink(pipeline.runs / "prepare", tmp_path / "runs" / "smoke" / "prepare")
    study = load_study("smoke", tmp_path)
    teach(study, "edsr_x2")
    distil(study, "edsr_x2")
    for pattern in ("teach/edsr_x2/*.safetensors", "distil/edsr_x2/students/*", "*/*/curves/*"):
        files = sorted((tmp_path / "runs" / "smoke").glob(pattern))
        assert files
        for file in files:
            first = pipeline.runs / file.relative_to(tmp_path / "runs" / "smoke")
            assert file.read_bytes() == first.read_bytes(), file.name
    assert not any((tmp_path / ".state").iterdir())  # nothing to resume is left behind


def test_nothing_runs_twice_and_a_table_retrains_nothing(pipeline: Pipeline) -> None:
    """Last, since it changes the copy. What ran side by side is up to date for DVC itself."""
    done = run(pipeline.root, "dvc", "repro")
    assert done.returncode == 0
    assert RAN.findall(done.stdout) == []
    # a table's prose; what Jupyter leaves in another; a word in the notebook that trains
    for name, change in (("table_08", "words"), ("table_12", "outputs"), ("distil", "words")):
        path = pipeline.root / "notebooks" / f"{name}.ipynb"
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            if change == "words" and cell["cell_type"] == "markdown":
                cell["source"] = [*cell["source"], "\n\nA word more."]
                break
            if change == "outputs" and cell["cell_type"] == "code":
                cell["execution_count"] = 1
        path.write_text(json.dumps(notebook))
    done = run(pipeline.root, "augkd.study.pipeline.side_by_side")
    assert done.returncode == 0, done.stderr
    assert RAN.findall(done.stdout) == ["sources@smoke", "table_08@smoke", "site@smoke"]
    assert "A word more." in (pipeline.site / "table_08.html").read_text()
