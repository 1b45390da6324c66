"""The paper's tables checked against its text, against each other and against public numbers.

Every function computes a tidy table from ``augkd.study.paper``; what a report says about the paper's
consistency comes from here. Reference numbers from elsewhere are in ``external.csv``, each with
its source.
"""

from importlib.resources import files
from itertools import combinations

import pandas as pd

from augkd.study.paper import all_tables, load_table, paper_value
from augkd.study.paper.claim import load_claims

__all__ = [
    "ablation_base",
    "against_external",
    "average_gains",
    "coverage",
    "duplicated_rows",
    "external",
    "heterogeneous_teachers",
    "implied_by_statement",
    "initialisation_gap",
    "niqe_gains",
    "reprinted_values",
    "scale_of",
    "speed_against_operations",
    "step_cost",
    "teacher_level",
]

MAIN = {"edsr": 2, "rcan": 3, "swinir": 10}  # the table of each network
FIDELITY = ("psnr_y", "ssim_y")
BENCHMARKS = ("Set5", "Set14", "B100", "Urban100")


def external() -> pd.DataFrame:
    """Public numbers: network, scale, method, evaluation, dataset, metric, value, source."""
    with files(__package__).joinpath("external.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


# --- the text against the tables


def average_gains() -> pd.DataFrame:
    """AugKD's mean PSNR gains over ×2, ×3 and ×4, in dB, beside what the text states.

    Columns: network, over (kd, scratch, or best_other: the best other row of each column),
    datasets (Urban100, or all four), x2, x3, x4, mean, stated (nan where the text is silent).
    """
    stated: dict[str, float | None] = {
        claim.networks[0]: claim.value
        for claim in load_claims()
        if claim.id.startswith("average_gain_")
    }
    rows = []
    for network, number in MAIN.items():
        table = load_table(number)
        psnr = table[table["metric"] == "psnr_y"].pivot(
            index=["scale", "dataset"], columns="method", values="value"
        )
        others = {
            "kd": psnr["kd"],
            "scratch": psnr["scratch"],
            "best_other": psnr.drop(columns="augkd").max(axis=1),
        }
        for over, other in others.items():
            gain = psnr["augkd"] - other
            for name, sets in (("Urban100", ["Urban100"]), ("all four", list(BENCHMARKS))):
                scales = gain[gain.index.isin(sets, level="dataset")].groupby(level="scale").mean()
                row = {f"x{scale}": round(float(scales[scale]), 4) for scale in (2, 3, 4)}
                said = stated[network] if (over, name) == ("kd", "Urban100") else None
                mean = round(sum(row.values()) / 3, 4)
                keys = {"network": network, "over": over, "datasets": name}
                rows.append({**keys, **row, "mean": mean, "stated": said})
    return pd.DataFrame(rows).astype({"stated": float})


def implied_by_statement(network: str, scale: int) -> dict[str, float]:
    """The Urban100 PSNR that AugKD would need at one scale for the stated average to be true."""
    gains = average_gains()
    row = gains[(gains["network"] == network) & gains["stated"].notna()].iloc[0]
    others = sum(float(row[f"x{s}"]) for s in (2, 3, 4) if s != scale)
    gain = 3 * float(row["stated"]) - others
    keys = {"network": network, "scale": scale, "dataset": "Urban100"}
    kd = paper_value(MAIN[network], "psnr_y", method="kd", **keys)
    printed = paper_value(MAIN[network], "psnr_y", method="augkd", **keys)
    return {"gain": round(gain, 4), "implied": round(kd + gain, 4), "printed": printed}


def niqe_gains() -> pd.DataFrame:
    """By how much AugKD lowers Table 5's NIQE against KD and scratch: dataset, over, gain."""
    rows = []
    for dataset in ("RealSR", "DRealSR", "OST300"):
        augkd = paper_value(5, "niqe", method="augkd", dataset=dataset)
        for over in ("kd", "scratch"):
            other = paper_value(5, "niqe", method=over, dataset=dataset)
            rows.append({"dataset": dataset, "over": over, "gain": round(other - augkd, 3)})
    return pd.DataFrame(rows)


def step_cost() -> pd.DataFrame:
    """Table 11 against its KD column: method, seconds, extra_seconds, extra_share, psnr_gain."""
    rows = []
    base = paper_value(11, "seconds_per_step", method="kd")
    quality = paper_value(11, "psnr_y", method="kd")
    for method in ("kd", "fitnet", "fakd", "csd", "augkd"):
        seconds = paper_value(11, "seconds_per_step", method=method)
        rows.append(
            {
                "method": method,
                "seconds": seconds,
                "extra_seconds": round(seconds - base, 2),
                "extra_share": round(seconds / base - 1, 4),
                "psnr_gain": round(paper_value(11, "psnr_y", method=method) - quality, 2),
            }
        )
    return pd.DataFrame(rows)


# --- the tables against each other


def duplicated_rows(least: int = 2) -> pd.DataFrame:
    """Pairs of printed rows that agree in every cell they share, in at least ``least`` cells.

    A model that is printed twice should agree with itself; different models that agree in every
    PSNR and SSIM should not exist. Columns: table, row, model, other_table, other_row,
    other_model, cells, same_model.
    """
    rows = all_tables()
    rows = rows[rows["metric"].isin(FIDELITY)]
    seen = []
    # with the method, since Table 11 prints a method a column
    for _, cells in rows.groupby(["table", "row", "method"]):
        first = cells.iloc[0]
        table, row = int(first["table"]), int(first["row"])
        scale = scale_of(table) if pd.isna(first["scale"]) else int(first["scale"])
        key = (str(first["network"]), scale, str(first["method"]), str(first["teacher"]))
        numbers = cells.set_index(["dataset", "metric"])["value"].to_dict()
        seen.append((table, row, key, numbers))
    found = []
    for one, other in combinations(seen, 2):
        shared = one[3].keys() & other[3].keys()
        if len(shared) >= least and all(one[3][cell] == other[3][cell] for cell in shared):
            found.append(
                {
                    "table": one[0],
                    "row": one[1],
                    "model": _label(one[2]),
                    "other_table": other[0],
                    "other_row": other[1],
                    "other_model": _label(other[2]),
                    "cells": len(shared),
                    "same_model": one[2] == other[2],
                }
            )
    return pd.DataFrame(found)


def _label(key: tuple[str, int | None, str, str]) -> str:
    network, scale, method, teacher = key
    parts = [network, f"x{scale}" if scale else "", method, f"from {teacher}" if teacher else ""]
    return " ".join(part for part in parts if part)


def scale_of(number: int) -> int | None:
    """The scale of a table that states none: the one whose Table 2 shares numbers with it."""
    table, main = load_table(number), load_table(2)
    shared = {}
    for scale in (2, 3, 4):
        there = main[main["scale"] == scale].set_index(["method", "dataset", "metric"])["value"]
        here = table.set_index(["method", "dataset", "metric"])["value"]
        joined = pd.concat([here, there], axis=1, join="inner", keys=["here", "there"])
        shared[scale] = int((joined["here"] == joined["there"]).sum())
    best = max(shared, key=lambda scale: shared[scale])
    return best if shared[best] else None


def reprinted_values() -> pd.DataFrame:
    """Numbers of one model that several tables print, with their difference.

    Columns: network, scale, method, dataset, metric, table, row, value, other_table, other_row,
    other_value, difference (0 where the tables agree). Table 9 is left out: its
    students start differently, which its text says.
    """
    rows = all_tables()
    rows = rows[rows["metric"].isin(FIDELITY) & (rows["table"] != 9)].copy()
    for number in rows.loc[rows["scale"].isna(), "table"].unique():
        scale = scale_of(int(number))
        if scale is not None:
            rows.loc[rows["table"] == number, "scale"] = scale
    rows["scale"] = rows["scale"].fillna(0)  # the ablation's scale is unknown, and its own
    keys = ["network", "scale", "method", "teacher", "dataset", "metric"]
    pairs = rows.merge(rows, on=keys, suffixes=("", "_other"))
    pairs = pairs[pairs["table"] < pairs["table_other"]]
    renamed = {f"{name}_other": f"other_{name}" for name in ("table", "row", "value")}
    pairs = pairs.rename(columns=renamed)
    pairs["difference"] = (pairs["other_value"] - pairs["value"]).round(4)
    columns = [*keys, "table", "row", "value", "other_table", "other_row", "other_value"]
    return pairs[[*columns, "difference"]].reset_index(drop=True)


def initialisation_gap() -> pd.DataFrame:
    """EDSR ×4 started from ×2 (Table 2) less not started from it (Table 9, DIV2K).

    Columns: method, dataset, metric, table_2, table_9, gap.
    """
    rows = []
    for method in ("scratch", "augkd"):
        for dataset in ("B100", "Urban100"):
            for metric in FIDELITY:
                keys = {"method": method, "dataset": dataset, "scale": 4}
                warm = paper_value(2, metric, **keys)
                cold = paper_value(9, metric, training_set="div2k", **keys)
                shown = {"table_2": warm, "table_9": cold, "gap": round(warm - cold, 4)}
                rows.append({"method": method, "dataset": dataset, "metric": metric, **shown})
    return pd.DataFrame(rows)


def heterogeneous_teachers(dataset: str = "Urban100") -> pd.DataFrame:
    """RCAN ×4 students by teacher: teacher, teacher_psnr (Table 12), student_psnr, source.

    The student of the same architecture is Table 3's, the others are Table 4's.
    """
    rows = []
    for teacher in ("rcan", "edsr", "swinir"):
        keys = {"scale": 4, "method": "augkd", "dataset": dataset}
        source = 3 if teacher == "rcan" else 4
        student = paper_value(source, "psnr_y", teacher=teacher, **keys)
        strength = paper_value(12, "psnr_y", network=teacher, scale=4, dataset=dataset)
        row = {"teacher": teacher, "teacher_psnr": strength, "student_psnr": student}
        rows.append({**row, "table": source})
    return pd.DataFrame(rows)


def coverage() -> pd.DataFrame:
    """Which method is in the table of which network: methods by networks, True or False."""
    tables = {network: load_table(number)["method"].unique() for network, number in MAIN.items()}
    methods = list(dict.fromkeys(method for listed in tables.values() for method in listed))
    return pd.DataFrame(
        {network: [method in listed for method in methods] for network, listed in tables.items()},
        index=pd.Index(methods, name="method"),
    )


def speed_against_operations() -> pd.DataFrame:
    """Table 1: how many times fewer operations and how many times more frames a student has."""
    rows = []
    for network in MAIN:
        teacher = {"network": network, "role": "teacher"}
        student = {"network": network, "role": "student"}
        operations, frames = "multiply_accumulates", "frames_per_second"
        fewer = paper_value(1, operations, **teacher) / paper_value(1, operations, **student)
        faster = paper_value(1, frames, **student) / paper_value(1, frames, **teacher)
        rows.append({"network": network, "fewer": round(fewer, 2), "faster": round(faster, 2)})
    return pd.DataFrame(rows)


# --- the tables against public numbers


def against_external() -> pd.DataFrame:
    """Each printed number that ``external.csv`` has too: keys, printed, public, difference."""
    keys = ["network", "scale", "method", "dataset", "metric"]
    printed = all_tables().rename(columns={"value": "printed"})
    printed = printed[printed["table"].isin([2, 12])]
    public = external().rename(columns={"value": "public"})
    pairs = printed[["table", "row", *keys, "printed"]].merge(public, on=keys)
    pairs["difference"] = (pairs["printed"] - pairs["public"]).round(4)
    columns = ["evaluation", "printed", "public", "difference", "source"]
    return pairs[["table", "row", *keys, *columns]]


def teacher_level() -> pd.DataFrame:
    """How far Table 12's teachers are from public figures, as a mean of PSNR over the four sets.

    Columns: network, scale, evaluation (single_pass, self_ensemble), source, difference (printed
    less public, dB), distance (mean absolute, dB), nearest (of its network and scale).
    """
    pairs = against_external()
    pairs = pairs[(pairs["table"] == 12) & (pairs["metric"] == "psnr_y")]
    pairs = pairs.assign(distance=pairs["difference"].abs())
    grouped = pairs.groupby(["network", "scale", "evaluation", "source"], as_index=False)
    level = grouped[["difference", "distance"]].mean().round(4)
    least = level.groupby(["network", "scale"])["distance"].transform("min")
    return level.assign(nearest=level["distance"] == least)


def ablation_base() -> pd.DataFrame:
    """The base row of Tables 6 and 7 beside public EDSR baselines, nearest first.

    Columns: evaluation, psnr_difference, ssim_difference (base less public), source.
    """
    base = {metric: paper_value(6, metric, method="kd") for metric in FIDELITY}
    public = external()
    public = public[public["network"] == "edsr_baseline"]
    rows = []
    for (evaluation, source), part in public.groupby(["evaluation", "source"]):
        value = part.set_index("metric")["value"]
        rows.append(
            {
                "evaluation": evaluation,
                "psnr_difference": round(base["psnr_y"] - float(value["psnr_y"]), 2),
                "ssim_difference": round(base["ssim_y"] - float(value["ssim_y"]), 4),
                "source": source,
            }
        )
    table = pd.DataFrame(rows)
    return table.iloc[table["psnr_difference"].abs().argsort()].reset_index(drop=True)
