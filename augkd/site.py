"""The report: executed notebooks as a static site that opens from disk, without a network.

``build`` reads runs/BUDGET and writes reports/BUDGET, one page a notebook, and the entry
reports/index.html. Nothing in it depends on when or where it was built.
"""

import copy
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from nbformat import NotebookNode

from augkd.errors import UserError
from augkd.notebook_html import Document, page_link, read_notebook, render
from augkd.scorecard import VERDICTS, Claim, axes, by_topic, matrix, read_claims

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
