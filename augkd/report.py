"""What tables and figures are made of: the paper's numbers beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from augkd.config import Study
from augkd.ensure import ensure_scores
from augkd.errors import UserError
from augkd.paper import load_table, select
from augkd.stats import LOWER_IS_BETTER, Gain, bootstrap_gain, differences, paired_gain
from augkd.style import DECIMALS

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
        keys: that name the row's numbers in it, as ``augkd.paper.select`` takes them.
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
