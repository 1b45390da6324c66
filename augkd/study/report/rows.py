"""Pages of tables: the paper's rows beside ours, and what a reader must know of a budget's.

Which rows a page has, and the sentences at its foot, are data: rows.yaml, notes.yaml.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown
from jinja2 import Environment, StrictUndefined
from pandas.io.formats.style import Styler

from augkd.study.paper import load_table, select
from augkd.study.params import NAMES, Study
from augkd.study.pipeline.stage import need
from augkd.study.report.stats import LOWER_IS_BETTER, PROTOCOL, differences, estimate
from augkd.study.report.style import DECIMALS, METHOD_NAMES, NETWORKS, paper_table, read_yaml

PAPER_SETS = ("Set5", "Set14", "B100", "Urban100", "RealSR", "DRealSR", "OST300")
UNTAUGHT = ("bicubic", "teacher", "teacher_ensemble")  # rows of tables that are no students
COLUMNS = ["cohort", "method", "seed", "dataset", "split", "image", "metric", "value"]


def trained_scores(study: Study, *cohorts: str) -> pd.DataFrame:
    """Per-image scores of those of the cohorts that the budget trains; empty for none."""
    names = study.trained(*cohorts)
    for group in dict.fromkeys(map(study.group, names)):
        need(study, "score", group)
    tables = [pd.read_csv(study.scores(name), **NAMES) for name in names]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def test_sets(scores: pd.DataFrame) -> list[str]:
    """The test sets at hand: the packages' photographs first, then the paper's, then others."""
    found = set(scores.loc[scores["split"] == "test", "dataset"])
    known = [name for name in ("photographs", *PAPER_SETS) if name in found]
    return known + sorted(found - set(known))


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """A table as tidy CSV: the numbers that its page shows, for whoever wants them."""
    if isinstance(frame.columns, pd.MultiIndex):
        frame = frame.set_axis(frame.columns.map(" ".join), axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.reset_index().to_csv(path, index=False)


@dataclass(frozen=True)
class Row:
    """A row of a table: a method in a cohort of ours, and what the paper prints of it.

    Attributes:
        cohort, method: in our scores; a method may be "bicubic" or "teacher".
        labels: the row's heading: its label on each level of the index.
        table: the paper's in which it may stand; 0 for none.
        keys: that name the row's numbers in it, as ``augkd.study.paper.select`` takes them.
    """

    cohort: str
    method: str
    labels: dict[str, str]
    table: int = 0
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.cohort}/{self.method}"

    @cached_property
    def printed(self) -> dict[Any, float]:
        """The paper's numbers of the row by (metric, dataset); none where it has no such row."""
        if not self.table:
            return {}
        found = select(load_table(self.table), **self.keys)
        return found.set_index(["metric", "dataset"])["value"].astype(float).to_dict()


def page_rows(study: Study, page: str) -> list[Row]:
    """The rows of a page, as rows.yaml has them."""
    return [
        row
        for block in read_yaml("rows.yaml")[page]
        for cohort in block.pop("cohorts")
        for row in method_rows(study, cohort, **block)
    ]


def method_rows(
    study: Study,
    cohort: str,
    methods: Iterable[str] | Mapping[str, str],
    table: int = 0,
    labels: Mapping[str, str] = {},
    keys: Mapping[str, Any] = {},
    level: str = "method",
) -> list[Row]:
    """Rows of methods of one cohort: see rows.yaml for the arguments."""
    own = study.cohort(cohort)
    if not isinstance(methods, Mapping):
        # CSD is a variant where it has no VGG19
        published = {"csd": "CSD"} if own.methods.get("csd", {}).get("vgg") else {}
        methods = {method: (METHOD_NAMES | published)[method] for method in methods}
    names = {"scale": own.scale, "network": NETWORKS.get(own.network, own.network)}
    heads = {title: label.format(**names) for title, label in labels.items()}
    place = {"network": own.network, "scale": own.scale, **keys}
    return [
        Row(cohort, method, {**heads, level: name}, table, {**place, "method": method})
        for method, name in methods.items()
    ]


def framed(study: Study, rows: Iterable[Row]) -> list[Row]:
    """The rows of each cohort between those of bicubic enlargement and of its teacher.

    Teachers of the paper's three networks are found in its Table 12.
    """
    result = []
    for cohort, group in groupby(rows, lambda row: row.cohort):
        own = list(group)
        table = 12 if study.group(cohort) in NETWORKS else 0
        ends = method_rows(study, cohort, UNTAUGHT[:2], table)
        first, last = (replace(end, labels=own[0].labels | end.labels) for end in ends)
        result += [first, *own, last]
    return result


def values(scores: pd.DataFrame, rows: Sequence[Row], metric: str) -> pd.DataFrame:
    """Mean scores by (dataset, part): paper, ours, difference (ours minus the paper's).

    Of sets that are not at hand there is only the paper's part, of sets that it lacks only ours.
    """
    tests, at_hand = _tests(scores, metric), test_sets(scores)

    def cell(row: Row, dataset: str) -> dict[str, Any]:
        paper = row.printed.get((metric, dataset), nan)
        if dataset not in at_hand:
            return {"paper": paper}
        mean = float(_of(tests, row.key, [dataset])["value"].mean())
        return {"paper": paper, "ours": mean, "difference": mean - paper}

    blocks = dict.fromkeys((*at_hand, *PAPER_SETS))
    return _frame(rows, "dataset", {name: [cell(row, name) for row in rows] for name in blocks})


def gains(scores: pd.DataFrame, rows: Sequence[Row], metric: str, reference: str) -> pd.DataFrame:
    """Gains over a reference, a test set a block: the paper's, and ours with its 95 % interval.

    ``reference`` is a method of each row's own cohort, or one "cohort/method" for all.

    Parts are paper, Δ (positive where the row is better; NaN where it was not run, None where it
    is its own reference) and interval.
    """
    blocks = {name: (reference, [name], [name]) for name in test_sets(scores)}
    frame = _compared(scores, rows, metric, "dataset", blocks)
    return frame.drop(columns="difference", level="part", errors="ignore")


def mean_gains(
    scores: pd.DataFrame, rows: Sequence[Row], metric: str, references: Mapping[str, str]
) -> pd.DataFrame:
    """Gains over several references in the mean over test sets, each set weighing the same.

    Ours is over all sets at hand, the paper's over those that it has of all its rows. Returns as
    ``gains``, a reference a block (``references`` are by its title), and difference.
    """
    sets, printed = test_sets(scores), [row.printed for row in rows if row.printed]
    theirs = [s for s in PAPER_SETS if printed and all((metric, s) in of for of in printed)]
    blocks = {title: (reference, sets, theirs) for title, reference in references.items()}
    return _compared(scores, rows, metric, "reference", blocks)


def ranks(frame: pd.DataFrame, students: Sequence[bool], metric: str, level: str) -> pd.DataFrame:
    """Which of the printed and of our ``values`` are "best" and "second", as the paper marks them.

    Compared as they are shown, so that equal ones share a place. Rows that are no students take no
    part; the others compete within a label of ``level`` of the index, or all together if it is "".
    """
    columns = [column for column in frame.columns if column[-1] in ("paper", "ours")]
    numbers = frame.loc[list(students), columns].astype(float).round(DECIMALS[metric])
    groups = numbers.index.get_level_values(level) if level else [""] * len(numbers)
    places = numbers.groupby(groups).rank(method="dense", ascending=metric in LOWER_IS_BETTER)
    marks = places.map({1: "best", 2: "second"}.get).reindex_like(frame)
    return marks.astype(object).fillna("")


def tidy(frame: pd.DataFrame, **constants: str) -> pd.DataFrame:
    """A shown table as tidy rows: a cell's block, its numbers, the ends of its interval apart."""
    rows = pd.DataFrame(frame.stack(0, future_stack=True)).rename(columns={"Δ": "gain"})
    if "interval" in rows:
        place, interval = list(rows).index("interval"), rows.pop("interval").str
        rows.insert(place, "low", interval[0])
        rows.insert(place + 1, "high", interval[1])
    rows = rows.rename_axis(columns=None).reset_index()
    return pd.DataFrame(constants, rows.index).join(rows)


def _tests(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Test scores in one metric, by "cohort/method"."""
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == metric)]
    return chosen.set_index(chosen["cohort"] + "/" + chosen["method"])


def _of(tests: pd.DataFrame, key: str, datasets: Sequence[str]) -> pd.DataFrame:
    return tests[(tests.index == key) & tests["dataset"].isin(datasets)]


def _compared(
    scores: pd.DataFrame,
    rows: Sequence[Row],
    metric: str,
    level: str,
    blocks: Mapping[str, tuple[str, list[str], list[str]]],
) -> pd.DataFrame:
    """``blocks``: by title, the reference, and the sets of ours and of the paper's."""
    tests, printed = _tests(scores, metric), {row.key: row.printed for row in rows}
    sign = -1 if metric in LOWER_IS_BETTER else 1

    def cell(row: Row, reference: str, sets: list[str], theirs: list[str]) -> dict[str, Any]:
        other = reference if "/" in reference else f"{row.cohort}/{reference}"
        if other == row.key:
            return dict.fromkeys(("paper", "Δ", "interval", "difference"))
        own, over = row.printed, printed.get(other, {})
        each = [own.get((metric, s), nan) - over.get((metric, s), nan) for s in theirs]
        paper, gain, interval = sign * float(np.mean(each or [nan])), nan, None
        better, worse = _of(tests, row.key, sets), _of(tests, other, sets)
        if len(better) and len(worse):
            known = estimate(differences(better, worse, metric))
            gain, interval = known.mean, (known.low, known.high)
        return {"paper": paper, "Δ": gain, "interval": interval, "difference": gain - paper}

    cells = {title: [cell(row, *block) for row in rows] for title, block in blocks.items()}
    return _frame(rows, level, cells)


def _frame(
    rows: Sequence[Row], level: str, blocks: Mapping[str, Sequence[dict[str, Any]]]
) -> pd.DataFrame:
    """Cells of rows, block by block, their parts side by side."""
    columns = {}
    for name, cells in blocks.items():
        # as objects: None (does not apply) is not NaN (was not run)
        for part, column in pd.DataFrame(cells, dtype=object).items():
            # of a set that is not the paper's there is nothing to compare with
            if part in ("Δ", "ours", "interval") or column.notna().any():
                columns[name, part] = column
    frame = pd.DataFrame(columns, range(len(rows)))
    frame.columns = pd.MultiIndex.from_tuples(columns, names=[level, "part"])
    labels = pd.DataFrame([row.labels for row in rows])
    return frame.set_index([labels[title] for title in labels])


class TablePage:
    """What the page of a table shows; all of it goes into runs/BUDGET/pages/NAME/table.csv.

    Args:
        rows: students, in the order of the page; those of rows.yaml if there are none.
        rank_by: the level of the rows' labels within which the best are marked; "" for all.
        called: titles of references that are not simply a method's name.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        rows: Sequence[Row] = (),
        rank_by: str = "",
        called: Mapping[str, str] = {},
    ) -> None:
        self.study, self.name, self.rank_by = study, name, rank_by
        self.rows, self.called = list(rows) or page_rows(study, name), METHOD_NAMES | dict(called)
        self.scores = trained_scores(study, *dict.fromkeys(row.cohort for row in self.rows))
        halted = self.scores[self.scores["metric"] == "stopped"].groupby(["cohort", "method"])
        self.stopped = {of: sorted(seeds) for of, seeds in halted["seed"].unique().items()}
        self.untuned: list[str] = []  # nobody chose their weights for such students
        for place, row in enumerate(self.rows):  # signs of notes, on the last label
            published = study.cohort(row.cohort).methods.get(row.method, {}).get("vgg")
            untuned = row.method in PROTOCOL["untuned"] and not published
            self.untuned += [row.method] * untuned
            signs = " †" * ((row.cohort, row.method) in self.stopped) + " ‡" * untuned
            *_, last = row.labels
            self.rows[place] = replace(row, labels=row.labels | {last: row.labels[last] + signs})
        self.path = study.page(name) / "table.csv"
        self._kept: list[pd.DataFrame] = []

    def mean_gains(
        self, metric: str, *references: str, scores: pd.DataFrame | None = None
    ) -> Styler:
        """Gains over methods of each row's cohort, or over "cohort/method", mean over sets.

        ``scores``: in place of all of the page's, e.g. those of some images alone.
        """
        titles = {f"gain over {self.called[name]}": name for name in references}
        frame = mean_gains(self.scores if scores is None else scores, self.rows, metric, titles)
        name = self._keep(frame, "mean_gains", metric, dataset="mean")
        if len(references) > 2 or frame.index.nlevels > 2 or metric == "ssim_y":
            # no room for it; table.csv has it
            frame = frame.drop(columns="difference", level="part", errors="ignore")
        return paper_table(frame, name, metric, self._demonstration())

    def _demonstration(self) -> str:
        """What is said below the gains of students who were trained too seldom to be judged."""
        least = PROTOCOL["premises"]["trainings"]["least"]
        students = [(row.cohort, row.method) for row in self.rows if row.method not in UNTAUGHT]
        counts = self.scores.groupby(["cohort", "method"])["seed"].nunique()
        few = float(counts[counts.index.isin(students)].min())
        if not few < least:
            return ""
        there = "is 1 training" if few == 1 else f"are {few:.0f} trainings"
        return f"A demonstration: of some methods there {there}; fewer than {least} judge nothing."

    def gains(self, metric: str, reference: str) -> Styler:
        """Gains over one of them, set by set."""
        frame = gains(self.scores, self.rows, metric, reference)
        if frame.empty:  # no set was scored
            return self.mean_gains(metric, reference)
        title = f"gain over {self.called[reference]}"
        return paper_table(frame, self._keep(frame, "gains", metric, reference=title), metric)

    def values(self, metric: str, rows: Sequence[Row] = ()) -> Styler:
        """Mean scores, set by set: of ``rows``, or of the page's with those that frame them."""
        rows = rows or framed(self.study, self.rows)
        frame = values(self.scores, rows, metric)
        students = [row.method not in UNTAUGHT for row in rows]
        marks = ranks(frame, students, metric, self.rank_by)
        caption = "Bold: best, underlined: second, by the mean alone." if any(students) else ""
        name = self._keep(frame, "values", metric)
        return paper_table(frame, name, metric, caption, marks=marks)

    def notes(self) -> Markdown:
        """What a reader must know of this budget's rows: sentences, one thing each."""
        study, scores = self.study, self.scores
        students = [(row.cohort, row.method) for row in self.rows if row.method not in UNTAUGHT]
        cohorts = list(dict.fromkeys(row.cohort for row in self.rows))
        trained, budgets = study.trained(*cohorts), study.params.budgets
        missing = [name for name in cohorts if name not in trained]
        printed = {dataset for row in self.rows for _, dataset in row.printed}

        each = ["cohort", "method"]
        tests = _tests(scores, "psnr_y")
        means = tests.groupby([*each, "dataset"])["value"].mean().groupby(each).mean().to_dict()
        behind: dict[str, dict[str, float]] = {}
        for cohort, method in students:
            gap = means.get((cohort, "bicubic"), nan) - means.get((cohort, method), nan)
            if gap > 0:
                behind.setdefault(cohort, {})[method] = gap

        counts = scores.groupby(each)["seed"].nunique().items()
        jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        text = jinja.from_string("\n\n".join(read_yaml("notes.yaml").values())).render(
            budget=study.budget.name,
            names=METHOD_NAMES,
            students=students,
            trained=trained,
            schedules=[
                [of.schedule(of.cohort(name)) for name in trained if name in dict(students)]
                for of in (study, replace(study, budget=budgets["paper"]))
            ],
            behind=behind,
            missing=missing,
            able=[
                n for n in sorted(budgets) if replace(study, budget=budgets[n]).trained(*missing)
            ],
            sets=[s for s in PAPER_SETS[:4] if s in printed.difference(test_sets(scores))],
            seeds={key: number for key, number in counts if key in students},
            untuned=dict.fromkeys(self.untuned),
            stopped={key: seeds for key, seeds in self.stopped.items() if key in students},
        )
        notes = [" ".join(note.split()) for note in text.split("\n\n") if note.strip()]
        return Markdown("\n".join(f"- {note}" for note in notes))  # type: ignore[no-untyped-call]

    def save(self) -> None:
        """Writes what was shown so far, tidy."""
        save_table(pd.concat(self._kept).set_index("table"), self.path)

    def _keep(self, frame: pd.DataFrame, kind: str, metric: str, **constants: str) -> str:
        """Keeps a table for ``save``; returns what it is called on the page."""
        name = f"{kind}_{metric}"
        self._kept.append(tidy(frame, table=name, metric=metric, **constants))
        return f"{self.name}_{name}"
