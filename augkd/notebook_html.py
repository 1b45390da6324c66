"""An executed notebook as the body of a page: prose, formulas, outputs, and code folded away.

nbconvert's parts (Markdown, colours of code and of terminals) in markup of our own, so that a
page carries no script and no style sheet but the site's. Formulas become MathML here and now.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from augkd.errors import UserError
from augkd.style import INK

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
