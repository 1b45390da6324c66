"""The pages of the paper's tables: rows of ours beside the paper's, and what is not run.

What tables and figures are made of: the paper's numbers beside ours.

What a reader must know of a budget's rows in a table: the notes at the foot of its page.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from augkd.errors import UserError
from augkd.study.ensure import ensure_scores
from augkd.study.paper import load_table, select
from augkd.study.params import Study, Training
from augkd.study.report.stats import LOWER_IS_BETTER, Gain, bootstrap_gain, differences, paired_gain
from augkd.study.report.style import DECIMALS, METHOD_NAMES, UNTAUGHT, paper_table

PAPER_SETS = ("Set5", "Set14", "B100", "Urban100", "RealSR", "DRealSR", "OST300")
COLUMNS = ["cohort", "method", "seed", "dataset", "split", "image", "metric", "value"]
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """A row of a table: a method in a cohort of ours, and what the paper prints of it.

    Attributes:
        cohort, method: in our scores; a method may be "bicubic" or "teacher".
        labels: the row's heading: its label on each level of the index.
        table: the paper's, or 0 where it has no such row.
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
        """The paper's numbers of the row by (metric, dataset)."""
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
    """Scores of those of the cohorts that the budget trains, made if need be; empty for none."""
    names = study.trained(*cohorts)
    if not names:
        return pd.DataFrame(columns=COLUMNS)
    ensure_scores(study, *names)
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


def values(scores: pd.DataFrame, rows: Sequence[Row], metric: str) -> pd.DataFrame:
    """Mean scores: paper, ours, and ours minus the paper's.

    Returns:
        A row each, labelled; columns (dataset, part). Of sets that are not at hand there is
        only the paper's part, of sets that the paper lacks only ours.
    """
    ours = _by_key(scores, metric)
    at_hand = test_sets(scores)
    frame: dict[tuple[str, str], list[Any]] = {}
    for name in _datasets(at_hand, rows, metric):
        for row in rows:
            part = ours.get(row.key)
            chosen = None if part is None else part.loc[part["dataset"] == name, "value"]
            mean = NAN if chosen is None or chosen.empty else float(chosen.mean())
            paper = row.printed.get((metric, name), NAN)
            _put(frame, name, paper=paper)
            if name in at_hand:
                _put(frame, name, ours=mean, difference=mean - paper)
    return _frame(frame, rows, "dataset")


def gains(scores: pd.DataFrame, rows: Sequence[Row], metric: str, reference: str) -> pd.DataFrame:
    """Gains over a reference, a test set a block: the paper's, and ours with its 95 % interval.

    Args:
        scores: of all cohorts that the rows and the reference name.
        reference: a method of each row's own cohort, or one "cohort/method" for all.

    Returns:
        As ``values``; parts paper, Δ (positive where the row is better) and interval. Δ is NaN
        where it was not run, None where a row is its own reference.
    """
    frame: dict[tuple[str, str], list[Any]] = {}
    printed, ours = {row.key: row for row in rows}, _by_key(scores, metric)
    for name in test_sets(scores):
        for row in rows:
            cell = _gain(ours, printed, row, reference, metric, [name], [name])
            _put(frame, name, **{part: cell[part] for part in ("paper", "Δ", "interval")})
    return _frame(frame, rows, "dataset")


def mean_gains(
    scores: pd.DataFrame, rows: Sequence[Row], metric: str, references: dict[str, str]
) -> pd.DataFrame:
    """Gains over several references in the mean over test sets, each set weighing the same.

    Ours is over all sets at hand, the paper's over its own.

    Args:
        references: as ``gains`` takes one, by the title of its block.

    Returns:
        As ``gains``, with blocks by reference, and difference (ours minus the paper's).
    """
    frame: dict[tuple[str, str], list[Any]] = {}
    printed, ours = {row.key: row for row in rows}, _by_key(scores, metric)
    at_hand = test_sets(scores)
    theirs = _datasets([], rows, metric)
    theirs = [s for s in theirs if all((metric, s) in row.printed for row in rows if row.table)]
    for title, reference in references.items():
        for row in rows:
            cell = _gain(ours, printed, row, reference, metric, at_hand, theirs)
            _put(frame, title, **cell)
    return _frame(frame, rows, "reference")


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
    groups = frame.index.get_level_values(level) if level else pd.Index([""] * len(frame))
    for position, column in enumerate(frame.columns):
        if column[-1] not in ("paper", "ours"):
            continue
        numbers = pd.to_numeric(frame.iloc[:, position]).round(DECIMALS[metric])
        for group in groups.unique():
            among = np.asarray(groups == group) & np.asarray(students)
            order = sorted(set(numbers[among].dropna()), reverse=metric not in LOWER_IS_BETTER)
            for place, mark in zip(order, ("best", "second"), strict=False):
                marks.iloc[np.flatnonzero(among & (numbers == place)), position] = mark
    return marks


def tidy(frame: pd.DataFrame, **constants: object) -> pd.DataFrame:
    """A shown table as tidy rows: a cell's block, its numbers, the ends of its interval apart."""
    rows = []
    titles = list(frame.index.names)
    block = str(frame.columns.names[0])
    for label, cells in zip(frame.index, frame.to_numpy(dtype=object), strict=True):
        heading = dict(zip(titles, label if isinstance(label, tuple) else (label,), strict=True))
        blocks: dict[str, dict[str, Any]] = {}
        for column, value in zip(frame.columns, cells, strict=True):
            name, part = str(column[0]), str(column[1])
            if part == "interval":
                low, high = (NAN, NAN) if value is None else value
                blocks.setdefault(name, {}).update(low=low, high=high)
            else:
                blocks.setdefault(name, {})["gain" if part == "Δ" else part] = value
        rows += [{**constants, **heading, block: name, **cell} for name, cell in blocks.items()]
    return pd.DataFrame(rows)


def similarity(scores: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Figure 2: PSNR to the teacher and to HR, on training and test images, by method.

    Returns:
        Rows (split, metric, method). mean: over images, then datasets, then seeds; gain, with
        its 95 % interval: over scratch; low, high: the mean of scratch plus that interval.
    """
    rows = {}
    for split in ("train", "test"):
        chosen = scores[scores["split"] == split]
        for metric in ("psnr_y_teacher", "psnr_y"):
            part = chosen[chosen["metric"] == metric]
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
    frame.index.names = ["split", "metric", "method"]
    return frame.sort_index()


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """A table as tidy CSV: the numbers that its page shows, for whoever wants them."""
    tidy = frame.copy()
    if isinstance(tidy.columns, pd.MultiIndex):
        tidy.columns = [" ".join(map(str, column)) for column in tidy.columns]
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy.reset_index().to_csv(path, index=False)


def _by_key(scores: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Test scores in one metric, by "cohort/method"."""
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == metric)]
    return {f"{c}/{m}": part for (c, m), part in chosen.groupby(["cohort", "method"], sort=False)}


def _datasets(at_hand: list[str], rows: Sequence[Row], metric: str) -> list[str]:
    """The sets at hand, then those that only the paper has."""
    printed = {dataset for row in rows for of, dataset in row.printed if of == metric}
    return at_hand + [name for name in PAPER_SETS if name in printed and name not in at_hand]


def _gain(
    ours: dict[str, pd.DataFrame],
    printed: dict[str, Row],
    row: Row,
    reference: str,
    metric: str,
    at_hand: list[str],
    theirs: list[str],
) -> dict[str, Any]:
    """The parts of a cell: the gain over the reference in the mean over sets."""
    key = row.over(reference)
    if key == row.key:
        return dict.fromkeys(("paper", "Δ", "interval", "difference"))
    other = printed[key].printed if key in printed else {}
    sign = -1 if metric in LOWER_IS_BETTER else 1
    each = [row.printed.get((metric, s), NAN) - other.get((metric, s), NAN) for s in theirs]
    paper = sign * float(np.mean(each)) if each else NAN
    gain = _measured(ours.get(row.key), ours.get(key), metric, at_hand)
    if gain is None:
        return {"paper": paper, "Δ": NAN, "interval": None, "difference": NAN}
    interval = (gain.low, gain.high)
    return {"paper": paper, "Δ": gain.mean, "interval": interval, "difference": gain.mean - paper}


def _measured(
    better: pd.DataFrame | None, worse: pd.DataFrame | None, metric: str, datasets: list[str]
) -> Gain | None:
    if better is None or worse is None:
        return None
    better, worse = (part[part["dataset"].isin(datasets)] for part in (better, worse))
    if better.empty or worse.empty:
        return None
    return bootstrap_gain(differences(better, worse, metric))


def _put(frame: dict[tuple[str, str], list[Any]], name: str, **parts: Any) -> None:
    for part, value in parts.items():
        frame.setdefault((name, part), []).append(value)


def _frame(
    columns: dict[tuple[str, str], list[Any]], rows: Sequence[Row], block: str
) -> pd.DataFrame:
    # as objects: None (does not apply) is not NaN (was not run)
    frame = pd.DataFrame(
        {place: pd.Series(cells, dtype=object) for place, cells in columns.items()}
    )
    # of a set that is not the paper's there is nothing to compare with
    kept = [c for c in columns if c[1] in ("Δ", "ours", "interval") or frame[c].notna().any()]
    frame = frame[kept]
    frame.columns = pd.MultiIndex.from_tuples(kept, names=[block, "part"])
    labels = pd.DataFrame([dict(row.labels) for row in rows])
    one = labels.shape[1] == 1
    frame.index = pd.Index(labels.iloc[:, 0]) if one else pd.MultiIndex.from_frame(labels)
    return frame


PAPER = "paper"  # the budget whose schedules are the paper's


def of_page(study: Study, rows: Sequence[Row], scores: pd.DataFrame) -> list[str]:
    """Sentences in Markdown, one thing each, of the students in ``rows``.

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


def _schedule(study: Study, cohorts: Iterable[str]) -> list[str]:
    """How long ours were trained, and the paper's."""
    paper = dataclasses.replace(study, budget=study.params.budgets[PAPER])
    pairs = {name: (study.cohort(name), paper.cohort(name)) for name in cohorts}
    ours = [study.schedule(own) for own, _ in pairs.values()]
    theirs = [paper.schedule(other) for _, other in pairs.values()]
    if not pairs or [_extent(t) for t in ours] == [_extent(t) for t in theirs]:
        return []
    return [
        f"Trained for {_steps(ours)} of {ours[0].batch} patches of {ours[0].patch} pixels (LR); "
        f"the paper's for {_steps(theirs)} of {theirs[0].batch} patches of {theirs[0].patch}. "
        "[Table 1](table_01.ipynb) has the sizes of the networks."
    ]


def _extent(training: Training) -> tuple[int, int, int]:
    return training.steps, training.batch, training.patch


def _steps(trainings: Iterable[Training]) -> str:
    steps = sorted({training.steps for training in trainings})
    return " to ".join(f"{number:,}" for number in sorted({steps[0], steps[-1]})) + " steps"


def _below_bicubic(study: Study, rows: Iterable[Row], scores: pd.DataFrame) -> list[str]:
    """Students that do not reach what needs no network: they have not learnt their task yet."""
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == "psnr_y")]
    means = chosen.groupby(["cohort", "method", "dataset"])["value"].mean()
    means = means.groupby(["cohort", "method"]).mean()
    behind: dict[str, list[str]] = {}
    for row in rows:
        key, bicubic = (row.cohort, row.method), (row.cohort, "bicubic")
        if key in means.index and bicubic in means.index and means[key] < means[bicubic]:
            gap = f"{METHOD_NAMES[row.method]} by {means[bicubic] - means[key]:.2f} dB"
            names = behind.setdefault(row.cohort, [])
            names.extend([gap] if gap not in names else [])
    if not behind:
        return []
    found = "; ".join(f"{', '.join(gaps)} in `{cohort}`" for cohort, gaps in behind.items())
    return [
        f"**Below bicubic enlargement** on the test images: {found}. Such a student has not "
        "learnt its task in the steps that it had: its row says how fast its method starts, not "
        "where it ends. Its validation curve is in the run that trained it "
        f"(`notebooks/distil.ipynb`). To come further: more steps, `budgets.{study.budget.name}"
        ".schedules` in `params.yaml`."
    ]


def _absent_rows(study: Study, rows: Sequence[Row], scores: pd.DataFrame) -> list[str]:
    lines = []
    cohorts = list(dict.fromkeys(row.cohort for row in rows))
    for cohort in study.trained(*cohorts):
        done = set(scores.loc[scores["cohort"] == cohort, "method"]) | set(UNTAUGHT)
        absent = [row for row in rows if row.cohort == cohort and row.method not in done]
        if absent:
            names = ", ".join(METHOD_NAMES[row.method] for row in absent)
            lines.append(
                f"{names}: not run in `{cohort}`. To run, name under `cohorts.{cohort}.methods` "
                "in `params.yaml`; the whole cohort is then trained again."
            )
    missing = [cohort for cohort in cohorts if cohort not in study.trained(cohort)]
    if missing:
        budgets = sorted(
            name
            for name, budget in study.params.budgets.items()
            if dataclasses.replace(study, budget=budget).trained(*missing)
        )
        how = " or ".join(f"`make repro BUDGET={name}`" for name in budgets)
        lines.append(
            f"Budget `{study.budget.name}` does not train {_listed(missing)}: "
            + (f"{how} does." if how else "no budget does; choose its group in `params.yaml`.")
        )
    return lines


def _absent_sets(rows: Sequence[Row], scores: pd.DataFrame) -> list[str]:
    printed = {dataset for row in rows for _, dataset in row.printed}
    absent = [s for s in PAPER_SETS[:4] if s in printed - set(test_sets(scores))]
    if not absent or scores.empty:
        return []
    return [
        f"{', '.join(absent)}: not at hand, so the paper stands alone there. Put the sets "
        "into `data/benchmarks` and `make repro`: students are scored again, not trained."
    ]


def _seeds(students: Iterable[Row], scores: pd.DataFrame) -> list[str]:
    """How many seeds the rows have: an interval over one says nothing of another training."""
    keys = scores["cohort"] + "/" + scores["method"]
    counts = scores["seed"].groupby(keys).nunique()
    wanted = {row.key for row in students}
    number = {str(key): int(n) for key, n in counts.items() if key in wanted}
    if not number:
        return []
    few, many = min(number.values()), max(number.values())
    text = f"{many} seed{'s' if many > 1 else ''} a method"
    if few < many:
        most = sorted({key.partition("/")[0] for key, n in number.items() if n == many})
        text = f"{few} to {many} seeds a method ({many} in {_listed(most)})"
    if few == 1:
        text += ". Where there is one, an interval is over images alone: it says nothing of "
        text += "another training of the same method"
    if many > 1:
        text += ". Seeds differ in initial weights alone: a cohort's students see the same batches"
        if alike := [key for key in _alike(scores, keys) if key in wanted]:
            names = ", ".join(f"{METHOD_NAMES[m]} in `{c}`" for c, _, m in map(_parts, alike))
            text += f". {names}: one training in fact, since no weight of its start is drawn"
    return [f"{text}."]


def _alike(scores: pd.DataFrame, keys: pd.Series) -> list[str]:
    """Students of several seeds that answer all the same, as those do that start from a teacher."""
    places = [
        keys.rename("key"),
        *(scores[name] for name in ("dataset", "split", "image", "metric")),
    ]
    found = scores["value"].groupby(places).agg(["count", "min", "max"])
    same = (found["count"] > 1) & (found["min"] == found["max"])
    every: pd.Series = same.groupby("key").all()
    return [str(key) for key in every.index[every]]


def _parts(key: str) -> tuple[str, str, str]:
    return key.partition("/")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


NETWORKS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
LABELS = {
    "Δ": "ours",
    "interval": "95 % interval",
    "difference": "ours − paper",
    "photographs": "package photographs",
}
EIGHT = "mean of 8"
RANKED = "Bold: best, underlined: second, by the mean alone."


class TablePage:
    """What the page of a table shows; all of it goes into runs/BUDGET/pages/NAME/table.csv.

    Args:
        study: whose budget is shown.
        name: of the page, e.g. "table_02".
        rows: students, in the order of the page.
        rank_by: the level of the rows' labels within which the best are marked; "" for all.
        called: titles of references that are not simply a method's name.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        rows: Sequence[Row],
        rank_by: str = "",
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.study, self.name, self.rows, self.rank_by = study, name, list(rows), rank_by
        self.called = METHOD_NAMES | dict(called or {})
        self.cohorts = list(dict.fromkeys(row.cohort for row in rows))
        self.scores = trained_scores(study, *self.cohorts)
        self.path = study.folder("pages", name) / "table.csv"
        self._shown: list[pd.DataFrame] = []

    def mean_gains(self, metric: str, *references: str, images_of: str = "") -> Styler:
        """Gains over methods of each row's cohort, or over "cohort/method", mean over sets.

        ``images_of``: a method that may have been scored on some images alone; over those.
        """
        titles = {f"gain over {self.called[name]}": name for name in references}
        scores = same_images(self.scores, images_of) if images_of else self.scores
        frame = mean_gains(scores, self.rows, metric, titles)
        shown = frame
        wide = len(references) > 2 or frame.index.nlevels > 2 or metric == "ssim_y"
        if wide:  # leaves no room for it; table.csv has it
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
        rows = rows or framed(self.rows)
        frame = values(self.scores, rows, metric)
        students = [row.method not in UNTAUGHT for row in rows]
        marks = ranks(frame, students, metric, self.rank_by)
        caption = RANKED if any(students) else ""
        return self._show(frame, f"values_{metric}", metric, caption=caption, marks=marks)

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


def framed(rows: Sequence[Row]) -> list[Row]:
    """The rows of each cohort between those of bicubic enlargement and of its teacher.

    Teachers of the paper's three networks are found in its Table 12.
    """
    result = []
    for cohort in dict.fromkeys(row.cohort for row in rows):
        own = [row for row in rows if row.cohort == cohort]
        first, last = ({**own[0].labels, "method": METHOD_NAMES[m]} for m in UNTAUGHT[:2])
        network, _, scale = cohort.partition("_x")
        table = 12 if scale.isdigit() and network in NETWORKS else 0
        keys = {"network": network, "scale": int(scale)} if table else {}
        teacher = Row(cohort, "teacher", last, table, keys)
        result += [Row(cohort, "bicubic", first), *own, teacher]
    return result


def backbone_rows(
    study: Study, network: str, table: int, extra: Mapping[str, str] | None = None
) -> list[Row]:
    """The rows of Tables 2, 3 and 10: every method at every scale, in the paper's order.

    Args:
        extra: methods that the table lacks, each with the one that it follows.
    """
    rows = []
    printed, more = load_table(table), dict(extra or {})
    for scale in (2, 3, 4):
        cohort = f"{network}_x{scale}"
        methods = list(printed.loc[printed["scale"] == scale, "method"].unique())
        for method, before in more.items():
            methods.insert(methods.index(before) + 1, method)
        for method in methods:
            labels = {"scale": f"×{scale}", "method": method_name(study, cohort, method)}
            keys = {"scale": scale, "method": method}
            rows.append(Row(cohort, method, labels, 0 if method in more else table, keys))
    return rows


def method_rows(study: Study, cohort: str, methods: Sequence[str], table: int) -> list[Row]:
    """Rows of methods of one cohort; the paper's are found by their method alone."""
    printed = set(load_table(table)["method"])
    return [
        Row(
            cohort,
            method,
            {"method": method_name(study, cohort, method)},
            table if method in printed else 0,
            {"method": method},
        )
        for method in methods
    ]


def method_name(study: Study, cohort: str, method: str) -> str:
    """What a method is called in a cohort: CSD is a variant where it has no VGG19."""
    if method == "csd" and study.cohort(cohort).methods.get(method, {}).get("vgg"):
        return "CSD"
    return METHOD_NAMES[method]


def heterogeneous_rows() -> list[Row]:
    """Table 4: RCAN students by their teacher. The paper's own-architecture rows are Table 3's."""
    labels = {"teacher": "none", "method": METHOD_NAMES["scratch"]}
    rows = [Row("rcan_x4", "scratch", labels, 4, {"method": "scratch"})]
    for teacher, name in NETWORKS.items():
        own = teacher == "rcan"
        cohort = "rcan_x4" if own else f"rcan_x4_from_{teacher}"
        for method in ("kd", "augkd"):
            labels = {"teacher": name, "method": METHOD_NAMES[method]}
            keys = {"method": method, **({"scale": 4} if own else {"teacher": teacher})}
            table = 3 if own else 4 if method == "augkd" else 0
            rows.append(Row(cohort, method, labels, table, keys))
    return rows


def heterogeneous_teachers() -> list[Row]:
    """Table 4's three teachers, the paper's from Table 12."""
    return [
        Row(
            "rcan_x4" if network == "rcan" else f"rcan_x4_from_{network}",
            "teacher",
            {"teacher": name, "method": "the teacher itself"},
            12,
            {"network": network, "scale": 4},
        )
        for network, name in NETWORKS.items()
    ]


def real_world_rows(study: Study, ends: bool = False) -> list[Row]:
    """Table 5's students; with ``ends`` bicubic enlargement and the teacher before them."""
    methods = [*UNTAUGHT[: 2 * ends], "scratch", "kd", "augkd"]
    return method_rows(study, "real_x4", methods, 5)


def real_test_note(study: Study) -> str:
    """What Table 5's students are tested on, as Markdown."""
    datasets = study.budget.images.datasets
    if datasets and datasets.real:
        absent = [name for name in PAPER_SETS[4:] if name not in datasets.real]
        lacking = f" This budget does without {', '.join(absent)}." if absent else ""
        return (
            f"**The test images** are those of {', '.join(datasets.real)}, enlarged as they are. "
            "PSNR and SSIM are against photographs at a longer focal length, where the set has "
            f"any: OST300 has none.{lacking}"
        )
    return (
        "**The test images are not the paper's.** RealSR, DRealSR and OST300 are not at hand. In "
        "their place stand the packages' test photographs, degraded by BSRGAN's random blur, "
        "noise, reduction and JPEG with a fixed seed, the kind of degradation that the students "
        "were trained on. Since their HR is known, PSNR and SSIM can be had too."
    )


def expansion_rows(study: Study, counts: Mapping[str, int]) -> list[Row]:
    """Table 9: students of fewer and of more images, with how many, and of how many steps.

    Args:
        counts: how many training images were prepared, by dataset.
    """
    rows = []
    printed = load_table(9)
    for cohort, training_set in (("unexpanded_x4", "div2k"), ("expanded_x4", "df2k")):
        own = study.cohort(cohort)
        theirs = printed[printed["training_set"] == training_set]
        size = theirs.set_index("metric")["value"]
        datasets, limit = study.training_set(own)
        at_hand = sum(counts[name] for name in datasets or counts)
        images = min(limit or at_hand, at_hand)
        labels = {
            "images (paper)": f"{images} ({size['training_images']:,.0f})",
            "steps (paper)": f"{study.schedule(own).steps:,} ({size['training_steps']:,.0f})",
        }
        for method in ("scratch", "kd", "augkd"):
            rows.append(
                Row(
                    cohort,
                    method,
                    {**labels, "method": METHOD_NAMES[method]},
                    9 if method in set(theirs["method"]) else 0,
                    {"training_set": training_set, "method": method},
                )
            )
    return rows


def evaluated_teachers() -> list[Row]:
    """Table 12: each teacher by one pass and by eight. The paper does not say which is its own."""
    rows = []
    for scale in (2, 3, 4):
        for network, name in NETWORKS.items():
            keys = {"network": network, "scale": scale}
            for method, evaluation in (("teacher", "single pass"), ("teacher_ensemble", EIGHT)):
                labels = {"scale": f"×{scale}", "network": name, "evaluation": evaluation}
                table = 12 if method == "teacher" else 0
                rows.append(Row(f"{network}_x{scale}", method, labels, table, keys))
    return rows


def published_teachers() -> pd.DataFrame:
    """The paper's teachers among published figures of the same networks: PSNR-Y in dB.

    Returns:
        Columns scale, network, evaluation, the paper's four sets, their mean, by how much the
        paper's mean (Table 12) is above it, and source.
    """
    paper = load_table(12).assign(evaluation="Table 12", source="the paper")
    with files("augkd.study.paper").joinpath("external.csv").open(encoding="utf-8") as file:
        external = pd.read_csv(file)
    external = external[(external["method"] == "teacher") & external["network"].isin(NETWORKS)]
    evaluations = {"single_pass": "single pass", "self_ensemble": EIGHT}
    external = external.assign(evaluation=external["evaluation"].map(evaluations))
    both = pd.concat([paper, external], ignore_index=True)
    both = both[both["metric"] == "psnr_y"].astype({"scale": int})
    keys = ["scale", "network", "evaluation", "source"]
    wide = both.pivot_table(index=keys, columns="dataset", values="value", sort=False)
    wide = wide[list(PAPER_SETS[:4])].dropna().sort_index(level=[0, 1], sort_remaining=False)
    wide["mean"] = wide.mean(axis=1)
    own = wide["mean"].xs("the paper", level="source").droplevel("evaluation")
    frame = wide.reset_index().rename_axis(columns=None)
    above = frame.join(own.rename("own"), on=["scale", "network"])["own"] - frame["mean"]
    frame["paper above it"] = above.mask(frame["source"] == "the paper")
    frame["scale"] = [f"×{scale}" for scale in frame["scale"]]
    frame["network"] = frame["network"].map(NETWORKS)
    return frame[[column for column in frame if column != "source"] + ["source"]]


def million_parameters(study: Study, network: str, scale: int) -> pd.DataFrame:
    """Millions of parameters of the paper's pair and of the budget's: rows roles."""
    from augkd.models import create_model
    from augkd.study.cost.passes import parameters

    sizes = study.budget.networks.get(network, {})
    return pd.DataFrame(
        {
            role: {
                "paper": parameters(create_model(network, role, scale)) / 1e6,
                "ours": parameters(create_model(network, scale=scale, **sizes[role])) / 1e6
                if role in sizes
                else float("nan"),
            }
            for role in ("teacher", "student")
        }
    ).T.rename_axis("network")
