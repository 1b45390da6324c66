import re
import shutil
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augkd.errors import UserError
from augkd.study.report.claims import VERDICTS
from augkd.study.report.site import axes, build, last_lines, read_claims
from tests.report_runs import CLAIMS, TITLES, write_claims, write_study

PAGES = [place.removeprefix("pages/").replace("/", "-") for place in TITLES]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    build("smoke", root)
    return root


class _References(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("src", "href", "xlink:href"):
                self.links.append((tag, value or ""))
            elif key == "id":
                self.ids.append(value or "")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_link_leads_somewhere_and_nothing_is_fetched(study: Path) -> None:
    pages = sorted((study / "reports").rglob("*.html"))
    assert len(pages) == len(TITLES) + 2
    targets = {path.resolve(): _References(_read(path)) for path in pages}
    for path, page in targets.items():
        assert len(page.ids) == len(set(page.ids)), path.name
        for tag, link in page.links:
            if link.startswith("data:"):
                continue
            assert not re.match(r"[a-z]+:|//", link), (path.name, tag, link)
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), (path.name, link)
            if anchor:
                assert anchor in targets[target].ids, (path.name, link)
    style = _read(study / "reports/smoke/site.css")
    assert "url(" not in style
    assert "@import" not in style


def test_every_page_is_in_the_list_with_its_title(study: Path) -> None:
    front = _read(study / "reports/smoke/index.html")
    for name, title in zip(PAGES, TITLES.values(), strict=True):
        escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert f'href="{name}.html"' in front
        page = _read(study / f"reports/smoke/{name}.html")
        assert f"<h1>{escaped}</h1>" in page
        assert f"<title>{escaped} " in page


def test_the_same_runs_give_the_same_site(study: Path, tmp_path: Path) -> None:
    before = _files(study / "reports")
    shutil.copytree(study / "runs", tmp_path / "runs")
    shutil.copy(study / "params.yaml", tmp_path)
    build("smoke", tmp_path)
    assert _files(tmp_path / "reports") == before
    build("smoke", tmp_path)  # over the old one
    assert _files(tmp_path / "reports") == before


def test_the_body_of_a_page(study: Path) -> None:
    page = _read(study / "reports/smoke/table_02.html")
    assert '<p class="lead">What <math' in page
    assert "<em>say</em>" in page
    assert page.count("<em>say</em>") == 1  # in the head alone
    assert "$" not in re.sub(r"<code class=\"tex\">.*?</code>", "", page)
    assert r'<code class="tex">\left( a</code>' in page
    assert page.count("<summary>Parameters</summary>") == 0  # folded with the code that follows
    assert page.count("<summary>Show code</summary>") == 5
    assert 'a &lt;b&gt; &amp; <span class="ansi-red-fg">red</span>' in page
    assert "UserWarning: mind &lt;this&gt;" in page
    assert "ipykernel" not in page
    assert page.count("%|") == 1
    assert "100/100" in page
    assert '<pre class="error">1 &lt;2</pre>' in page
    assert 'href="table_02.html">the table' in page
    assert 'href="index.html">another' in page
    assert page.count("<figure><svg") == 2
    assert "var(--ink-figure" in page
    assert "<metadata" not in page
    assert 'src="data:image/png;base64,' in page


def test_a_page_of_a_notebook_that_makes_several(study: Path) -> None:
    """Its introduction is left out; title and summary are those that it shows for the page."""
    page = _read(study / "reports/smoke/table_03.html")
    body = page[page.index("<main") :]
    assert "Two pages" not in body
    assert '<p class="lead">What <em>this</em> page says.</p>' in body
    assert body.count("one page of several") == 1
    assert body.count("<em>this</em>") == 1  # in the head alone
    parts = ("What to look at:", "<summary>Show code</summary>", "A note:")
    places = [body.index(part) for part in parts]
    assert places == sorted(places)
    assert body.count("<summary>") == 1
    for link in ('href="table_02.html">Table 2', 'href="index.html">gone', 'href="index.html">all'):
        assert link in body
    with zipfile.ZipFile(study / "reports/smoke/notebooks.zip") as archive:
        copied = nbformat.reads(archive.read("table_03.ipynb").decode(), as_version=4)
    assert copied.cells[0].metadata.tags == ["introduction"]
    assert copied.cells[2].outputs[0].data["text/markdown"].startswith("# Table 3")


def test_sources_are_copied(study: Path) -> None:
    site = study / "reports/smoke"
    runs = study / "runs/smoke"
    for copy, source in {
        "table_02/table.csv": "pages/table_02/table.csv",
        "score/edsr/scores/edsr_x2.csv": "score/edsr/scores/edsr_x2.csv",
        "scorecard/verdicts.csv": "pages/scorecard/verdicts.csv",
    }.items():
        assert _read(site / "data" / copy) == _read(runs / source)
    with zipfile.ZipFile(site / "notebooks.zip") as archive:
        copied = nbformat.reads(archive.read("table_02.ipynb").decode(), as_version=4)
    nbformat.validate(copied)
    assert "papermill" not in copied.metadata
    assert not any("papermill" in cell.metadata for cell in copied.cells)


def test_a_large_picture_is_on_its_page_alone(tmp_path: Path) -> None:
    write_study(tmp_path)
    file = tmp_path / "runs/smoke/pages/table_02/notebook.ipynb"
    notebook = nbformat.read(file, as_version=4)
    svg = {size: f"<svg><desc>{'x' * size}</desc></svg>" for size in (1_000, 200_000)}
    notebook.cells += [
        nbformat.v4.new_code_cell(
            "plt.show()",
            outputs=[nbformat.v4.new_output("display_data", {"image/svg+xml": picture})],
        )
        for picture in svg.values()
    ]
    nbformat.write(notebook, file)
    build("smoke", tmp_path)
    with zipfile.ZipFile(tmp_path / "reports/smoke/notebooks.zip") as archive:
        copied = nbformat.reads(archive.read("table_02.ipynb").decode(), as_version=4)
    nbformat.validate(copied)
    small, large = (cell.outputs[0].data for cell in copied.cells[-2:])
    assert small["image/svg+xml"] == svg[1_000]
    assert dict(large) == {"text/plain": "[a picture of 200 kB: see table_02.html]"}


def test_the_front_page_counts_what_was_run(study: Path) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", _read(study / "reports/index.html")).split())
    assert "Plumbing &lt;only&gt;, for a few steps." in text
    assert "Students 8, up to 2 seeds a method" in text  # two cohorts of four; seed -1 is none
    assert "Images scored 3" in text
    assert "Device cpu torch 2.13.0+cpu Last run started 2026-02-05 10:00 UTC" in text
    assert "2 ✓ holds 1 ✗ fails 1 ~ undecided 1 – not run" in text
    assert (
        "best “AugKD is &lt;b&gt;best&lt;/b&gt; &amp; “first”” Section 4.2 · 3 images, 2 seeds"
        in text
    )
    assert "vague one seed “AugKD" in text
    assert "paper +0.12 ours +0.08 +0.03 … +0.13" in text
    assert "Claims about Paper’s own tables Our scores Other ✓ best: holds" in text
    assert "Others ✓ By &lt;count&gt;: holds" in text


def test_the_overview_has_its_order_and_short_labels(study: Path) -> None:
    page = _read(study / "reports/smoke/table_02.html")
    nav = page[page.index("<nav") : page.index("</nav>")]
    labels = re.findall(r'<a href="(\w+)\.html"[^>]*>([^<]+)<', nav)
    assert labels[:4] == [
        ("index", "The study"),
        ("scorecard", "Scorecard"),
        ("audit", "Audit of the paper"),
        ("controls", "Controls"),
    ]


def test_the_entry_lists_the_budgets(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    write_study(tmp_path, "cpu")
    entry = build("cpu", tmp_path)
    assert entry == tmp_path / "reports/index.html"
    links = {link for _, link in _References(_read(entry)).links}
    assert {"smoke/index.html", "cpu/index.html", "cpu/table_02.html", "cpu/site.css"} <= links
    assert not any(path.name.startswith(".") for path in (tmp_path / "reports").iterdir())
    assert _files(tmp_path / "reports/smoke") == _files(study / "reports/smoke")


def test_the_entry_says_which_budgets_were_not_run(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    entry = _read(build("smoke", tmp_path))
    assert {"smoke/index.html", "#budget-gpu"} <= {link for _, link in _References(entry).links}
    said = entry[entry.index('id="budget-gpu"') :]
    assert "Not run" in said
    assert "make repro BUDGET=gpu" in said
    assert "on one data-centre GPU" in said
    assert "Not run" not in entry[entry.index('id="budget-smoke"') : entry.index('id="budget-cpu"')]
    assert "budget-gpu" not in _read(tmp_path / "reports/smoke/index.html")  # knows of itself alone


def test_a_page_without_title_or_run_json(tmp_path: Path) -> None:
    folder = write_study(tmp_path) / "pages/figure_02"
    shutil.rmtree(folder.parent.parent)
    folder.mkdir(parents=True)
    (folder / "notebook.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook()))
    front = _read(build("smoke", tmp_path))
    assert "Figure 02" in front
    assert "there is no scorecard yet" in front


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ("pages/table_02/notebook.ipynb", "{", "not a notebook"),
        ("distil/edsr_x2/run.json", "{", "run.json: .*: remove it and run make repro"),
        ("distil/edsr_x2/run.json", '{"started": "soon"}', "soon"),
        ("distil/edsr_x2/run.json", "{}", "no 'started'"),
        ("score/edsr/scores/edsr_x2.csv", "a,b\n1,2\n", "edsr_x2.csv: "),
        ("pages/scorecard/verdicts.csv", "id,text\n", "no column 'gain'"),
    ],
)
def test_a_broken_file_is_named_and_the_old_site_stays(
    study: Path, tmp_path: Path, place: str, text: str, message: str
) -> None:
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs/smoke" / place).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        build("smoke", tmp_path)
    assert Path(place).name in str(error.value)
    assert "\n" not in str(error.value)
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
    with pytest.raises(UserError, match=f"claim 'best': .*'{value}'"):
        read_claims(tmp_path / "verdicts.csv")


def test_the_matrix_holds_each_claim_once(study: Path) -> None:
    front = _read(study / "reports/smoke/index.html")
    table = front[front.index('class="matrix"') : front.index("</table>")]
    cells = {
        (row[0], ours): re.findall(r'"#claim-(\w+)"', cell)
        for row in re.findall(
            r"</i> ([\w ]+)</span></th>(.*?)</tr>", table.split("<tbody>")[1], re.S
        )
        for ours, cell in zip(VERDICTS, re.findall(r"<td.*?</td>", row[1], re.S), strict=True)
        if "<b>" in cell
    }
    assert cells == {
        ("holds", "holds"): ["best", "counted"],
        ("holds", "fails"): ["wrong"],
        ("holds", "undecided"): ["vague"],
        ("fails", "not run"): ["absent"],
    }


@given(gains=st.lists(st.floats(-50, 50).map(lambda x: round(x, 4)), min_size=1, max_size=20))
def test_an_axis_shows_zero_and_every_gain(
    tmp_path_factory: pytest.TempPathFactory, gains: list[float]
) -> None:
    path = tmp_path_factory.mktemp("claims") / "verdicts.csv"
    write_claims(path, [{"id": i, "verdict": "holds", "gain": g} for i, g in enumerate(gains)])
    (axis,) = axes(read_claims(path))
    assert axis["ticks"][0] == "0"
    assert 2 <= len(axis["ticks"]) <= 9
    assert axis["low"] < 0 < axis["high"]
    outside = [gain for gain in gains if not axis["low"] <= gain <= axis["high"]]
    assert len(outside) <= len(gains) / 10
    assert all(abs(gain) > 2 * max(map(abs, set(gains) - set(outside))) for gain in outside)


def test_a_gain_beyond_its_axis_lies_at_the_end_under_an_arrow(study: Path) -> None:
    front = _read(study / "reports/smoke/index.html")
    row = front[front.index('id="claim-vague"') :]
    row = row[: row.index('class="verdicts"')]
    assert '<line class="interval undecided" x1="0.00%" x2="100.00%"' in row  # from -3 to 3 dB
    assert row.count('class="arrow"') == 2
    row = front[front.index('id="claim-best"') : front.index('id="claim-vague"')]
    assert 'class="arrow"' not in row
    shares = [float(x) for x in re.findall(r'<text x="([\d.]+)%"', front)]
    ends = [i for i, x in enumerate(shares) if x == 100]
    assert shares[: ends[0] + 1] == sorted(shares[: ends[0] + 1])


def test_bars_end_as_on_a_terminal() -> None:
    nested = "a: 10%|█  | 1/10\n\rb: 50%|██ | 5/10\x1b[A\ra: 100%|███| 10/10\nsaved\nb: 5% off\n"
    assert last_lines(nested) == "a: 100%|███| 10/10\nsaved\nb: 5% off\n"
