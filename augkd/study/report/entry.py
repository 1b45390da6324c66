"""What stands above the budgets: reports/index.html, README's words, the verdicts of two runs.

    python -m augkd.study.report.entry              # README.md says what the deepest report says
    python -m augkd.study.report.entry STUDY STUDY  # reports/twice.csv, of two folders' reports

Budgets are listed in params.yaml from the smallest to the deepest.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment

from augkd.errors import UserError, replacing
from augkd.study.params import Study, load_study
from augkd.study.report.claims import HERE, OWN, VERDICTS
from augkd.study.report.style import DECIMALS

WORDS, TWICE = "said.md", Path("reports/twice.csv")  # of a report; of two runs
KEYS, OF_RUN = ["id", "title", "budget", "unit"], ["seed", "tested", "seen", "shown", "telling"]
OF_RUN += ["gain", "low", "high"]
COLUMNS = [*KEYS, "agree", *(f"{column}_{run}" for run in (1, 2) for column in OF_RUN)]
UNTESTED = ("not tested here", "not run")
_BLOCK = re.compile(r"(?<=<!-- found -->\n).*?(?=<!-- /found -->)", re.S)


def reported(study: Study, to: str = "") -> dict[str, str]:
    """What each budget's report says was found, in Markdown whose links lead ``to`` it; "" if it is
    an old one. The deepest comes first."""
    depth, found = [*study.params.budgets], {}
    names = [path.parent.name for path in (study.root / "reports").glob("*/index.html")]
    for name in sorted(names, key=lambda n: depth.index(n) if n in depth else -1, reverse=True):
        file = study.root / "reports" / name / WORDS
        words = file.read_text(encoding="utf-8") if file.is_file() else ""
        found[name] = re.sub(r"\]\((?=\w)", f"]({to}{name}/", words)
    return found


def write_entry(study: Study, environment: Environment) -> Path:
    """The front page of the deepest report, with the way to the others, as reports/index.html."""
    ran, entry, runs = reported(study), study.root / "reports/index.html", read_twice(study)
    decimals = runs["unit"].map(DECIMALS).fillna(2).astype(int)
    rows = runs.assign(decimals=decimals).to_dict("records")
    abouts = dict.fromkeys(ran, "")
    abouts |= {name: b.about.strip() for name, b in study.params.budgets.items() if b.reported}
    parts: Any = environment.get_template("entry.html.j2").module
    deepest = next(iter(ran))
    text = entry.with_name(deepest).joinpath("index.html").read_text(encoding="utf-8")
    text = re.sub(r'\b(href|src)="(?!#|data:|\.\./)', rf'\1="{deepest}/', text)
    head = f'<main id="main">{parts.switch(abouts, ran)}'
    text = text.replace('href="../', 'href="').replace('<main id="main">', head, 1)
    foot = f"{parts.budgets(abouts, ran)}{parts.twice(rows, again(runs))}</main>"
    entry.write_text(foot.join(text.rsplit("</main>", 1)), encoding="utf-8")
    return entry


def readme(study: Study) -> str:
    """README.md as it is to be. UserError: the place of the words is not marked in it."""
    text = (study.root / "README.md").read_text(encoding="utf-8")
    if not _BLOCK.search(text):
        raise UserError("README.md: has no <!-- found --> … <!-- /found -->: restore both lines")
    words = next(iter(reported(study, "reports/").values()), "")
    if said := again(read_twice(study)):
        words += f"\n**Again**, [in a second run](reports/index.html#twice). {said}\n"
    return _BLOCK.sub(lambda _: words, text)


def read_twice(study: Study) -> pd.DataFrame:
    """The verdicts of two runs, as ``twice`` gave them; none where there is no such file."""
    if (file := study.root / TWICE).is_file():
        table = pd.read_csv(file)
        if list(table) == COLUMNS:
            return table
        print(f"augkd: {TWICE}: of another version, left out: make it anew", file=sys.stderr)
    return pd.DataFrame(columns=COLUMNS)


def again(runs: pd.DataFrame) -> str:
    """What two runs agree on, in Markdown; "" of none."""
    if runs.empty:
        return ""
    first, same, opposite = runs.iloc[0], runs["agree"] == "same", runs["agree"] == "opposite"
    both, either = runs["tested_1"] & runs["tested_2"], runs["seen_1"] | runs["seen_2"]
    return (
        f"Budget {first['budget']}, with `seed: {first['seed_1']}` and `seed: {first['seed_2']}`; "
        "images, teachers and training photographs are the same. "
        f"Of {both.sum()} claims that both could test, "
        f"{(both & same).sum()} have the same verdict. "
        f"Of {either.sum()} that one of them saw, or saw the opposite of, "
        f"{(either & same).sum()} came out the same in the other, and {opposite.sum()} opposite."
    )


def twice(*roots: Path) -> pd.DataFrame:
    """The verdicts of two studies' budgets, a row a claim; a run's columns end in _1 or _2.

    ``agree``: "same", "other", or "opposite" where one speaks for the claim and one against it.
    UserError: a study has no report, or the two judge other claims, or at other budgets.
    """
    tables = []
    for root in roots:
        study = load_study(None, root, check_methods=False)
        rows = read_claims(root / f"reports/{study.budget.name}/data/scorecard/verdicts.csv")
        tables.append(pd.DataFrame(rows).assign(budget=study.budget.name, seed=study.params.seed))
    if len(tables) != 2 or not tables[0][KEYS].equals(tables[1][KEYS]):
        raise UserError("expected the folders of two studies: of the same claims, at one budget")
    table = tables[0].merge(tables[1], on=KEYS, suffixes=("_1", "_2"))
    pairs = [{*pair} for pair in zip(table["verdict_1"], table["verdict_2"], strict=True)]
    kinds = [[len(pair) == 1 for pair in pairs], [pair in ({*OWN}, {*HERE}) for pair in pairs]]
    table["agree"] = np.select(kinds, ["same", "opposite"], "other")
    for run in (1, 2):
        table[f"tested_{run}"] = ~table[f"verdict_{run}"].isin(UNTESTED)
        table[f"seen_{run}"] = table[f"verdict_{run}"].isin([*OWN, *HERE])
    return table[COLUMNS]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Names the file of a run that cannot be read."""
    try:
        yield
    except Exception as error:  # nbformat raises many kinds for a file that is not a notebook
        what = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(f"{path}: {what}: remove it and run make repro") from None


def read_claims(path: Path) -> list[dict[str, Any]]:
    """The rows of verdicts.csv: gains in ``unit``, positive where they speak for the claim, or nan;
    with the number of each, row, and the decimals of its unit.

    Raises UserError: a missing column, an unknown verdict, or a value that is not a number.
    """
    texts = ["id", "topic", "title", "section", "text", "paper_verdict", "verdict", "shown"]
    texts += ["reason", "scope", "telling", "unit", "note"]
    counts = ["seeds", "images"]
    numbers = ["paper_gain", "gain", "low", "high", *counts]
    types = dict.fromkeys(texts, str) | dict.fromkeys(numbers, float)
    with reading(path):
        table = pd.read_csv(path, usecols=list(types), dtype=types)
        if strange := {*table["verdict"], *table["paper_verdict"]}.difference(VERDICTS):
            raise ValueError(f"verdict '{strange.pop()}' is not one of {', '.join(VERDICTS)}")
    table[texts] = table[texts].fillna("")
    table[counts] = table[counts].fillna(0).astype(int)
    table["decimals"] = table["unit"].map(DECIMALS).fillna(2).astype(int)
    rows: list[Any] = table.rename_axis("row").reset_index().to_dict("records")
    return rows


def read_gains(path: Path) -> list[dict[str, Any]]:
    """The comparisons of AugKD with KD in gains.csv whose premises hold: comparison, weight, gain,
    low, high. UserError: as ``read_claims``."""
    with reading(path):
        table = pd.read_csv(path).astype({"met": bool, "gain": float, "low": float, "high": float})
        shown = table[table["claim"].str.startswith("augkd_over_kd") & table["met"]]
        shown = shown.sort_values(["claim", "comparison", "weight"])
        rows: list[Any] = shown[["comparison", "weight", "gain", "low", "high"]].to_dict("records")
    return rows


def main(arguments: list[str]) -> int:
    try:
        study = load_study(check_methods=False)
        table = twice(*map(Path, arguments)) if arguments else pd.DataFrame(columns=COLUMNS)
        with replacing(study.root / (TWICE if arguments else "README.md")) as partial:
            text = table.to_csv(index=False) if arguments else readme(study)
            partial.write_text(text, encoding="utf-8")
        if titles := "; ".join(table["title"][table["agree"] == "opposite"]):
            raise UserError(f"{TWICE}: seen in one run and its opposite in the other: {titles}")
    except UserError as error:
        print(f"augkd: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
