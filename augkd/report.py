"""What tables and figures are made of: the paper's numbers beside ours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from augkd.config import Study
from augkd.errors import UserError
from augkd.paper import load_table, select
from augkd.stats import paired_gain
from augkd.style import METHOD_NAMES

PAPER_SETS = ("Set5", "Set14", "B100", "Urban100")


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


def test_sets(scores: pd.DataFrame) -> list[str]:
    """The test sets at hand: the packages' photographs first, then the paper's, then others."""
    found = set(scores.loc[scores["split"] == "test", "dataset"])
    known = [name for name in ("photographs", *PAPER_SETS) if name in found]
    return known + sorted(found - set(known))


def values(
    scores: pd.DataFrame, table: int, metric: str, rows: Sequence[tuple[int | None, str]]
) -> pd.DataFrame:
    """Mean scores: paper, ours, and ours minus the paper's.

    Args:
        scores: test scores of one network.
        table: number of the paper's table.
        rows: (scale, method); scale None where the paper's table states none.

    Returns:
        Rows (scale, method); columns (dataset, part) of the sets that we or the paper have.
    """
    scores = scores[(scores["split"] == "test") & (scores["metric"] == metric)]
    printed = load_table(table)
    sets = test_sets(scores)
    sets += [s for s in PAPER_SETS if s not in sets and (printed["dataset"] == s).any()]
    frame: dict[tuple[str, str], dict[tuple[int | None, str], object]] = {}
    for dataset in sets:
        for scale, method in rows:
            ours = _mean(scores, scale, method, dataset)
            paper = _printed(printed, metric, scale, method, dataset)
            cell = {"paper": paper, "ours": ours, "difference": ours - paper}
            for part, value in cell.items():
                frame.setdefault((dataset, part), {})[scale, method] = value
    return _frame(frame)


def gains(
    scores: pd.DataFrame,
    table: int,
    metric: str,
    reference: str,
    rows: Sequence[tuple[int | None, str]],
) -> pd.DataFrame:
    """Gains over a reference method: the paper's, ours with its 95 % interval, the difference.

    The first block of columns, "mean", is over all sets at hand (the paper's: over its own).
    """
    scores = scores[(scores["split"] == "test") & (scores["metric"] == metric)]
    printed = load_table(table)
    sets = test_sets(scores)
    printed_sets = [s for s in PAPER_SETS if (printed["dataset"] == s).any()]
    frame: dict[tuple[str, str], dict[tuple[int | None, str], object]] = {}
    for name in ("mean", *sets):
        ours_of = sets if name == "mean" else [name]
        paper_of = printed_sets if name == "mean" else [name]
        for scale, method in rows:
            at_scale = scores if scale is None else scores[scores["scale"] == scale]
            chosen = at_scale[at_scale["dataset"].isin(ours_of)]
            gain = paired_gain(chosen, method, reference, metric)
            paper = float(
                np.mean(
                    [
                        _printed(printed, metric, scale, method, s)
                        - _printed(printed, metric, scale, reference, s)
                        for s in paper_of
                    ]
                )
            )
            cell = {
                "paper": paper,
                "Δ": gain.mean,
                "interval": (gain.low, gain.high),
                "difference": gain.mean - paper,
            }
            for part, value in cell.items():
                frame.setdefault((name, part), {})[scale, method] = value
    return _frame(frame)


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


def _mean(scores: pd.DataFrame, scale: int | None, method: str, dataset: str) -> float:
    chosen = scores[(scores["method"] == method) & (scores["dataset"] == dataset)]
    if scale is not None:
        chosen = chosen[chosen["scale"] == scale]
    return float(chosen["value"].mean()) if len(chosen) else float("nan")


def _printed(
    printed: pd.DataFrame, metric: str, scale: int | None, method: str, dataset: str
) -> float:
    keys = {} if scale is None else {"scale": scale}
    found = select(printed, metric=metric, method=method, dataset=dataset, **keys)
    return float(found["value"].iloc[0]) if len(found) == 1 else float("nan")


def _frame(columns: dict[tuple[str, str], dict[tuple[int | None, str], object]]) -> pd.DataFrame:
    rows = list(next(iter(columns.values())))
    # by position: pandas turns a scale None into NaN, under which it then finds nothing
    frame = pd.DataFrame(
        {column: [cells[row] for row in rows] for column, cells in columns.items()}
    )
    # of a set that is not the paper's there is nothing to compare with
    compared = [c for c in columns if c[1] in ("Δ", "ours", "interval") or frame[c].notna().any()]
    frame = frame[compared]
    frame.columns = pd.MultiIndex.from_tuples(compared, names=["dataset", "part"])
    scales = ["" if scale is None else f"×{scale}" for scale, _ in rows]
    methods = [METHOD_NAMES.get(method, method) for _, method in rows]
    frame.index = pd.MultiIndex.from_arrays([scales, methods], names=["scale", "method"])
    return frame if any(scales) else frame.droplevel("scale")
