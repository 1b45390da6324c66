"""What a reader must know of a budget's rows in a table: the notes at the foot of its page."""

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from augkd.config import Study, Training
from augkd.report import PAPER_SETS, Row, test_sets
from augkd.style import METHOD_NAMES, UNTAUGHT

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
