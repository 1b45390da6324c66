"""The report: executed notebooks as a static site that opens from disk, without a network.

``build`` reads runs/BUDGET and writes reports/BUDGET, one page a notebook, and the entry
reports/index.html. Nothing in it depends on when or where it was built.

Markdown and the colours of code and of terminals are nbconvert's, in markup of our own, so that a
page carries no script and no style sheet but the site's. Formulas become MathML here and now.
"""

import copy
import json
import math
import re
import shutil
import zipfile
from collections.abc import Container
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from augkd.errors import UserError
from augkd.study.params import load_study
from augkd.study.report.entry import WORDS, read_claims, read_gains, reading, write_entry
from augkd.study.report.style import INK, signed

OVERVIEW = ("scorecard", "compare", "audit", "controls", "weights", "methods", "computed")
"""What stands first in the list of pages, in this order."""
STAGES = {"prepare": "Photographs", "teach": "Teachers", "distil": "Students", "score": "Scores"}
GROUPS = ("Overview", "Tables", "Figures", *STAGES.values())
PLACES = ("pages/*", "prepare", "teach/*", "distil/*", "distil/*/*", "score/*")
LARGE = 100_000  # bytes of a picture: more are left out of the copies of notebooks
_BAR = r"[^\n]*(?:\d+%\|[^\n]*\||\d+(?:it|step|img)? \[\d+:\d+)[^\n]*"  # of tqdm
_OLD_BARS = re.compile(rf"^(?:(?:{_BAR}|[ \t]*)\n)+(?={_BAR})", re.M)
_TEMPORARY = re.compile(r"\S*ipykernel_\d+\S*\.py:(\d+)")  # a warning names the cell's file
# code that draws, at the head of a line: it leaves a picture
_DRAWS = re.compile(
    r"^(?!def )\S.*\b(subplots|figure|plt\.show|plot_curves|show_windows|Board)\(", re.M
)
_NOTEBOOK = re.compile(r'href="(?:[\w./-]*/)?(\w+)\.ipynb(#([^"]*))?"')


class Page(NamedTuple):
    """One notebook's page."""

    name: str  # of its files: name.html and, in the zip, name.ipynb
    group: str  # Overview, Tables, Figures, or a stage
    label: str  # in the list of pages
    title: str
    summary: str  # the paragraph under the title, in Markdown
    cells: list[NotebookNode]  # what the page shows: ``notebook`` less title and summary
    notebook: NotebookNode
    data: dict[str, Path]  # each table beside the notebook by its address below data/
    run: dict[str, Any]  # run.json, where the stage writes one

    @property
    def href(self) -> str:
        return f"{self.name}.html"


def build(budget: str, root: Path = Path(".")) -> Path:
    """Builds reports/``budget``, and the entry reports/index.html, which it returns.
    UserError: nothing was run, or a file of a run cannot be read. The old site stays."""
    study = load_study(budget, root, check_methods=False)
    runs, reports = study.folder(""), root / "reports"
    paths = [path for place in PLACES for path in runs.glob(f"{place}/notebook.ipynb")]
    pages = [_page(path, runs) for path in paths]
    pages.sort(key=lambda p: (GROUPS.index(p.group), (*OVERVIEW, p.name).index(p.name), p.name))
    if not pages:
        raise UserError(f"{runs}: no executed notebook there: run make repro BUDGET={budget}")
    groups = {group: [*listed] for group, listed in groupby(pages, lambda page: page.group)}
    verdicts = runs / "pages/scorecard/verdicts.csv"
    claims = read_claims(verdicts) if verdicts.is_file() else []
    shared = {"budget": budget, "about": study.budget.about.strip(), "groups": groups}
    trends = {
        page: pd.read_csv(file).to_dict("records")
        for page in ("trend_length", "trend_width", "trend_images")
        if (file := runs / "pages" / page / "directions.csv").is_file()
    }
    front = shared | {"claims": claims, "axes": axes(claims), "study": study, "trends": trends}
    compared = verdicts.with_name("gains.csv")
    front["gains"] = read_gains(compared) if compared.is_file() else []
    template = _environment().get_template
    turns = zip([None, *pages], pages, [*pages[1:], None], strict=False)
    html = {
        page.href: template("page.html.j2").render(shared, page=page, before=before, after=after)
        for before, page, after in turns
    }
    html["index.html"] = template("index.html.j2").render(front)
    said = template("said.md.j2").render(front).strip()
    html[WORDS] = said.replace("&#39;", "’") + "\n"  # no mark of HTML

    site = reports / f".{budget}.partial"  # takes its name once it is whole
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for name, text in html.items():
        (site / name).write_text(_linked(text, html), encoding="utf-8")
    for address, source in [item for page in pages for item in page.data.items()]:
        (site / "data" / address).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, site / "data" / address)
    for asset in ("site.css", "site.js", "compare.js"):
        shutil.copyfile(Path(__file__).with_name("templates") / asset, site / asset)
    _zip_notebooks(site / "notebooks.zip", pages)
    shutil.rmtree(reports / budget, ignore_errors=True)
    site.rename(reports / budget)
    return write_entry(study, _environment())


def _environment() -> Environment:
    options: Any = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    options |= {"loader": PackageLoader("augkd.study.report"), "undefined": StrictUndefined}
    environment, code = Environment(**options), Highlight2HTML(pygments_lexer="ipython3")
    environment.filters |= {"code": code, "terminal": ansi2html, "markdown": _markdown}
    environment.filters |= {"svg": _inline_svg, "signed": signed}
    return environment


def _zip_notebooks(path: Path, pages: list[Page]) -> None:
    """The executed notebooks in one archive: git keeps notebooks free of outputs. A line stands for
    large pictures, which are on their page already, so that the report is small enough for git."""
    with zipfile.ZipFile(path, "w") as archive:
        for page in pages:
            outputs = [output for cell in page.notebook.cells for output in cell.get("outputs", [])]
            for data in (output.get("data", {}) for output in outputs):
                large = [kind for kind in data if len(data[kind]) > LARGE]
                for kind in [kind for kind in large if "image/" in kind + data[kind]]:
                    size = len(data.pop(kind)) // 1000
                    data["text/plain"] = f"[a picture of {size} kB: see {page.href}]"
            entry = zipfile.ZipInfo(f"{page.name}.ipynb")  # of the year 1980: builds are alike
            archive.writestr(entry, nbformat.writes(page.notebook) + "\n", zipfile.ZIP_DEFLATED)


def _page(path: Path, runs: Path) -> Page:
    stage, _, own = "-".join(path.parent.relative_to(runs).parts).partition("-")
    name = own if stage == "pages" else f"{stage}-{own}".rstrip("-")
    notebook = read_notebook(path)
    for cell in notebook.cells:
        made = [output.get("data", {}) for output in cell.get("outputs", ())]
        shown = " ".join(f"{kind} {str(text)[:8]}" for of in made for kind, text in of.items())
        draws = cell.cell_type == "code" and _DRAWS.search(cell.source)
        if "image/" not in shown and (draws or "<Figure " in shown):
            raise UserError(f"{path}: a figure was not drawn: remove it and run make repro")
    cells = copy.deepcopy(notebook.cells)
    # A notebook that makes several pages shows the heading of each as a Markdown output, which
    # takes the place of its own introduction.
    for cell, output in [(c, o) for c in cells for o in c.get("outputs", [])]:
        if (text := output.get("data", {}).get("text/markdown", "")).startswith("# "):
            cell.outputs.remove(output)
            cells[0] = nbformat.v4.new_markdown_cell(text)
    heading, _, text = cells[0].source.partition("\n")
    title = re.sub(r"^# +|[*`$]", "", heading)
    summary, _, cells[0].source = text.strip().partition("\n\n")
    kind = {"table": "Tables", "figure": "Figures"}.get(name.partition("_")[0], "")
    group = kind or STAGES.get(stage, "Overview")
    label = own if own and stage in STAGES else title if kind else title.partition(":")[0]
    tables = sorted(path.parent.rglob("*.csv"))
    data = {file.relative_to(runs).as_posix().removeprefix("pages/"): file for file in tables}
    record = path.with_name("run.json")
    with reading(record):
        run = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return Page(name, group, label, title, summary, cells, notebook, data, run)


def read_notebook(path: Path) -> NotebookNode:
    """The notebook, without what differs between two equal executions (times, progress bars)."""
    with reading(path):
        notebook: NotebookNode = nbformat.read(path, as_version=4)
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
        part.metadata.pop("execution", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                text = output.text.replace("\x1b[A", "").replace("\r", "")
                output.text = _TEMPORARY.sub(r"line \1", _OLD_BARS.sub("", text))
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text", "*").strip()]
    return notebook


def _linked(html: str, known: Container[str]) -> str:
    """A link to a notebook becomes one to its page (NOTEBOOK.ipynb#PAGE: to that one of several
    which it makes); to a page that is not there, one to the front."""

    def target(match: re.Match[str]) -> str:
        own, anchor, page = f"{match[1]}.html", match[2] or "", f"{match[3]}.html"
        return f'href="{page if page in known else own + anchor if own in known else "index.html"}"'

    return _NOTEBOOK.sub(target, html)


def _markdown(source: str, attachments: dict[str, Any] | None = None) -> Markup:
    renderer = _Renderer(escape=False, anchor_link_text="#", attachments=attachments or {})
    return Markup(MarkdownWithMath(renderer=renderer).render(source))


class _Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML and tables that scroll."""

    def inline_math(self, body: str, display: str = "inline") -> str:
        try:
            mathml = str(to_mathml(body.strip(), display=display))
        except Exception:  # the converter's errors share no base; the source is still readable
            return f'<code class="tex">{escape(body)}</code>'
        return mathml.replace("<mo>&#x02016;", '<mo stretchy="false">&#x02016;')  # norms in pairs

    def block_math(self, body: str) -> str:
        return self.inline_math(body, "block")

    def table(self, text: str) -> str:
        return f'<div class="scroll"><table>{text}</table></div>'


def _inline_svg(svg: str, prefix: str) -> Markup:
    """A figure that takes the page's text colour, and whose ids are its own on the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return Markup(svg.replace(INK, f"var(--ink-figure, {INK})"))


def axes(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One axis a unit, in the order in which units first appear: ticks from end to end, by label.

    Keys: unit, claims, ticks, decimals, drawn (whether any of the claims has a gain at all).
    """
    found = []
    for unit in dict.fromkeys(claim["unit"] for claim in claims):
        rows = [claim for claim in claims if claim["unit"] == unit]
        points = [v for c in rows for v in (c["paper_gain"], c["gain"]) if math.isfinite(v)]
        # One vague interval or one huge gain must not flatten all others: nine points in ten set
        # the range. What leaves it is drawn with an arrow and read from its numbers.
        sizes = np.abs(points or [1.0])
        most = np.quantile(sizes, 0.9, method="inverted_cdf")
        within = np.clip(points, -most, most) if sizes.max() > 2 * most else points
        low, high = min([0.0, *within]), max([0.0 if points else 1.0, *within])
        span = high - low or 5.0
        # 1, 2 or 5 times a power of ten, such that there are about five steps
        power = 10.0 ** math.floor(math.log10(span / 5))
        step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= 5)
        first, last = math.floor(low / step - 0.35), math.ceil(high / step + 0.35)
        ticks = [round(step * k, 9) for k in range(first, last + 1)]
        marked = [0, ticks[0], ticks[-1]] if step < 0.005 else ticks  # where labels are long
        labels = {tick: f"{tick:+g}".replace("-", "−") * (tick in marked) for tick in ticks}
        decimals = min(max(2, 1 - math.floor(math.log10(step))), 4)
        axis = {"unit": unit, "claims": rows, "drawn": bool(points), "decimals": decimals}
        found.append(axis | {"ticks": labels | {0: "0"}, "low": ticks[0], "high": ticks[-1]})
    return found
