"""Pages of tables: the paper's rows beside ours, and what a reader must know of a budget's.

Which rows a page has is data: rows.yaml.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from augkd.errors import UserError
from augkd.study.paper import external, load_table, select
from augkd.study.params import Study
from augkd.study.pipeline.stage import need
from augkd.study.report.stats import LOWER_IS_BETTER, bootstrap_gain, differences, paired_gain
from augkd.study.report.style import DECIMALS, METHOD_NAMES, UNTAUGHT, paper_table

PAPER_SETS = ("Set5", "Set14", "B100", "Urban100", "RealSR", "DRealSR", "OST300")
COLUMNS = ["cohort", "method", "seed", "dataset", "split", "image", "metric", "value"]
NETWORKS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
LABELS = {
    "Δ": "ours",
    "interval": "95 % interval",
    "difference": "ours − paper",
    "photographs": "package photographs",
}
NAN = float("nan")

# --- scores


def load_scores(study: Study, *cohorts: str) -> pd.DataFrame:
    """Per-image scores of the named cohorts, or of all that were scored, under one another.

    Raises:
        UserError: nothing was scored yet.
    """
    files = [study.scores(cohort) for cohort in cohorts or study.trained()]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        where = missing[0] if missing else study.folder("score")
        raise UserError(f"{where}: no scores yet: run make repro BUDGET={study.budget.name}")
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)


def trained_scores(study: Study, *cohorts: str) -> pd.DataFrame:
    """Scores of those of the cohorts that the budget trains; empty for none."""
    names = study.trained(*cohorts)
    if not names:
        return pd.DataFrame(columns=COLUMNS)
    for group in dict.fromkeys(map(study.group, names)):
        need(study, "score", group)
    return load_scores(study, *names)


def test_sets(scores: pd.DataFrame) -> list[str]:
    """The test sets at hand: the packages' photographs first, then the paper's, then others."""
    found = set(scores.loc[scores["split"] == "test", "dataset"])
    known = [name for name in ("photographs", *PAPER_SETS) if name in found]
    return known + sorted(found - set(known))


def same_images(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """Scores on the images that ``method`` was scored on, of its cohorts."""
    keys = ["cohort", "dataset", "image"]
    own = scores.loc[scores["method"] == method, keys].drop_duplicates()
    return scores.merge(own, on=keys)


def similarity(scores: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Figure 2: PSNR to the teacher and to HR, on training and test images, by method.

    Returns:
        Rows (split, metric, method). mean: over images, then datasets, then seeds; gain, with
        its 95 % interval: over scratch; low, high: the mean of scratch plus that interval.
    """
    rows = {}
    for split, metric in product(("train", "test"), ("psnr_y_teacher", "psnr_y")):
        part = scores[(scores["split"] == split) & (scores["metric"] == metric)]
        mean = part.groupby(["method", "dataset"])["value"].mean().groupby("method").mean()
        for method in methods:
            gain = paired_gain(part, method, "scratch", metric)
            rows[split, metric, method] = {
                "mean": mean[method],
                "low": mean["scratch"] + gain.low,
                "high": mean["scratch"] + gain.high,
                "gain": gain.mean,
                "gain low": gain.low,
                "gain high": gain.high,
            }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.rename_axis(["split", "metric", "method"]).sort_index()


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """A table as tidy CSV: the numbers that its page shows, for whoever wants them."""
    if isinstance(frame.columns, pd.MultiIndex):
        titles = [" ".join(map(str, column)) for column in frame.columns]
        frame = frame.set_axis(titles, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.reset_index().to_csv(path, index=False)


# --- rows


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
    labels: Mapping[str, str]
    table: int = 0
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.cohort}/{self.method}"

    @cached_property
    def printed(self) -> dict[tuple[str, str], float]:
        """The paper's numbers of the row by (metric, dataset); none where it has no such row."""
        if not self.table:
            return {}
        found = select(load_table(self.table), **self.keys)
        keys = list(zip(found["metric"], found["dataset"], strict=True))
        if len(set(keys)) < len(keys):
            raise ValueError(f"{self.key}: {self.keys} name several rows of Table {self.table}")
        return dict(zip(keys, found["value"].astype(float), strict=True))

    def over(self, reference: str) -> str:
        """The key of what the row is compared with: "kd" is that of its own cohort."""
        return reference if "/" in reference else f"{self.cohort}/{reference}"


def page_rows(study: Study, page: str) -> list[Row]:
    """The rows of a page, as rows.yaml has them."""
    text = files(__package__).joinpath("rows.yaml").read_text(encoding="utf-8")
    blocks = [dict(block) for block in yaml.safe_load(text)[page]]
    return [
        row
        for block in blocks
        for cohort in block.pop("cohorts")
        for row in method_rows(study, cohort, **block)
    ]


def method_rows(
    study: Study,
    cohort: str,
    methods: Iterable[str] | Mapping[str, str],
    table: int = 0,
    labels: Mapping[str, str] | None = None,
    keys: Mapping[str, Any] | None = None,
    level: str = "method",
) -> list[Row]:
    """Rows of methods of one cohort: see rows.yaml for the arguments."""
    own = study.cohort(cohort)
    names = {"scale": own.scale, "network": NETWORKS.get(own.network, own.network)}
    heads = {title: label.format(**names) for title, label in (labels or {}).items()}
    place = {"network": own.network, "scale": own.scale, **(keys or {})}
    if not isinstance(methods, Mapping):
        # CSD is a variant where it has no VGG19
        published = {"csd": "CSD"} if own.methods.get("csd", {}).get("vgg") else {}
        methods = {method: (METHOD_NAMES | published)[method] for method in methods}
    return [
        Row(cohort, method, {**heads, level: name}, table, {**place, "method": method})
        for method, name in methods.items()
    ]


def framed(study: Study, rows: Sequence[Row]) -> list[Row]:
    """The rows of each cohort between those of bicubic enlargement and of its teacher.

    Teachers of the paper's three networks are found in its Table 12.
    """
    result = []
    for cohort in dict.fromkeys(row.cohort for row in rows):
        own = [row for row in rows if row.cohort == cohort]
        table = 12 if study.group(cohort) in NETWORKS else 0
        ends = method_rows(study, cohort, UNTAUGHT[:2], table)
        first, last = (replace(end, labels={**own[0].labels, **end.labels}) for end in ends)
        result += [first, *own, last]
    return result


def expansion_rows(study: Study, counts: Mapping[str, int]) -> list[Row]:
    """Table 9's rows, headed by how many images there were and steps were taken.

    Args:
        counts: how many training images were prepared, by dataset.
    """
    rows = []
    for row in page_rows(study, "table_09"):
        own = study.cohort(row.cohort)
        printed = select(load_table(9), training_set=row.keys["training_set"])
        paper = printed.drop_duplicates("metric").set_index("metric")["value"]
        datasets, limit = study.training_set(own)
        at_hand = sum(counts.get(name, 0) for name in datasets or counts)
        labels = {
            "images (paper)": f"{min(limit or at_hand, at_hand)} ({paper['training_images']:,.0f})",
            "steps (paper)": f"{study.schedule(own).steps:,} ({paper['training_steps']:,.0f})",
        }
        rows.append(replace(row, labels={**labels, **row.labels}))
    return rows


def published_teachers() -> pd.DataFrame:
    """The paper's teachers among published figures of the same networks: PSNR-Y in dB.

    Returns:
        Columns scale, network, evaluation, the paper's four sets, their mean, by how much the
        paper's mean (Table 12) is above it, and source.
    """
    paper = load_table(12).assign(evaluation="Table 12", source="the paper")
    others = external().query("method == 'teacher' and network in @NETWORKS")
    both = pd.concat([paper, others]).query("metric == 'psnr_y'").astype({"scale": int})
    both = both.replace({"single_pass": "single pass", "self_ensemble": "mean of 8"})
    keys = ["scale", "network", "evaluation", "source"]
    wide = both.pivot_table(index=keys, columns="dataset", values="value", sort=False)
    wide = wide[list(PAPER_SETS[:4])].dropna().sort_index(level=[0, 1], sort_remaining=False)
    wide["mean"] = wide.mean(axis=1)
    frame = wide.reset_index().rename_axis(columns=None)
    theirs = frame["source"] == "the paper"
    own = frame["mean"].where(theirs).groupby([frame["scale"], frame["network"]]).transform("max")
    frame["paper above it"] = (own - frame["mean"]).mask(theirs)
    frame["scale"] = [f"×{scale}" for scale in frame["scale"]]
    frame["network"] = frame["network"].map(NETWORKS)
    return frame.assign(source=frame.pop("source"))


# --- numbers


def values(scores: pd.DataFrame, rows: Sequence[Row], metric: str) -> pd.DataFrame:
    """Mean scores: paper, ours, and ours minus the paper's.

    Returns:
        A row each, labelled; columns (dataset, part). Of sets that are not at hand there is
        only the paper's part, of sets that the paper lacks only ours.
    """
    ours, at_hand = _by_key(scores, metric), test_sets(scores)

    def cell(row: Row, dataset: str) -> dict[str, Any]:
        paper = row.printed.get((metric, dataset), NAN)
        if dataset not in at_hand:
            return {"paper": paper}
        mean = float(_of_sets(ours.get(row.key), [dataset])["value"].mean())
        return {"paper": paper, "ours": mean, "difference": mean - paper}

    return _frame(rows, "dataset", [*at_hand, *_printed_sets(rows, metric, at_hand)], cell)


def gains(scores: pd.DataFrame, rows: Sequence[Row], metric: str, reference: str) -> pd.DataFrame:
    """Gains over a reference, a test set a block: the paper's, and ours with its 95 % interval.

    Args:
        scores: of all cohorts that the rows and the reference name.
        reference: a method of each row's own cohort, or one "cohort/method" for all.

    Returns:
        As ``values``; parts paper, Δ (positive where the row is better) and interval. Δ is NaN
        where it was not run, None where a row is its own reference.
    """
    compared = {name: (reference, [name], [name]) for name in test_sets(scores)}
    frame = _gains(scores, rows, metric, "dataset", compared)
    return frame.drop(columns="difference", level="part", errors="ignore")


def mean_gains(
    scores: pd.DataFrame, rows: Sequence[Row], metric: str, references: Mapping[str, str]
) -> pd.DataFrame:
    """Gains over several references in the mean over test sets, each set weighing the same.

    Ours is over all sets at hand, the paper's over its own.

    Args:
        references: as ``gains`` takes one, by the title of its block.

    Returns:
        As ``gains``, with blocks by reference, and difference (ours minus the paper's).
    """
    at_hand, printed = test_sets(scores), [row.printed for row in rows if row.printed]
    theirs = [s for s in _printed_sets(rows, metric) if all((metric, s) in of for of in printed)]
    compared = {title: (name, at_hand, theirs) for title, name in references.items()}
    return _gains(scores, rows, metric, "reference", compared)


def ranks(frame: pd.DataFrame, students: Sequence[bool], metric: str, level: str) -> pd.DataFrame:
    """Which of the printed and of our values are best and second, as the paper marks them.

    Compared as they are shown, so that equal ones share a place.

    Args:
        frame: of ``values``.
        students: whether a row takes part; bicubic and teachers do not.
        level: of the index, within whose labels rows compete; "" for all together.

    Returns:
        A frame of the same shape: "best", "second" or "".
    """
    marks = pd.DataFrame("", index=frame.index, columns=frame.columns)
    groups = list(frame.index.get_level_values(level)) if level else [""] * len(frame)
    for position, column in enumerate(frame.columns):
        if column[-1] in ("paper", "ours"):
            numbers = pd.Series(frame.iloc[:, position].to_numpy(dtype=float))
            numbers = numbers.round(DECIMALS[metric]).where(pd.Series(students))
            upwards = metric in LOWER_IS_BETTER
            places = numbers.groupby(groups).rank(method="dense", ascending=upwards)
            marks.isetitem(position, places.map({1: "best", 2: "second"}).fillna("").to_list())
    return marks


def tidy(frame: pd.DataFrame, **constants: str) -> pd.DataFrame:
    """A shown table as tidy rows: a cell's block, its numbers, the ends of its interval apart."""
    rows = pd.DataFrame(frame.stack(0, future_stack=True)).rename(columns={"Δ": "gain"})
    if "interval" in rows:
        place, interval = list(rows).index("interval"), rows.pop("interval").str
        rows.insert(place, "low", interval[0])
        rows.insert(place + 1, "high", interval[1])
    rows = rows.rename_axis(columns=None).reset_index()
    for place, (name, value) in enumerate(constants.items()):
        rows.insert(place, name, value)
    return rows


def _by_key(scores: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Test scores in one metric, by "cohort/method"."""
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == metric)]
    return {f"{c}/{m}": part for (c, m), part in chosen.groupby(["cohort", "method"], sort=False)}


def _of_sets(scores: pd.DataFrame | None, datasets: Sequence[str]) -> pd.DataFrame:
    if scores is None:
        return pd.DataFrame(columns=COLUMNS)
    return scores[scores["dataset"].isin(datasets)]


def _printed_sets(rows: Sequence[Row], metric: str, but: Sequence[str] = ()) -> list[str]:
    """The sets on which the paper has the rows, in its order."""
    printed = {dataset for row in rows for of, dataset in row.printed if of == metric}
    return [name for name in PAPER_SETS if name in printed and name not in but]


def _gains(
    scores: pd.DataFrame,
    rows: Sequence[Row],
    metric: str,
    block: str,
    compared: Mapping[str, tuple[str, list[str], list[str]]],
) -> pd.DataFrame:
    """``compared``: of each block its reference, and the sets of ours and of the paper's."""
    ours, printed = _by_key(scores, metric), {row.key: row.printed for row in rows}
    sign = -1 if metric in LOWER_IS_BETTER else 1

    def cell(row: Row, title: str) -> dict[str, Any]:
        reference, at_hand, theirs = compared[title]
        other = row.over(reference)
        if other == row.key:
            return dict.fromkeys(("paper", "Δ", "interval", "difference"))
        found, over = row.printed, printed.get(other, {})
        each = [found.get((metric, s), NAN) - over.get((metric, s), NAN) for s in theirs]
        paper = sign * float(np.mean(each or [NAN]))
        better, worse = (_of_sets(ours.get(key), at_hand) for key in (row.key, other))
        if better.empty or worse.empty:
            return {"paper": paper, "Δ": NAN, "interval": None, "difference": NAN}
        gain = bootstrap_gain(differences(better, worse, metric))
        interval, difference = (gain.low, gain.high), gain.mean - paper
        return {"paper": paper, "Δ": gain.mean, "interval": interval, "difference": difference}

    return _frame(rows, block, compared, cell)


def _frame(
    rows: Sequence[Row],
    block: str,
    names: Iterable[str],
    cell: Callable[[Row, str], dict[str, Any]],
) -> pd.DataFrame:
    """The cells of rows, a block a name, their parts side by side."""
    columns = {}
    for name in names:
        cells = [cell(row, name) for row in rows]
        for part in cells[0]:
            # as objects: None (does not apply) is not NaN (was not run)
            column = pd.Series([one[part] for one in cells], dtype=object)
            # of a set that is not the paper's there is nothing to compare with
            if part in ("Δ", "ours", "interval") or column.notna().any():
                columns[name, part] = column
    frame = pd.DataFrame(columns)
    frame.columns = pd.MultiIndex.from_tuples(columns, names=[block, "part"])
    labels = pd.DataFrame([dict(row.labels) for row in rows])
    one = labels.shape[1] == 1
    frame.index = pd.Index(labels.iloc[:, 0]) if one else pd.MultiIndex.from_frame(labels)
    return frame


# --- notes


def of_page(study: Study, rows: Sequence[Row], scores: pd.DataFrame) -> list[str]:
    """What a reader must know of this budget's rows: sentences in Markdown, one thing each.

    Args:
        scores: per image, of the cohorts that the budget trains.
    """
    students = [row for row in rows if row.method not in UNTAUGHT]
    trained = study.trained(*dict.fromkeys(row.cohort for row in students)) if students else ()
    return [
        *_schedule(study, trained),
        *_below_bicubic(study, students, scores),
        *_absent_rows(study, rows, scores),
        *_absent_sets(rows, scores),
        *_seeds(students, scores),
    ]


def _schedule(study: Study, cohorts: Sequence[str]) -> Iterator[str]:
    """How long ours were trained, and the paper's."""

    def said(of: Study) -> str:
        trainings = [of.schedule(of.cohort(name)) for name in cohorts]
        steps = sorted({training.steps for training in trainings})
        number = " to ".join(f"{n:,}" for n in dict.fromkeys((steps[0], steps[-1])))
        return f"{number} steps of {trainings[0].batch} patches of {trainings[0].patch}"

    paper = replace(study, budget=study.params.budgets["paper"])
    if cohorts and said(study) != said(paper):
        yield (
            f"Trained for {said(study)} pixels (LR); the paper's for {said(paper)}. "
            "[Table 1](table_01.ipynb) has the sizes of the networks."
        )


def _below_bicubic(study: Study, rows: Iterable[Row], scores: pd.DataFrame) -> Iterator[str]:
    """Students that do not reach what needs no network: they have not learnt their task yet."""
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == "psnr_y")]
    means = chosen.groupby(["cohort", "method", "dataset"])["value"].mean()
    mean = means.groupby(["cohort", "method"]).mean().to_dict()
    behind: dict[str, dict[str, None]] = {}
    for row in rows:
        gap = mean.get((row.cohort, "bicubic"), NAN) - mean.get((row.cohort, row.method), NAN)
        if gap > 0:
            student = f"{METHOD_NAMES[row.method]} by {gap:.2f} dB"
            behind.setdefault(row.cohort, {})[student] = None
    if behind:
        found = "; ".join(f"{', '.join(gaps)} in `{cohort}`" for cohort, gaps in behind.items())
        yield (
            f"**Below bicubic enlargement** on the test images: {found}. Such a student has not "
            "learnt its task in the steps that it had: its row says how fast its method starts, "
            "not where it ends. Its validation curve is in the run that trained it "
            "(`notebooks/distil.ipynb`). To come further: more steps, "
            f"`budgets.{study.budget.name}.schedules` in `params.yaml`."
        )


def _absent_rows(study: Study, rows: Sequence[Row], scores: pd.DataFrame) -> Iterator[str]:
    cohorts = list(dict.fromkeys(row.cohort for row in rows))
    trained = study.trained(*cohorts)
    for cohort in trained:
        done = {*scores.loc[scores["cohort"] == cohort, "method"], *UNTAUGHT}
        absent = [row.method for row in rows if row.cohort == cohort and row.method not in done]
        if absent:
            yield (
                f"{', '.join(METHOD_NAMES[method] for method in absent)}: not run in `{cohort}`. "
                f"To run, name under `cohorts.{cohort}.methods` in `params.yaml`; the whole "
                "cohort is then trained again."
            )
    if missing := [cohort for cohort in cohorts if cohort not in trained]:
        others = study.params.budgets.items()
        able = [n for n, b in others if replace(study, budget=b).trained(*missing)]
        how = " or ".join(f"`make repro BUDGET={name}`" for name in sorted(able))
        yield (
            f"Budget `{study.budget.name}` does not train {_listed(missing)}: "
            + (f"{how} does." if how else "no budget does; choose its group in `params.yaml`.")
        )


def _absent_sets(rows: Sequence[Row], scores: pd.DataFrame) -> Iterator[str]:
    printed = {dataset for row in rows for _, dataset in row.printed}
    absent = [s for s in PAPER_SETS[:4] if s in printed - set(test_sets(scores))]
    if absent and not scores.empty:
        yield (
            f"{', '.join(absent)}: not at hand, so the paper stands alone there. Put the sets "
            "into `data/benchmarks` and `make repro`: students are scored again, not trained."
        )


def _seeds(students: Iterable[Row], scores: pd.DataFrame) -> Iterator[str]:
    """How many seeds the rows have: an interval over one says nothing of another training."""
    wanted = {(row.cohort, row.method) for row in students}
    counts = scores.groupby(["cohort", "method"])["seed"].nunique().to_dict()
    number = {key: n for key, n in counts.items() if key in wanted}
    if not number:
        return
    few, many = min(number.values()), max(number.values())
    text = f"{many} seed{'s' if many > 1 else ''} a method"
    if few < many:
        most = sorted({cohort for (cohort, _), n in number.items() if n == many})
        text = f"{few} to {many} seeds a method ({many} in {_listed(most)})"
    if few == 1:
        text += ". Where there is one, an interval is over images alone: it says nothing of "
        text += "another training of the same method"
    if many > 1:
        text += ". Seeds differ in initial weights alone: a cohort's students see the same batches"
        # students of several seeds that answer all the same: they start from a teacher's weights
        place = ["cohort", "method", "dataset", "split", "image", "metric"]
        found = scores.groupby(place)["value"].agg(["count", "min", "max"])
        same = (found["count"] > 1) & (found["min"] == found["max"])
        alike = same.groupby(["cohort", "method"]).all().to_dict()
        names = [f"{METHOD_NAMES[m]} in `{c}`" for c, m in sorted(wanted) if alike.get((c, m))]
        if names:
            text += f". {', '.join(names)}: one training in fact, since no weight of its start is "
            text += "drawn"
    yield f"{text}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- pages


class TablePage:
    """What the page of a table shows; all of it goes into runs/BUDGET/pages/NAME/table.csv.

    Args:
        study: whose budget is shown.
        name: of the page, e.g. "table_02".
        rows: students, in the order of the page; those of rows.yaml if there are none.
        rank_by: the level of the rows' labels within which the best are marked; "" for all.
        called: titles of references that are not simply a method's name.

    Attributes:
        scores: of the rows' cohorts, a row an image: see ``COLUMNS``.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        rows: Sequence[Row] = (),
        rank_by: str = "",
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.study, self.name, self.rank_by = study, name, rank_by
        self.rows = list(rows) or page_rows(study, name)
        self.called = METHOD_NAMES | dict(called or {})
        self.scores = trained_scores(study, *dict.fromkeys(row.cohort for row in self.rows))
        self.path = study.page(name) / "table.csv"
        self._shown: list[pd.DataFrame] = []

    def mean_gains(self, metric: str, *references: str, images_of: str = "") -> Styler:
        """Gains over methods of each row's cohort, or over "cohort/method", mean over sets.

        ``images_of``: a method that may have been scored on some images alone; over those.
        """
        titles = {f"gain over {self.called[name]}": name for name in references}
        scores = same_images(self.scores, images_of) if images_of else self.scores
        frame = shown = mean_gains(scores, self.rows, metric, titles)
        if len(references) > 2 or frame.index.nlevels > 2 or metric == "ssim_y":
            # no room for it; table.csv has it
            shown = frame.drop(columns="difference", level="part", errors="ignore")
        return self._show(frame, f"mean_gains_{metric}", metric, shown=shown, dataset="mean")

    def gains(self, metric: str, reference: str) -> Styler:
        """Gains over one of them, set by set."""
        frame = gains(self.scores, self.rows, metric, reference)
        if frame.empty:  # no set was scored
            return self.mean_gains(metric, reference)
        over = f"gain over {self.called[reference]}"
        return self._show(frame, f"gains_{metric}", metric, reference=over)

    def values(self, metric: str, rows: Sequence[Row] = ()) -> Styler:
        """Mean scores, set by set: of ``rows``, or of the page's with those that frame them."""
        rows = rows or framed(self.study, self.rows)
        frame = values(self.scores, rows, metric)
        students = [row.method not in UNTAUGHT for row in rows]
        marks = ranks(frame, students, metric, self.rank_by)
        caption = "Bold: best, underlined: second, by the mean alone." if any(students) else ""
        return self._show(frame, f"values_{metric}", metric, caption, marks)

    def notes(self) -> Markdown:
        """What a reader must know of this budget, each thing in a sentence."""
        lines = of_page(self.study, self.rows, self.scores)
        return Markdown("\n".join(f"- {line}" for line in lines))  # type: ignore[no-untyped-call]

    def save(self) -> None:
        """Writes what was shown so far, tidy."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(self._shown, ignore_index=True).to_csv(self.path, index=False)

    def _show(
        self,
        frame: pd.DataFrame,
        name: str,
        metric: str,
        caption: str = "",
        marks: pd.DataFrame | None = None,
        shown: pd.DataFrame | None = None,
        **constants: str,
    ) -> Styler:
        self._shown.append(tidy(frame, table=name, metric=metric, **constants))
        frame = frame if shown is None else shown
        return paper_table(frame, f"{self.name}_{name}", metric, caption, LABELS, marks)
