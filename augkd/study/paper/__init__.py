"""The paper as data: the numbers of its twelve tables, as printed.

One row of a CSV file is one printed number, found by its keys or cited by table and row:

================  ===========================================================================
table, row        the printed table, and the row of its body counted from 1
network, scale    edsr, rcan, swinir; 2, 3, 4, or blank where neither table nor text says
method            an identifier of ``augkd.distill``, or ``teacher``
role              teacher or student
teacher           Table 4's teachers; blank elsewhere
training_set      Table 9's div2k and df2k; blank elsewhere
dataset           Set5, Set14, B100 (the paper's BSD100), Urban100, RealSR, DRealSR, OST300
metric            psnr_y, ssim_y, niqe, seconds_per_step, parameters, multiply_accumulates (the
                  paper's FLOPs), frames_per_second, channels, blocks, groups, training_images,
                  training_steps
value, decimals   as printed: it lies within half a unit of its last decimal (negative: of tens)
unit              dB, M, G, s, 1/s, or blank
marks             "starred" (reproduced by the authors), "underlined" (best or second best)
================  ===========================================================================

A key that its table leaves blank does not restrict. Three identifiers are readings: Table 5's
11.9 M "Scratch" has the teacher's size and is called ``teacher``; the first rows of Tables 6 and
7 are response distillation, ``kd``, as the text says; the cells that Tables 5 and 9 print once
for several rows are filed under the row that shows them.

Here is what is printed, by the paper or by others (``external.csv``), and what follows from that
alone: the claims (``claims.yaml``) and what does not agree (``audit``). No score of ours is read.
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd

TABLES = range(1, 13)
KEYS = ("network", "scale", "method", "role", "teacher", "training_set", "dataset")


@lru_cache
def _read(number: int) -> pd.DataFrame:
    file = Path(__file__).with_name(f"table_{number:02d}.csv")
    return pd.read_csv(file, dtype={"scale": "Int64"}, keep_default_na=False, na_values={})


def load_table(number: int) -> pd.DataFrame:
    """Table 1 to 12 in the columns above, one printed number a row."""
    if number not in TABLES:
        raise LookupError(f"the paper has Tables 1 to 12, not {number}")
    return _read(number).copy()


def all_tables() -> pd.DataFrame:
    """The twelve tables under one another."""
    return pd.concat([_read(number) for number in TABLES], ignore_index=True)


def external() -> pd.DataFrame:
    """Public numbers: network, scale, method, evaluation, dataset, metric, value, source."""
    return pd.read_csv(Path(__file__).with_name("external.csv"))


def select(table: pd.DataFrame, **keys: object) -> pd.DataFrame:
    """The rows of a table whose keys agree with those given; a blank column agrees with any."""
    for key, wanted in keys.items():
        if key not in (*KEYS, "metric", "row"):
            raise LookupError(f"the paper's tables have no key '{key}'")
        if not table[key].replace("", pd.NA).isna().all():
            table = table[(table[key] == wanted).fillna(False)]
    return table


def paper_value(table: int, metric: str, **keys: object) -> float:
    """One printed number, e.g. ``paper_value(2, "psnr_y", scale=4, method="kd", dataset="Set5")``.

    LookupError: the keys (columns above, or ``row``) name no number, or more than one.
    """
    found = select(load_table(table), metric=metric, **keys)
    if len(found) != 1:
        raise LookupError(f"Table {table} has {len(found)} numbers for {metric}, {keys}")
    return float(found["value"].iloc[0])
