"""The paper's tables checked against its text, against each other and against public numbers.

Every function computes a tidy table from ``augkd.study.paper``; notebooks/audit.ipynb says what
they show.
"""

import pandas as pd

from augkd.study.paper import all_tables, external, load_table, paper_value, select
from augkd.study.report.claims import load_claims

MAIN = {"edsr": 2, "rcan": 3, "swinir": 10}  # the table of each network
FIDELITY = ("psnr_y", "ssim_y")


# --- the text against the tables


def average_gains() -> pd.DataFrame:
    """AugKD's mean PSNR gains over ×2, ×3 and ×4, in dB, beside what the text states.

    Columns: network, over (kd, scratch, or best_other: the best other row of each column),
    datasets (Urban100, or all four), x2, x3, x4, mean, stated (nan where the text is silent).
    """
    claims = [claim for claim in load_claims() if claim.id.startswith("average_gain_")]
    stated = {str(claim.networks[0]): claim.value for claim in claims}
    rows = []
    for network, number in MAIN.items():
        psnr = select(load_table(number), metric="psnr_y")
        psnr = psnr.pivot(index=["dataset", "scale"], columns="method", values="value")
        others = psnr[["kd", "scratch"]].assign(best_other=psnr.drop(columns="augkd").max(axis=1))
        for over in others:
            gain = (psnr["augkd"] - others[over]).unstack("scale")
            for name, part in (("Urban100", gain.loc[["Urban100"]]), ("all four", gain)):
                scales = {f"x{scale}": round(float(part[scale].mean()), 4) for scale in (2, 3, 4)}
                said = stated[network] if (over, name) == ("kd", "Urban100") else None
                row = {"network": network, "over": over, "datasets": name, **scales}
                rows.append({**row, "mean": round(sum(scales.values()) / 3, 4), "stated": said})
    return pd.DataFrame(rows).astype({"stated": float})


def implied_by_statement(network: str, scale: int) -> dict[str, float]:
    """The Urban100 PSNR that AugKD would need at one scale for the stated average to be true.

    Returns:
        stated (the average gain), gain (at the scale), implied and printed (PSNR), in dB.
    """
    gains = average_gains().dropna(subset="stated").set_index("network")
    stated = gains["stated"].loc[network]
    gain = 3 * stated - sum(gains[f"x{other}"].loc[network] for other in {2, 3, 4} - {scale})
    keys = {"scale": scale, "dataset": "Urban100"}
    kd, printed = (paper_value(MAIN[network], "psnr_y", method=m, **keys) for m in ("kd", "augkd"))
    implied = {"gain": round(gain, 4), "implied": round(kd + gain, 4)}
    return {"stated": stated, **implied, "printed": printed}


# --- the tables against each other


def duplicated_rows() -> pd.DataFrame:
    """Pairs of printed rows that agree in every cell they share, in at least two.

    A model that is printed twice should agree with itself; different models that agree in every
    PSNR and SSIM should not exist. Columns: table, row, model, other_table, other_row,
    other_model, cells, same_model.
    """
    rows = _printed_scores()
    # with the method, since Table 11 prints a method a column
    rows["number"] = rows.groupby(["table", "row", "method"]).ngroup()
    scale = ("x" + rows["scale"].astype(str)).replace("x0", "")
    teacher = ("from " + rows["teacher"]).replace("from ", "")
    parts = zip(rows["network"], scale, rows["method"], teacher, strict=True)
    rows["model"] = [" ".join(filter(None, part)) for part in parts]
    pairs = _pairs(rows, ["dataset", "metric"])
    pairs = pairs[pairs["number"] < pairs["other_number"]].assign(agree=pairs["difference"] == 0)
    keys = ["table", "row", "model", "other_table", "other_row", "other_model"]
    grouped = pairs.groupby(["number", "other_number", *keys], as_index=False)
    found = grouped.agg(cells=("agree", "size"), agree=("agree", "all"))
    found = found[(found["cells"] >= 2) & found["agree"]].reset_index(drop=True)
    found["same_model"] = found["model"] == found["other_model"]
    return found[[*keys, "cells", "same_model"]]


def reprinted_values() -> pd.DataFrame:
    """Numbers of one model that several tables print, with their difference.

    Columns: network, scale, method, dataset, metric, table, row, value, other_table, other_row,
    other_value, difference (0 where the tables agree). Table 9 is left out: its students start
    differently, which its text says.
    """
    rows, keys = _printed_scores(), ["network", "scale", "method", "teacher", "dataset", "metric"]
    pairs = _pairs(rows[rows["table"] != 9], keys)
    places = ["table", "row", "value", "other_table", "other_row", "other_value"]
    pairs = pairs.loc[pairs["table"] < pairs["other_table"], [*keys, *places, "difference"]]
    return pairs.reset_index(drop=True)


def scale_of(number: int) -> int | None:
    """The scale of a table that states none: the one whose Table 2 shares numbers with it."""
    keys = ["method", "dataset", "metric", "value"]
    shared = load_table(number)[keys].merge(load_table(2), on=keys)["scale"].mode()
    return int(shared.iloc[0]) if len(shared) else None


def _printed_scores() -> pd.DataFrame:
    """Every printed PSNR and SSIM; scale 0 where neither the table nor ``scale_of`` knows it."""
    rows = all_tables()
    rows = rows[rows["metric"].isin(FIDELITY)]
    silent = rows.loc[rows["scale"].isna(), "table"].unique()
    scales = rows["table"].map({number: scale_of(int(number)) or 0 for number in silent})
    return rows.assign(scale=rows["scale"].fillna(scales.astype("Int64")))


def _pairs(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows beside all rows of the same keys, whose columns begin with other_, and difference."""
    others = [f"other_{key}" for key in keys]
    pairs = rows.merge(rows.add_prefix("other_"), left_on=keys, right_on=others)
    return pairs.assign(difference=(pairs["other_value"] - pairs["value"]).round(4))


def initialisation_gap() -> pd.DataFrame:
    """EDSR ×4 started from ×2 (Table 2) less not started from it (Table 9, DIV2K).

    Columns: method, dataset, metric, table_2, table_9, gap.
    """
    keys = ["method", "dataset", "metric"]
    warm, cold = select(load_table(2), scale=4), select(load_table(9), training_set="div2k")
    pairs = cold[[*keys, "value"]].merge(warm[[*keys, "value"]], on=keys)
    pairs = pairs.rename(columns={"value_y": "table_2", "value_x": "table_9"})
    pairs = pairs[[*keys, "table_2", "table_9"]]
    return pairs.assign(gap=(pairs["table_2"] - pairs["table_9"]).round(4))


# --- the tables against public numbers


def against_external() -> pd.DataFrame:
    """Each printed number that ``external.csv`` has too: keys, printed, public, difference."""
    keys = ["network", "scale", "method", "dataset", "metric"]
    printed = pd.concat([load_table(2), load_table(12)]).rename(columns={"value": "printed"})
    pairs = printed.merge(external().rename(columns={"value": "public"}), on=keys)
    pairs["difference"] = (pairs["printed"] - pairs["public"]).round(4)
    shown = ["evaluation", "printed", "public", "difference", "source"]
    return pairs[["table", "row", *keys, *shown]]


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
    public = external().query("network == 'edsr_baseline'")
    public = public.pivot(index=["evaluation", "source"], columns="metric", values="value")
    psnr, ssim = (paper_value(6, metric, method="kd") - public[metric] for metric in FIDELITY)
    columns = {"psnr_difference": psnr.round(2), "ssim_difference": ssim.round(4)}
    table = pd.DataFrame(columns).reset_index("source").reset_index()
    table = table[["evaluation", *columns, "source"]]
    return table.sort_values("psnr_difference", key=abs, ignore_index=True)
