import json
import re
import shutil
import subprocess
import zipfile
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import nbformat
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augkd.errors import UserError
from augkd.study.params import load_study
from augkd.study.report.claims import VERDICTS
from augkd.study.report.entry import COLUMNS, TWICE, main, read_claims, readme
from augkd.study.report.site import axes, build
from tests.report_runs import CLAIMS, TITLES, write_claims, write_study
from tests.study_copy import ROOT

PAGES = [place.removeprefix("pages/").replace("/", "-") for place in TITLES]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    build("smoke", root)
    return root


def _found(attribute: str, page: Path) -> list[str]:
    return re.findall(rf'\s(?:{attribute})="([^"]*)"', _read(page))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _copied(site: Path, name: str) -> Any:
    with zipfile.ZipFile(site / "notebooks.zip") as archive:
        copied = nbformat.reads(archive.read(f"{name}.ipynb").decode(), as_version=4)
    nbformat.validate(copied)
    return copied


def _files(folder: Path) -> dict[Path, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_every_link_leads_somewhere_and_nothing_is_fetched(study: Path) -> None:
    pages = sorted((study / "reports").rglob("*.html"))
    assert len(pages) == len(TITLES) + 2
    ids = {path.resolve(): _found("id", path) for path in pages}
    for path in pages:
        assert len(ids[path.resolve()]) == len(set(ids[path.resolve()])), path.name
        for link in _found("src|href|xlink:href", path):
            if link.startswith("data:"):
                continue
            assert not re.match(r"[a-z]+:|//", link), (path.name, link)
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path.resolve()
            assert target.is_file(), (path.name, link)
            if target.suffix == ".csv":  # RFC 7111: the header is row 1
                assert anchor in ["", *(f"row={n + 2}" for n in range(len(CLAIMS)))], link
            elif asked := dict(parse_qsl(unescape(anchor))):  # of the page of comparisons
                (known,) = re.findall(f'"{asked["image"]}", "answers": (.*?])', _read(target))
                assert {asked["a"], asked["b"]} <= {*json.loads(known)}, link
            else:
                assert not anchor or anchor in ids[target], (path.name, link)
    assert not re.search(r"url\(|@import", _read(study / "reports/smoke/site.css"))


def test_every_page_is_in_the_list_with_its_title(study: Path) -> None:
    front = _read(study / "reports/smoke/index.html")
    for name, title in zip(PAGES, TITLES.values(), strict=True):
        assert f'href="{name}.html"' in front
        page = _read(study / f"reports/smoke/{name}.html")
        assert f"<h1>{escape(title)}</h1>" in page
        assert f"<title>{escape(title)} " in page
    nav = front[front.index("<nav") : front.index("</nav>")]
    labels = re.findall(r'<a href="\w+\.html"[^>]*>([^<]+)<', nav)
    assert labels[:4] == ["The study", "Scorecard", "Compare", "Audit of the paper"]


def test_the_same_runs_give_the_same_site(study: Path, tmp_path: Path) -> None:
    before = _files(study / "reports")
    shutil.copytree(study / "runs", tmp_path / "runs")
    shutil.copy(study / "params.yaml", tmp_path)
    for _ in range(2):  # then over the old one
        build("smoke", tmp_path)
        assert _files(tmp_path / "reports") == before


def test_the_body_of_a_page(study: Path) -> None:
    page = _read(study / "reports/smoke/table_02.html")
    for text, times in {
        '<p class="lead">What <math': 1,
        "<em>say</em>": 1,  # in the head alone
        r'<code class="tex">\left( a</code>': 1,
        "<summary>Parameters</summary>": 0,  # folded with the code that follows
        "<summary>Show code</summary>": 5,
        'a &lt;b&gt; &amp; <span class="ansi-red-fg">red</span>': 1,
        "line 8: UserWarning: mind &lt;this&gt;": 1,
        "ipykernel": 0,
        "%|": 2,
        "100/100": 1,
        "a: 100%|███| 10/10\nsaved\n5% off": 1,
        '<pre class="error">1 &lt;2</pre>': 1,
        'href="table_02.html">the table': 1,
        'href="index.html">another': 1,
        "<figure><svg": 2,
        "<metadata": 0,
        'src="data:image/png;base64,': 1,
        '<div class="scroll"><table><thead>': 1,
    }.items():
        assert page.count(text) == times, text
    assert "var(--ink-figure" in page
    assert "$" not in re.sub(r"<code class=\"tex\">.*?</code>", "", page)


def test_a_page_of_a_notebook_that_makes_several(study: Path) -> None:
    """Its introduction is left out; title and summary are those that it shows for the page."""
    page = _read(study / "reports/smoke/table_03.html")
    body = page[page.index("<main") :]
    for text, times in {
        "Two pages": 0,
        '<p class="lead">What <em>this</em> page says.</p>': 1,
        "one page of several": 1,
        "<em>this</em>": 1,  # in the head alone
        "<summary>": 2,
        'href="table_02.html">Table 2': 1,
        'href="index.html">gone': 1,
        'href="index.html">all': 1,
    }.items():
        assert body.count(text) == times, text
    parts = ("What to look at:", "<summary>Show code</summary>", "A note:")
    places = [body.index(part) for part in parts]
    assert places == sorted(places)
    copied = _copied(study / "reports/smoke", "table_03")
    assert copied.cells[0].metadata.tags == ["introduction"]
    assert copied.cells[2].outputs[0].data["text/markdown"].startswith("# Table 3")
    # a large picture is on its page alone
    picture = copied.cells[-1].outputs[0].data
    assert dict(picture) == {"text/plain": "[a picture of 200 kB: see table_03.html]"}


def test_sources_are_copied(study: Path) -> None:
    site, runs = study / "reports/smoke", study / "runs/smoke"
    for copy, source in {
        "table_02/table.csv": "pages/table_02/table.csv",
        "score/edsr/scores/edsr_x2.csv": "score/edsr/scores/edsr_x2.csv",
        "scorecard/verdicts.csv": "pages/scorecard/verdicts.csv",
    }.items():
        assert _read(site / "data" / copy) == _read(runs / source)
    copied = _copied(site, "table_02")
    assert not any("papermill" in part.metadata for part in (copied, *copied.cells))
    assert "<svg" in copied.cells[5].outputs[0].data["image/svg+xml"]


def test_the_front_page_counts_what_was_run(study: Path) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", _read(study / "reports/index.html")).split())
    for said in (
        "Plumbing &lt;only&gt;, for a few steps.",
        "Students 8 Images scored 3",  # two cohorts of four
        "Device cpu torch 2.13.0+cpu Last run started 2026-02-05 10:00 UTC",
        "What came out, at which size? 5 of 7 claims could be tested ( verdicts.csv ), by students",
        "of EDSR ×2, 4 channels and 2 blocks; 4 steps of 3 patches of 12 pixels, 2 seeds at the",
        "AugKD over KD , each comparison that could be tested, dB: EDSR ×2 +0.02 (−0.02 … +0.06)",
        "and, with λ = 1, +0.03 (−0.01 … +0.07); EDSR ×4 −0.03 (−0.06 … 0.00).",
        "Holds , 2 : best ( +0.08 (+0.03 … +0.13) dB , row 2 ); By &lt;count&gt; ( row 8 ).",
        "Nothing about 2 of the claims: 1 : a method has too few 1 : this budget trains no",
        "alike (no difference larger than 0.030 dB; EDSR ×2, AugKD over KD: +0.01 [−0.02, +0.03]",
        "✓ holds : best (+0.08 [+0.03, +0.13] dB); By &lt;count&gt; .",
        "2 ✓ holds 1 ✗ fails 1 = no difference 1 ~ undecided 1 ○ not tested here 1 – not run",
        "best “AugKD is &lt;b&gt;best&lt;/b&gt; &amp; “first”” Section 4.2 · 3 images, 2 seeds",
        "vague one seed “AugKD",
        "paper +0.12 ours +0.08 +0.03 … +0.13",
        "Claims about Paper’s own tables Our scores Other ✓ best: holds",
        "Others ✓ By &lt;count&gt;: holds",
    ):
        assert said in text, said


def test_the_deepest_budget_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the entry and in README."""
    write_study(tmp_path, "cpu")
    write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    file = Path("README.md")
    for budget, deepest in (("smoke", "smoke"), ("cpu", "cpu"), ("smoke", "cpu")):
        text = _read(build(budget, Path()))
        assert f"budget <b>{deepest}</b>" in text
        assert f'<a href="{budget}/index.html"' in text
        assert text.count("<summary>What it found") == len([*Path("reports").iterdir()]) - 1
        file.write_text("A\n<!-- found -->\nstale\n<!-- /found -->\nB\n")
        assert main([]) == 0
        words = _read(file).removeprefix("A\n<!-- found -->\n**What came out**, at budget ")
        assert words.startswith(f"[{deepest}](reports/{deepest}/index.html). [5 of 7](")
        assert words.endswith("images like the test photographs.\n<!-- /found -->\nB\n")
        assert all(Path(link).is_file() for link in re.findall(r"\]\(([^)#]+)", words))
    ran, absent = text[text.index('id="budget-cpu"') :].split('id="budget-night"')
    assert "Not run" not in ran
    assert "make repro BUDGET=night" in absent
    file.write_text("unmarked")
    assert main([]) == 1
    assert _read(file) == "unmarked"


def test_readme_says_what_the_committed_report_says(tmp_path: Path) -> None:
    """As committed: a run of one's own may come to other digits."""
    tar = tmp_path / "all.tar"
    git = ["git", "archive", "-o", str(tar), "HEAD", "README.md", "params.yaml", "reports"]
    subprocess.run(git, cwd=ROOT, check=True)
    shutil.unpack_archive(tar, tmp_path)
    said = readme(load_study(root=tmp_path, check_methods=False))
    assert said == _read(tmp_path / "README.md")


def test_two_runs_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    for seed, verdict in ((11, "undecided"), (10, "seen here"), (12, "opposite seen here")):
        folder = Path(str(seed), "reports/cpu/data/scorecard")
        folder.mkdir(parents=True)
        text = _read(Path("params.yaml")).replace("seed: 10\n", f"seed: {seed}\n")
        Path(str(seed), "params.yaml").write_text(text)
        write_claims(folder / "verdicts.csv", [*CLAIMS[:2], CLAIMS[2] | {"verdict": verdict}])
    for other, agree in (("12", "opposite"), ("11", "other"), ("13", "other"), ("10 10", "other")):
        assert main(["10", *other.split()]) == (other != "11")
        assert list(pd.read_csv(TWICE)["agree"]) == ["same", "same", agree]
    text = " ".join(re.sub(r"<[^>]+>", " ", _read(build("smoke", Path()))).split())
    told = "Of 3 claims that both could test, 2 have the same verdict. Of 2 that one of them saw"
    assert told in text
    assert "1 came out the same in the other, and 0 opposite" in text
    Path("README.md").write_text("<!-- found -->\n<!-- /found -->\n")
    assert main([]) == 0
    assert told in _read(Path("README.md"))
    TWICE.write_text("id,title\nbest,Best\n")
    capsys.readouterr()
    assert 'id="twice"' not in _read(build("smoke", Path()))
    assert "twice.csv: of another version, left out" in capsys.readouterr().err
    committed = pd.read_csv(ROOT / TWICE)
    assert list(committed) == COLUMNS
    assert "opposite" not in {*committed["agree"]}, "the intervals are too narrow: find out why"


def test_a_page_by_itself(tmp_path: Path) -> None:
    """Without run.json, and without a scorecard."""
    runs = write_study(tmp_path)
    for folder in [*runs.glob("[!p]*"), runs / "prepare", *runs.glob("pages/[!f]*")]:
        shutil.rmtree(folder)
    front = _read(build("smoke", tmp_path))
    assert "Figure 2: How alike" in front
    assert "there is no scorecard yet" in front


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ("pages/table_02/notebook.ipynb", "{", "NotJSONError"),
        ("distil/edsr_x2/run.json", "{", "run.json: .*: remove it and run make repro"),
        ("pages/scorecard/verdicts.csv", "id,text\n", "verdicts.csv: .*not found: "),
        ("pages/scorecard/gains.csv", "claim,met\n", "gains.csv: KeyError .*: remove it and run"),
    ],
)
def test_damage_is_named(study: Path, tmp_path: Path, place: str, text: str, message: str) -> None:
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs/smoke" / place).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        build("smoke", tmp_path)
    assert Path(place).name in str(error.value)
    assert "\n" not in str(error.value)
    assert _files(tmp_path / "reports") == _files(study / "reports")


@pytest.mark.parametrize("whole", [True, False], ids=["output", "picture"])
def test_a_figure_that_is_missing_is_refused(study: Path, tmp_path: Path, whole: bool) -> None:
    """As a backend that draws to files alone leaves it: without an output, or with its name."""
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "runs/smoke/pages/figure_02/notebook.ipynb"
    notebook = nbformat.read(file, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    data = {"text/plain": "<Figure size 920x740 with 4 Axes>"}
    cell.source = "figure, axes = plt.subplots()" if whole else "board"
    cell.outputs = [] if whole else [nbformat.v4.new_output("display_data", data=data)]
    file.write_text(nbformat.writes(notebook))
    with pytest.raises(UserError, match=r"figure_02/notebook\.ipynb: a figure was not drawn"):
        build("smoke", tmp_path)
    assert _files(tmp_path / "reports") == _files(study / "reports")


def test_nothing_was_run(tmp_path: Path) -> None:
    shutil.rmtree(write_study(tmp_path))
    with pytest.raises(UserError, match="run make repro BUDGET=cpu"):
        build("cpu", tmp_path)
    assert not (tmp_path / "reports").exists()
    with pytest.raises(UserError, match=r"budget '\.\./cpu'"):
        build("../cpu", tmp_path)


@pytest.mark.parametrize(("key", "value"), [("verdict", "maybe"), ("gain", "much")])
def test_a_claim_that_cannot_be_read(tmp_path: Path, key: str, value: str) -> None:
    write_claims(tmp_path / "verdicts.csv", [CLAIMS[0] | {key: value}])
    with pytest.raises(UserError, match=f"verdicts.csv: .*'{value}'"):
        read_claims(tmp_path / "verdicts.csv")


def test_the_matrix_holds_each_claim_once(study: Path) -> None:
    front = _read(study / "reports/smoke/index.html")
    table = front[front.index('class="matrix"') : front.index("</table>")]
    occurring = [verdict for verdict in VERDICTS if verdict in {c["verdict"] for c in CLAIMS}]
    rows = re.findall(r"</i> ([\w ]+)</span></th>(.*?)</tr>", table.split("<tbody>")[1], re.S)
    cells = {
        (paper, ours): re.findall(r'"#claim-(\w+)"', cell)
        for paper, row in rows
        for ours, cell in zip(occurring, re.findall(r"<td.*?</td>", row, re.S), strict=True)
        if "<b>" in cell
    }
    assert cells == {
        ("holds", "holds"): ["best", "counted"],
        ("holds", "fails"): ["wrong"],
        ("holds", "no difference"): ["alike"],
        ("holds", "undecided"): ["vague"],
        ("holds", "not tested here"): ["few"],
        ("fails", "not run"): ["absent"],
    }


@given(gains=st.lists(st.floats(-50, 50).map(lambda x: round(x, 4)), min_size=1, max_size=20))
def test_an_axis_shows_gains(tmp_path_factory: pytest.TempPathFactory, gains: list[float]) -> None:
    path = tmp_path_factory.mktemp("claims") / "verdicts.csv"
    write_claims(path, [{"id": i, "verdict": "holds", "gain": g} for i, g in enumerate(gains)])
    (axis,) = axes(read_claims(path))
    assert axis["ticks"][0] == "0"
    assert 2 <= len(axis["ticks"]) <= 9
    assert axis["low"] < 0 < axis["high"]
    outside = [gain for gain in gains if not axis["low"] <= gain <= axis["high"]]
    assert len(outside) <= len(gains) / 10
    sizes = sorted(map(abs, gains))
    if outside:  # the largest is twice as large as nine in ten are
        assert sizes[-1] > 2 * sizes[-1 - len(sizes) // 10]


def test_a_gain_beyond_its_axis_lies_at_the_end_under_an_arrow(study: Path) -> None:
    front = _read(study / "reports/smoke/index.html")
    best, vague, wrong = (front.index(f'id="claim-{name}"') for name in ("best", "vague", "wrong"))
    beyond = '<line class="interval undecided" x1="0.00%" x2="100.00%"'  # from -3 to 3 dB
    assert beyond in front[vague:wrong]
    assert front[vague:wrong].count('class="arrow"') == 2
    assert 'class="arrow"' not in front[best:vague]
    shares = [float(x) for x in re.findall(r'<text x="([\d.]+)%"', front)]
    first = shares[: shares.index(100) + 1]
    assert first == sorted(first)
