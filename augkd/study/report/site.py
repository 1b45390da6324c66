"""The report: executed notebooks as a static site that opens from disk, without a network.

``build`` reads runs/BUDGET and writes reports/BUDGET, one page a notebook, and the entry
reports/index.html. Nothing in it depends on when or where it was built.

An executed notebook as the body of a page: prose, formulas, outputs, and code folded away.

nbconvert's parts (Markdown, colours of code and of terminals) in markup of our own, so that a
page carries no script and no style sheet but the site's. Formulas become MathML here and now.

The front page's scorecard: the claims, their verdicts twice over, and where the gains lie.
"""

import copy
import csv
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from html import escape
from itertools import count, groupby
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from augkd.errors import UserError
from augkd.study.report.style import INK, signed

_HEADING = re.compile(r"\A\s*# +(?P<title>[^\n]+)\n*(?P<rest>.*)\Z", re.S)
_PROSE = re.compile(r"\A(?![#|`!<*-] ?|\$\$|\d+\. |```)")  # opens a paragraph or a blockquote
_PROGRESS = re.compile(r"\d+%\|.*\||\d+(?:it|step|img)? \[\d+:\d+")  # a bar of tqdm
_TEMPORARY = re.compile(r"\S*ipykernel_\d+\S*\.py:(\d+)")  # a warning names the cell's file
_IMAGES = ("image/png", "image/jpeg")


@dataclass(frozen=True)
class Block:
    """A piece of a page. ``kind`` chooses its markup in the template; ``html`` is ready."""

    kind: str  # prose, code, parameters, table, html, figure, text, stderr, error
    html: Markup


@dataclass(frozen=True)
class Document:
    """What a page shows of a notebook."""

    title: str
    summary: Markup
    blocks: tuple[Block, ...]


def read_notebook(path: Path) -> NotebookNode:
    """The notebook, without what differs between two equal executions (times, progress bars)."""
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise
    except Exception as error:  # nbformat raises many kinds for a file that is not a notebook
        kind = type(error).__name__
        raise UserError(f"{path}: not a notebook ({kind}): remove it and run make repro") from None
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = list(_merged(cell.outputs))
    return notebook


def render(notebook: NotebookNode, name: str, link: Callable[[str], str]) -> Document:
    """The page of a notebook.

    Args:
        notebook: as ``read_notebook`` gives it.
        name: the title, if it has none.
        link: the address on the site of what a relative link in Markdown points to.
    """
    title, summary, opening = name, "", None
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and (match := _HEADING.match(cell.source)):
            title, (summary, rest) = match["title"].strip(), _summary(match["rest"])
            opening = (position, rest)
            break
    markdown = _Markdown(link)
    figures = (f"f{number}" for number in count(1))
    blocks: list[Block] = []
    for position, cell in enumerate(notebook.cells):
        source = opening[1] if opening and opening[0] == position else cell.source
        if cell.cell_type == "markdown" and source.strip():
            blocks.append(Block("prose", markdown(source, cell.get("attachments"))))
        elif cell.cell_type == "code":
            _add_code(blocks, cell)
            blocks.extend(_output(output, markdown, next(figures)) for output in cell.outputs)
    text = Markup(re.sub(r"</?p>", "", markdown(summary)).strip())
    return Document(re.sub(r"[*`$]", "", title), text, tuple(b for b in blocks if b.html))


def page_link(url: str, names: frozenset[str]) -> str:
    """A link to a notebook becomes one to its page; a page that is not there, to the front."""
    match = re.fullmatch(r"(?:[\w./-]*/)?(\w+)\.ipynb(#.*)?", url)
    if not match:
        return url
    return f"{match[1]}.html{match[2] or ''}" if match[1] in names else "index.html"


def _summary(rest: str) -> tuple[str, str]:
    """Splits the first paragraph or blockquote, if the text opens with one, from what follows."""
    first, _, after = rest.strip().partition("\n\n")
    quoted = [line.removeprefix(">").strip() for line in first.splitlines()]
    text = "\n".join(quoted)
    return (text, after) if text and _PROSE.match(text) else ("", rest)


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


class _Markdown:
    def __init__(self, link: Callable[[str], str]) -> None:
        self.link = link

    def __call__(self, source: str, attachments: dict[str, Any] | None = None) -> Markup:
        renderer = _Renderer(escape=False, anchor_link_text="#", attachments=attachments or {})
        renderer.link_to = self.link
        return Markup(MarkdownWithMath(renderer=renderer).render(source))


def _math(tex: str, display: str) -> str:
    try:
        mathml = str(to_mathml(tex.strip(), display=display))
        return mathml.replace("<mo>&#x02016;", '<mo stretchy="false">&#x02016;')  # norms in pairs
    except Exception:  # the converter's errors share no base; the source is still readable
        return f'<code class="tex">{escape(tex)}</code>'


def _add_code(blocks: list[Block], cell: NotebookNode) -> None:
    """Appends a cell's code, in one fold with that of the cells before it that put out nothing."""
    if not cell.source.strip():
        return
    tags = cell.metadata.get("tags", [])
    kind = "parameters" if {"parameters", "injected-parameters"} & set(tags) else "code"
    html = Markup(Highlight2HTML(pygments_lexer="ipython3")(cell.source))
    if blocks and blocks[-1].kind in ("code", "parameters"):
        last = blocks.pop()
        kind, html = kind if kind == last.kind else "code", last.html + html
    blocks.append(Block(kind, html))


def _output(output: NotebookNode, markdown: _Markdown, prefix: str) -> Block:
    if output.output_type == "stream":
        return Block("text" if output.name == "stdout" else "stderr", _terminal(output.text))
    if output.output_type == "error":
        return Block("error", _terminal("\n".join(output.traceback)))
    data = output.data
    if "text/html" in data:
        return Block(
            "table" if "<table" in data["text/html"] else "html", Markup(data["text/html"])
        )
    if "image/svg+xml" in data:
        return Block("figure", Markup(inline_svg(data["image/svg+xml"], prefix)))
    for mime in _IMAGES:
        if mime in data:
            size = output.metadata.get(mime, {})
            width = f' width="{int(size["width"])}"' if "width" in size else ""
            source = data[mime].replace("\n", "")
            return Block("figure", Markup(f'<img alt="" src="data:{mime};base64,{source}"{width}>'))
    if "text/markdown" in data:
        return Block("prose", markdown(data["text/markdown"]))
    if "text/latex" in data:
        return Block("prose", markdown(data["text/latex"]))
    if "application/vnd.jupyter.widget-view+json" in data:  # a live bar: nothing to show on paper
        return Block("text", Markup(""))
    return Block("text", _terminal(data.get("text/plain", "")))


def _terminal(text: str) -> Markup:
    return Markup(ansi2html(text.strip("\n")))


def _merged(outputs: list[NotebookNode]) -> Iterator[NotebookNode]:
    """Joins what was written to one stream piece by piece, then drops all but finished bars."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = _TEMPORARY.sub(r"line \1", last_lines(output.text))
        if output.get("text", "*").strip():
            yield output


def last_lines(text: str) -> str:
    """Text as a terminal shows it in the end: of a run of progress lines, only the last.

    >>> last_lines("10%|█   | 1/10\\r100%|████| 10/10\\ndone\\n")
    '100%|████| 10/10\\ndone\\n'
    """
    text = text.replace("\x1b[A", "").replace("\r\n", "\n")
    lines: list[str] = []
    for line in text.split("\n"):
        parts = [part for part in line.split("\r") if part.strip()]
        shown = parts[-1] if parts else ""
        progress = _PROGRESS.search(shown)
        while progress and lines and (not lines[-1].strip() or _PROGRESS.search(lines[-1])):
            lines.pop()
        lines.append(shown)
    return "\n".join(lines)


def inline_svg(svg: str, prefix: str) -> str:
    """A figure that takes the page's text colour, and whose ids are its own on the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace(INK, f"var(--ink-figure, {INK})")


VERDICTS = ("holds", "fails", "undecided", "not run")


@dataclass(frozen=True)
class Claim:
    """A row of verdicts.csv: what the paper claims, judged on its own numbers and on ours.

    Gains are in ``unit``, positive where they speak for the claim; nan where there is none.
    """

    id: str
    topic: str
    title: str
    section: str
    text: str
    paper_verdict: str
    paper_gain: float
    verdict: str
    gain: float
    low: float
    high: float
    unit: str
    seeds: int
    images: int
    note: str

    @property
    def place(self) -> str:
        """Section 4.2, Appendix A.2, Abstract."""
        if self.section[:1].isdigit():
            return f"Section {self.section}"
        return f"Appendix {self.section}" if self.section[1:2] == "." else self.section

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Axis:
    """Claims whose gains share a unit and so an axis."""

    unit: str
    low: float
    high: float
    ticks: tuple[float, ...]
    decimals: int
    claims: tuple[Claim, ...]

    def at(self, value: float) -> str:
        """Where a value lies along the axis, in percent; values beyond it lie at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{100 * share:.2f}%"

    def beyond(self, value: float) -> int:
        """1 or -1 where a value lies beyond the axis, to the right or to the left; else 0."""
        return (value > self.high) - (value < self.low)

    def leaves(self, claim: Claim) -> set[int]:
        """On which sides something of a claim lies beyond the axis: -1, 1."""
        return {self.beyond(v) for v in (claim.paper_gain, claim.gain, claim.low, claim.high)} - {0}

    @property
    def parts(self) -> list[tuple[str, list[Claim]]]:
        """Its claims by topic."""
        return by_topic(self.claims)

    @property
    def drawn(self) -> bool:
        """Whether any claim has a gain at all."""
        return any(math.isfinite(v) for c in self.claims for v in (c.gain, c.paper_gain))

    def tick(self, value: float) -> str:
        """The label of a tick; where labels are long, the ends and zero alone have one."""
        if self.ticks[1] - self.ticks[0] < 0.005 and value not in (0, self.low, self.high):
            return ""
        return "0" if value == 0 else f"{value:+g}".replace("-", "−")

    def text(self, value: float) -> str:
        return signed(value, self.decimals) if math.isfinite(value) else "–"


def read_claims(path: Path) -> list[Claim]:
    """The rows of verdicts.csv.

    Raises:
        UserError: a missing column, an unknown verdict, or a value that is not a number.
    """
    mend = "remove it and run make repro"
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = sorted({f.name for f in fields(Claim)} - set(rows.fieldnames or ()))
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}': {mend}")
        claims = []
        for row in rows:
            try:
                claims.append(_claim(row))
            except ValueError as error:
                raise UserError(f"{path}, claim '{row['id']}': {error}: {mend}") from None
    return claims


def _claim(row: dict[str, str]) -> Claim:
    for key in ("paper_verdict", "verdict"):
        if row[key] not in VERDICTS:
            raise ValueError(f"{key} is '{row[key]}', not one of {', '.join(VERDICTS)}")
    paper_gain, gain, low, high = (
        float(row[key]) if row[key] else math.nan for key in ("paper_gain", "gain", "low", "high")
    )
    seeds, images = (int(float(row[key] or 0)) for key in ("seeds", "images"))
    return Claim(
        id=row["id"],
        topic=row["topic"],
        title=row["title"] or row["id"].replace("_", " "),
        section=row["section"],
        text=row["text"],
        paper_verdict=row["paper_verdict"],
        paper_gain=paper_gain,
        verdict=row["verdict"],
        gain=gain,
        low=low,
        high=high,
        unit=row["unit"],
        seeds=seeds,
        images=images,
        note=row["note"],
    )


def matrix(claims: Sequence[Claim]) -> list[tuple[str, list[tuple[str, list[Claim]]]]]:
    """Claims by the verdict on the paper's own numbers (rows) and on ours (columns).

    Verdicts that no claim has on the paper's numbers have no row; columns are always all four.
    """
    return [
        (paper, [(ours, [c for c in group if c.verdict == ours]) for ours in VERDICTS])
        for paper in VERDICTS
        if (group := [c for c in claims if c.paper_verdict == paper])
    ]


def by_topic(claims: Sequence[Claim]) -> list[tuple[str, list[Claim]]]:
    """Claims under their topics, in the order in which topics first appear."""
    topics: dict[str, list[Claim]] = {}
    for claim in claims:
        topics.setdefault(claim.topic, []).append(claim)
    return list(topics.items())


def axes(claims: Sequence[Claim]) -> Iterator[Axis]:
    """One axis a unit, in the order in which units first appear."""
    order = {unit: i for i, unit in reversed(list(enumerate(c.unit for c in claims)))}
    for unit, group in groupby(sorted(claims, key=lambda c: order[c.unit]), lambda c: c.unit):
        rows = tuple(group)
        # One vague interval or one huge gain must not flatten all others: nine points in ten set
        # the range. What leaves it is drawn with an arrow and read from its numbers.
        points = [v for c in rows for v in (c.paper_gain, c.gain) if math.isfinite(v)] or [1.0]
        sizes = sorted(map(abs, points))
        most = sizes[math.ceil(0.9 * len(sizes)) - 1]
        if sizes[-1] > 2 * most:
            points = [min(max(v, -most), most) for v in points]
        step = _step(max(0.0, *points) - min(0.0, *points))
        low = step * math.floor(min(0.0, *points) / step - 0.35)
        high = step * math.ceil(max(0.0, *points) / step + 0.35)
        ticks = [round(low + step * k, 9) for k in range(round((high - low) / step) + 1)]
        decimals = min(max(2, 1 - math.floor(math.log10(step))), 4)
        yield Axis(unit, low, high, tuple(ticks), decimals, rows)


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, such that a span has about five steps."""
    if span <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(span / 5))
    return next((m * power for m in (1, 2, 5) if span / (m * power) <= 5), 10 * power)


OVERVIEW = {
    "scorecard": "Scorecard",
    "audit": "Audit of the paper",
    "controls": "Controls",
    "weights": "Weights",
    "methods": "Methods",
}
"""What stands first in the list of pages, in this order, by these short labels."""
STAGES = {"prepare": "Photographs", "teach": "Teachers", "distil": "Students", "score": "Scores"}
ASSETS = ("site.css", "site.js")
LARGE = 100_000  # bytes of a picture: more are left out of the copies of notebooks


@dataclass(frozen=True)
class Page:
    """One notebook's page. ``name`` is that of its files: name.html and name.ipynb."""

    name: str
    group: str  # Overview, Tables, Figures, or a stage
    label: str  # in the list of pages
    notebook: NotebookNode = field(repr=False)
    document: Document = field(repr=False)
    data: tuple[tuple[str, Path], ...]  # address below data/, source
    run: dict[str, Any]  # run.json, where the stage writes one

    @property
    def href(self) -> str:
        return f"{self.name}.html"

    @property
    def number(self) -> str:
        """Table 2, Figure 6: set apart from the rest of the label where it opens with one."""
        match = re.match(r"(?:Table|Figure)s? [\d, and]*\d", self.label)
        return match[0] if match else ""

    @property
    def topic(self) -> str:
        return self.label.removeprefix(self.number).lstrip(" .:,·–—-")


def build(budget: str, root: Path = Path(".")) -> Path:
    """Builds reports/``budget`` and the entry reports/index.html from runs/``budget``.

    Args:
        budget: its name.
        root: of the study.

    Returns:
        The entry.

    Raises:
        UserError: nothing was run, or a file of a run cannot be read. The old site stays.
    """
    if not re.fullmatch(r"\w[\w-]*", budget):
        raise UserError(f"budget '{budget}': not a name: use letters, digits, _ and -")
    pages = collect(budget, root)
    front = _front(budget, root, pages)
    reports = root / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    template = _environment().get_template
    new, old, site = reports / f".{budget}.new", reports / f".{budget}.old", reports / budget
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()

    shared = {"budget": budget, "about": front["about"], "groups": _groups(pages), "base": ""}
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        html = template("page.html.j2").render(shared, page=page, before=before, after=after)
        _write(new / page.href, html)
        for address, source in page.data:
            _copy(source, new / "data" / address)
    _zip_notebooks(new / "notebooks.zip", pages)
    for name in ASSETS:
        _copy(Path(__file__).with_name("templates") / name, new / name)
    _write(new / "index.html", template("index.html.j2").render(shared, **front, budgets=[]))

    if site.exists():
        site.rename(old)
    new.rename(site)
    shutil.rmtree(old, ignore_errors=True)
    ran = {path.parent.name for path in reports.glob("[!.]*/index.html")}
    abouts = _abouts(root)
    budgets = [(b, abouts.get(b, ""), b in ran) for b in [*abouts, *sorted(ran - {*abouts})]]
    shared["base"] = f"{budget}/"
    entry = reports / "index.html"
    _write(
        entry.with_name(".index.html.new"),
        template("index.html.j2").render(shared, **front, budgets=budgets),
    )
    os.replace(entry.with_name(".index.html.new"), entry)
    return entry


def _zip_notebooks(path: Path, pages: Iterable[Page]) -> None:
    """The executed notebooks in one archive: git keeps notebooks free of outputs.

    A large picture is on its page already; here a line stands for it, so that the report stays
    small enough for git. The notebook in runs/ has it.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for page in pages:
            entry = zipfile.ZipInfo(f"{page.name}.ipynb", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, nbformat.writes(_light(page)) + "\n")


def _light(page: Page) -> NotebookNode:
    """A page's notebook without its large pictures."""
    notebook = copy.deepcopy(page.notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in [k for k in data if k.startswith("image/")]:
                size = len(data[kind])
                if size > LARGE:
                    del data[kind]
                    data["text/plain"] = f"[a picture of {size // 1000} kB: see {page.href}]"
    return notebook


def collect(budget: str, root: Path) -> list[Page]:
    """The pages of a budget, in reading order."""
    runs = root / "runs" / budget
    found = {
        _name(path.parent.relative_to(runs)): path
        for pattern in ("pages/*", "prepare", "teach/*", "distil/*", "score/*")
        for path in sorted(runs.glob(f"{pattern}/notebook.ipynb"))
    }
    if not found:
        raise UserError(f"{runs}: no executed notebook there: run make repro BUDGET={budget}")
    link = partial(page_link, names=frozenset(found))
    pages = [_page(name, path, runs, link) for name, path in found.items()]
    groups = ("Overview", "Tables", "Figures", *STAGES.values())
    known = {name: place for place, name in enumerate(OVERVIEW)}
    return sorted(pages, key=lambda p: (groups.index(p.group), known.get(p.name, 99), p.name))


def _name(folder: Path) -> str:
    """pages/table_02 is table_02, distil/edsr_x2 is distil-edsr_x2, prepare is itself."""
    return "-".join(part for part in folder.parts if part != "pages")


def _page(name: str, path: Path, runs: Path, link: Callable[[str], str]) -> Page:
    folder = path.parent
    stage, *rest = folder.relative_to(runs).parts
    cohort = rest[0] if rest and stage != "pages" else ""
    notebook = read_notebook(path)
    document = render(notebook, name.replace("_", " ").capitalize(), link)
    numbered = re.match(r"(table|figure)_", name)
    group = f"{numbered[1].capitalize()}s" if numbered else STAGES.get(stage, "Overview")
    data = tuple(
        (csv.relative_to(runs).as_posix().removeprefix("pages/"), csv)
        for csv in sorted(folder.rglob("*.csv"))
    )
    label = cohort or OVERVIEW.get(name) or document.title
    return Page(name, group, label, notebook, document, data, _run(folder))


def _run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        run["moment"] = datetime.fromisoformat(run["started"]).astimezone(UTC)
    except (ValueError, KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: {what}: remove it and run make repro") from None
    return dict(run)


def _groups(pages: Iterable[Page]) -> dict[str, list[Page]]:
    groups: dict[str, list[Page]] = {}
    for page in pages:
        groups.setdefault(page.group, []).append(page)
    return groups


def _front(budget: str, root: Path, pages: list[Page]) -> dict[str, Any]:
    """What the front page says: every number is read from the runs."""
    runs = root / "runs" / budget
    verdicts = runs / "pages" / "scorecard" / "verdicts.csv"
    claims: list[Claim] = read_claims(verdicts) if verdicts.is_file() else []
    ran = [page for page in pages if page.run]
    newest = max((page.run["moment"] for page in ran), default=None)
    members = [m for p in ran if p.group == STAGES["distil"] for m in p.run.get("members", [])]
    images, seeds = _counts(runs)
    return {
        "claims": claims,
        "verdicts": {v: [c for c in claims if c.verdict == v] for v in VERDICTS},
        "matrix": matrix(claims),
        "topics": by_topic(claims),
        "axes": list(axes(claims)),
        "ran": ran,
        "changed": newest,
        "students": len(members),
        "seeds": seeds,
        "images": images,
        "about": _abouts(root).get(budget, ""),
        "devices": sorted({p.run["device"] for p in ran if p.run.get("device")}),
        "torches": sorted({p.run["torch"] for p in ran if p.run.get("torch")}),
    }


def _counts(runs: Path) -> tuple[int, int]:
    """How many images were scored, and how many seeds a student has at most."""
    images: set[tuple[str, ...]] = set()
    seeds: set[int] = set()
    for path in sorted(runs.glob("score/*/scores/*.csv")):
        try:
            scores = pd.read_csv(path, usecols=["dataset", "image", "seed"], dtype=str)
        except ValueError as error:
            raise UserError(f"{path}: {error}: remove it and run make repro") from None
        images.update(scores[["dataset", "image"]].itertuples(index=False, name=None))
        seeds.update(int(float(seed)) for seed in scores["seed"].dropna().unique())
    return len(images), len([seed for seed in seeds if seed >= 0])  # -1: not trained here


def _abouts(root: Path) -> dict[str, str]:
    """The budgets of params.yaml, in its order, and what it says about each."""
    path = root / "params.yaml"
    if not path.is_file():
        return {}
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))["budgets"]
        return {str(name): str(body.get("about", "")).strip() for name, body in listed.items()}
    except yaml.YAMLError:
        raise UserError(f"{path}: not YAML: mend it (git diff shows what changed)") from None
    except (KeyError, TypeError, AttributeError):
        return {}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("augkd"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["duration"] = _duration
    environment.globals["plain"] = lambda html: Markup(html).striptags()
    return environment


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.0f} s"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
