"""The report: executed notebooks as a static site that opens from disk, without a network.

``build`` reads runs/BUDGET and writes reports/BUDGET, one page a notebook, and the entry
reports/index.html. Nothing in it depends on when or where it was built.

Markdown and the colours of code and of terminals are nbconvert's, in markup of our own, so that a
page carries no script and no style sheet but the site's. Formulas become MathML here and now.
"""

import copy
import csv
import json
import math
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from augkd.errors import UserError, replacing
from augkd.study.params import load_study
from augkd.study.report.claims import VERDICTS
from augkd.study.report.style import INK, signed

OVERVIEW = ("scorecard", "audit", "controls", "weights", "methods")
"""What stands first in the list of pages, in this order."""
STAGES = {"prepare": "Photographs", "teach": "Teachers", "distil": "Students", "score": "Scores"}
LARGE = 100_000  # bytes of a picture: more are left out of the copies of notebooks
MEND = "remove it and run make repro"
_HEADING = re.compile(r"\A\s*# +(?P<title>[^\n]+)\n*(?P<rest>.*)\Z", re.S)
_PROSE = re.compile(r"\A(?![#|`!<*-] ?|\$\$|\d+\. |```)")  # opens a paragraph or a blockquote
_PROGRESS = re.compile(r"\d+%\|.*\||\d+(?:it|step|img)? \[\d+:\d+")  # a bar of tqdm
_TEMPORARY = re.compile(r"\S*ipykernel_\d+\S*\.py:(\d+)")  # a warning names the cell's file


@dataclass(frozen=True)
class Page:
    """One notebook's page. ``name`` is that of its files: name.html and, in the zip, name.ipynb.

    Attributes:
        group: Overview, Tables, Figures, or a stage.
        label: in the list of pages.
        summary: the paragraph under the title, in Markdown.
        parts: cells that show something, each after the cells whose code is folded above it.
        data: address below data/, and source, of each table beside the notebook.
        run: run.json, where the stage writes one.
    """

    name: str
    group: str
    label: str
    title: str
    summary: str = field(repr=False)
    parts: list[tuple[list[NotebookNode], NotebookNode]] = field(repr=False)
    notebook: NotebookNode = field(repr=False)
    data: list[tuple[str, Path]]
    run: dict[str, Any]

    @property
    def href(self) -> str:
        return f"{self.name}.html"


def build(budget: str, root: Path = Path(".")) -> Path:
    """Builds reports/``budget`` and the entry reports/index.html from runs/``budget``.

    Args:
        budget: its name in params.yaml.
        root: of the study.

    Returns:
        The entry.

    Raises:
        UserError: nothing was run, or a file of a run cannot be read. The old site stays.
    """
    study = load_study(budget, root, check_methods=False)
    runs, reports = study.folder(""), root / "reports"
    pages = collect(budget, runs)
    groups: dict[str, list[Page]] = {}
    for page in pages:
        groups.setdefault(page.group, []).append(page)
    shared = {"budget": budget, "about": study.budget.about.strip(), "groups": groups, "base": ""}
    verdicts = runs / "pages" / "scorecard" / "verdicts.csv"
    claims = read_claims(verdicts) if verdicts.is_file() else []
    images, seeds = _counts(runs)
    front = {"claims": claims, "axes": axes(claims), "images": images, "seeds": seeds}
    template = _environment(frozenset(page.name for page in pages)).get_template
    new, old, site = (reports / name for name in (f".{budget}.new", f".{budget}.old", budget))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        html = template("page.html.j2").render(shared, page=page, before=before, after=after)
        (new / page.href).write_bytes(html.encode())
        for address, source in page.data:
            (new / "data" / address).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / "data" / address)
    _zip_notebooks(new / "notebooks.zip", pages)
    for asset in ("site.css", "site.js"):
        shutil.copyfile(Path(__file__).with_name("templates") / asset, new / asset)
    index = template("index.html.j2")
    (new / "index.html").write_bytes(index.render(shared | front, budgets=[]).encode())

    if site.exists():
        site.rename(old)
    new.rename(site)
    shutil.rmtree(old, ignore_errors=True)
    ran = {path.parent.name for path in reports.glob("[!.]*/index.html")}
    abouts = {name: other.about.strip() for name, other in study.params.budgets.items()}
    budgets = [(b, abouts.get(b, ""), b in ran) for b in [*abouts, *sorted(ran - {*abouts})]]
    shared["base"] = f"{budget}/"
    with replacing(reports / "index.html") as path:
        path.write_bytes(index.render(shared | front, budgets=budgets).encode())
    return reports / "index.html"


def _environment(names: frozenset[str]) -> Environment:
    environment = Environment(
        loader=PackageLoader("augkd.study.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    highlight = Highlight2HTML(pygments_lexer="ipython3")
    environment.filters |= {
        "markdown": partial(_markdown, partial(page_link, names=names)),
        "code": lambda source: Markup(highlight(source)),
        "terminal": lambda text: Markup(ansi2html(text.strip("\n"))),
        "svg": inline_svg,
        "signed": signed,
    }
    return environment


def _zip_notebooks(path: Path, pages: Iterable[Page]) -> None:
    """The executed notebooks in one archive: git keeps notebooks free of outputs.

    A large picture is on its page already; here a line stands for it, so that the report stays
    small enough for git. The notebook in runs/ has it.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for page in pages:
            light = copy.deepcopy(page.notebook)
            outputs = [output for cell in light.cells for output in cell.get("outputs", [])]
            for data in (output.get("data", {}) for output in outputs):
                for kind in [k for k in data if k.startswith("image/") and len(data[k]) > LARGE]:
                    size = len(data.pop(kind)) // 1000
                    data["text/plain"] = f"[a picture of {size} kB: see {page.href}]"
            entry = zipfile.ZipInfo(f"{page.name}.ipynb", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, nbformat.writes(light) + "\n")


def _counts(runs: Path) -> tuple[int, int]:
    """How many images were scored, and how many seeds a student has at most."""
    parts = []
    for path in sorted(runs.glob("score/*/scores/*.csv")):
        try:
            parts.append(pd.read_csv(path, usecols=["dataset", "image", "seed"]))
        except ValueError as error:
            raise UserError(f"{path}: {error}: {MEND}") from None
    scores = pd.concat(parts or [pd.DataFrame(columns=["dataset", "image", "seed"])])
    seeds = scores.loc[scores["seed"] >= 0, "seed"]  # -1: not trained here
    return len(scores[["dataset", "image"]].drop_duplicates()), seeds.nunique()


# --- from a run to a page


def collect(budget: str, runs: Path) -> list[Page]:
    """The pages of a budget, in reading order."""
    pages = [
        _page(path, runs)
        for pattern in ("pages/*", "prepare", "teach/*", "distil/*", "score/*")
        for path in sorted(runs.glob(f"{pattern}/notebook.ipynb"))
    ]
    if not pages:
        raise UserError(f"{runs}: no executed notebook there: run make repro BUDGET={budget}")
    groups = ("Overview", "Tables", "Figures", *STAGES.values())
    known = {name: place for place, name in enumerate(OVERVIEW)}
    return sorted(pages, key=lambda p: (groups.index(p.group), known.get(p.name, 99), p.name))


def _page(path: Path, runs: Path) -> Page:
    stage, *rest = path.parent.relative_to(runs).parts
    name = "-".join(rest if stage == "pages" else (stage, *rest))
    notebook = read_notebook(path)
    cells = _opened(notebook)
    title, summary = name.replace("_", " ").capitalize(), ""
    for cell in cells:
        if cell.cell_type == "markdown" and (match := _HEADING.match(cell.source)):
            title = re.sub(r"[*`$]", "", match["title"].strip())
            summary, cell.source = _summary(match["rest"])
            break
    numbered = re.match(r"(table|figure)_", name)
    label = title if numbered else title.partition(":")[0]
    return Page(
        name=name,
        group=f"{numbered[1].capitalize()}s" if numbered else STAGES.get(stage, "Overview"),
        label=rest[0] if rest and stage != "pages" else label,
        title=title,
        summary=summary,
        parts=_parts(cells),
        notebook=notebook,
        data=[
            (table.relative_to(runs).as_posix().removeprefix("pages/"), table)
            for table in sorted(path.parent.rglob("*.csv"))
        ],
        run=_run(path.with_name("run.json")),
    )


def _run(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return {**run, "moment": datetime.fromisoformat(run["started"]).astimezone(UTC)}
    except (ValueError, KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: {what}: {MEND}") from None


def read_notebook(path: Path) -> NotebookNode:
    """The notebook, without what differs between two equal executions (times, progress bars)."""
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds for a file that is not a notebook
        raise UserError(f"{path}: not a notebook ({type(error).__name__}): {MEND}") from None
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
        part.metadata.pop("execution", None)
        for output in part.get("outputs", []):
            if output.output_type == "stream":
                output.text = _TEMPORARY.sub(r"line \1", last_lines(output.text))
        if "outputs" in part:
            part.outputs = [output for output in part.outputs if output.get("text", "*").strip()]
    return notebook


def last_lines(text: str) -> str:
    """Text as a terminal shows it in the end: of a run of progress lines, only the last.

    >>> last_lines("10%|█   | 1/10\\r100%|████| 10/10\\ndone\\n")
    '100%|████| 10/10\\ndone\\n'
    """
    lines: list[str] = []
    for line in text.replace("\x1b[A", "").replace("\r\n", "\n").split("\n"):
        shown = next((part for part in reversed(line.split("\r")) if part.strip()), "")
        progress = _PROGRESS.search(shown)
        while progress and lines and (not lines[-1].strip() or _PROGRESS.search(lines[-1])):
            lines.pop()
        lines.append(shown)
    return "\n".join(lines)


def _opened(notebook: NotebookNode) -> list[NotebookNode]:
    """A copy of its cells, the heading first.

    A notebook that makes several pages introduces itself in a cell tagged "introduction", which
    none of them shows; the heading of the page is a Markdown output, "# Title" and on.
    """
    cells: list[NotebookNode] = copy.deepcopy(notebook.cells)
    if not cells or "introduction" not in cells[0].metadata.get("tags", []):
        return cells
    for cell in cells[1:]:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if text.startswith("# "):
                cell.outputs.remove(output)
                return [nbformat.v4.new_markdown_cell(text), *cells[1:]]
    return cells[1:]


def _summary(rest: str) -> tuple[str, str]:
    """Splits the first paragraph or blockquote, if the text opens with one, from what follows."""
    first, _, after = rest.strip().partition("\n\n")
    text = "\n".join(line.removeprefix(">").strip() for line in first.splitlines())
    return (text, after) if text and _PROSE.match(text) else ("", rest)


def _parts(cells: Iterable[NotebookNode]) -> list[tuple[list[NotebookNode], NotebookNode]]:
    parts, folded = [], []
    for cell in (*cells, nbformat.v4.new_raw_cell()):
        if cell.cell_type == "code" and cell.source.strip():
            folded.append(cell)
        if cell.cell_type != "code" or cell.outputs:
            parts.append((folded, cell))
            folded = []
    return parts


# --- what the templates ask for


def page_link(url: str, names: frozenset[str]) -> str:
    """A link to a notebook becomes one to its page; a page that is not there, to the front.

    NOTEBOOK.ipynb#PAGE is the page PAGE, one of several that a parameterised notebook makes.
    """
    match = re.fullmatch(r"(?:[\w./-]*/)?(\w+)\.ipynb(#(.*))?", url)
    if not match:
        return url
    notebook, anchor, page = match.groups()
    if page in names:
        return f"{page}.html"
    return f"{notebook}.html{anchor or ''}" if notebook in names else "index.html"


def _markdown(
    link: Callable[[str], str], source: str, attachments: dict[str, Any] | None = None
) -> Markup:
    renderer = _Renderer(escape=False, anchor_link_text="#", attachments=attachments or {})
    renderer.link_to = link
    return Markup(MarkdownWithMath(renderer=renderer).render(source))


class _Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML and links that stay on the site."""

    link_to: Callable[[str], str]

    def inline_math(self, body: str) -> str:
        return _math(body, "inline")

    def block_math(self, body: str) -> str:
        return _math(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return _math(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return str(super().link(text, self.link_to(url), title))

    def table(self, text: str) -> str:
        return f'<div class="scroll"><table>{text}</table></div>'


def _math(tex: str, display: str) -> str:
    try:
        mathml = str(to_mathml(tex.strip(), display=display))
        return mathml.replace("<mo>&#x02016;", '<mo stretchy="false">&#x02016;')  # norms in pairs
    except Exception:  # the converter's errors share no base; the source is still readable
        return f'<code class="tex">{escape(tex)}</code>'


def inline_svg(svg: str, prefix: str) -> Markup:
    """A figure that takes the page's text colour, and whose ids are its own on the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return Markup(svg.replace(INK, f"var(--ink-figure, {INK})"))


# --- the scorecard


def read_claims(path: Path) -> list[dict[str, Any]]:
    """The rows of verdicts.csv; ``place`` and ``interval`` (whether there is one) are added.

    Gains are in ``unit``, positive where they speak for the claim; nan where there is none.

    Raises:
        UserError: a missing column, an unknown verdict, or a value that is not a number.
    """
    numbers = dict.fromkeys(("paper_gain", "gain", "low", "high"), math.nan)
    numbers |= {"seeds": 0, "images": 0}
    texts = ("id", "topic", "title", "section", "text", "paper_verdict", "verdict", "unit", "note")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := sorted({*texts, *numbers} - set(reader.fieldnames or ())):
            raise UserError(f"{path}: no column '{missing[0]}': {MEND}")
        claims: list[dict[str, Any]] = list(reader)
    for claim in claims:
        try:
            for key in ("paper_verdict", "verdict"):
                if claim[key] not in VERDICTS:
                    known = ", ".join(VERDICTS)
                    raise ValueError(f"{key} is '{claim[key]}', not one of {known}")
            for key, none in numbers.items():
                claim[key] = type(none)(float(claim[key] or none))
        except ValueError as error:
            raise UserError(f"{path}, claim '{claim['id']}': {error}: {MEND}") from None
        section = claim["section"]
        kind = "Section " if section[:1].isdigit() else "Appendix " * (section[1:2] == ".")
        claim["title"] = claim["title"] or claim["id"].replace("_", " ")
        claim["place"] = f"{kind}{section}"
        claim["interval"] = math.isfinite(claim["low"]) and math.isfinite(claim["high"])
    return claims


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
        sizes = sorted(map(abs, points)) or [1.0]
        most = sizes[math.ceil(0.9 * len(sizes)) - 1]
        most = most if sizes[-1] > 2 * most else sizes[-1]
        low = min([0.0, *(max(point, -most) for point in points)])
        high = max([0.0 if points else 1.0, *(min(point, most) for point in points)])
        step = _step(high - low)
        first, last = math.floor(low / step - 0.35), math.ceil(high / step + 0.35)
        ticks = [round(step * k, 9) for k in range(first, last + 1)]
        marked = [0, ticks[0], ticks[-1]] if step < 0.005 else ticks  # where labels are long
        labels = {tick: f"{tick:+g}".replace("-", "−") * (tick in marked) for tick in ticks}
        decimals = min(max(2, 1 - math.floor(math.log10(step))), 4)
        axis = {"unit": unit, "claims": rows, "drawn": bool(points), "decimals": decimals}
        found.append(axis | {"ticks": labels | {0: "0"}, "low": ticks[0], "high": ticks[-1]})
    return found


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, such that a span has about five steps."""
    if span <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(span / 5))
    return next((m * power for m in (1, 2, 5) if span / (m * power) <= 5), 10 * power)
