"""The audit's findings in words, each made from what ``augkd.study.paper.audit`` computes.

No number in a sentence is typed: whatever a table says is looked up or computed when the finding
is made, so that a corrected CSV file corrects the sentence. Where a check comes out clean, its
finding is not there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from augkd.study.paper import audit, load_table, paper_value

__all__ = ["Finding", "at_a_glance", "findings"]

Weight = Literal["contradiction", "doubtful", "confounded", "unstated"]
NETWORKS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
METHODS = {
    "scratch": "Scratch",
    "kd": "KD",
    "fitnet": "FitNet",
    "at": "AT",
    "rkd": "RKD",
    "fakd": "FAKD",
    "csd": "CSD",
    "crosskd": "CrossKD",
    "augkd": "AugKD",
    "zoom_in": "zoom-in",
    "zoom_out": "zoom-out",
    "zoom_both": "both zooms",
    "fakd_augkd": "FAKD + AugKD",
}


@dataclass(frozen=True)
class Finding:
    """What the paper says, what its tables say, why that matters.

    Attributes:
        place: where in the paper.
        weight: contradiction (two statements cannot both be true), doubtful (printed numbers that
            are hard to come by as described), confounded (a comparison of more than one thing),
            unstated (what a repetition would have to know).
        evidence: the numbers.
    """

    title: str
    place: str
    weight: Weight
    says: str
    shows: str
    matters: str
    evidence: pd.DataFrame = field(repr=False, compare=False)

    @property
    def markdown(self) -> str:
        """As a section of a page."""
        return (
            f"### {self.title}\n\n*{self.place} · {self.weight}.* "
            f"**The paper says:** {self.says} **Its tables say:** {self.shows} "
            f"**Why it matters:** {self.matters}"
        )


def findings() -> list[Finding]:
    """All findings, contradictions first."""
    order = ("contradiction", "doubtful", "confounded", "unstated")
    found = [
        replace(finding, evidence=_readable(finding.evidence))
        for make in _CHECKS
        for finding in make()
    ]
    return sorted(found, key=lambda finding: order.index(finding.weight))


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Identifiers as the names that the report uses."""
    names = NETWORKS | METHODS | {"best_other": "best other", "psnr_y": "PSNR", "ssim_y": "SSIM"}
    names |= {"single_pass": "single pass", "self_ensemble": "self-ensemble"}
    names |= {"full_precision": "full precision"}
    names |= {f"quantized_{bits}bit": f"{bits} bits" for bits in (2, 3, 4)}
    for column in ("model", "other_model"):
        if column in table:
            table = table.assign(**{column: [_model(name) for name in table[column]]})
    heads = {"x2": "×2", "x3": "×3", "x4": "×4"}
    return table.replace(names).rename(columns=heads | NETWORKS)


def at_a_glance(found: list[Finding]) -> pd.DataFrame:
    """Findings as a table: kind, where, finding, the paper says, its tables say."""
    rows = [(f.weight, f.place, f.title, f.says, f.shows) for f in found]
    return pd.DataFrame(rows, columns=["kind", "where", "finding", "it says", "its tables say"])


def _n(value: Any, decimals: int = 2, *, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _average_gains() -> Iterator[Finding]:
    gains: Any = audit.average_gains()
    told = gains[gains["stated"].notna()]
    wrong = told[(told["mean"] - told["stated"]).abs() > 0.005]
    if wrong.empty:
        return
    said = [f"{_n(r.stated)} dB for {NETWORKS[r.network]}" for r in told.itertuples()]
    seen = [f"{_n(r.mean, 3)} dB for {NETWORKS[r.network]}" for r in told.itertuples()]
    fits = [
        network
        for network, stated in zip(told["network"], told["stated"], strict=True)
        if (gains.loc[gains["network"] == network, "mean"] - stated).abs().min() <= 0.005
    ]
    other = (
        "No other reading (over scratch, over the best other row, over all four sets) gives them "
        "either."
        if not fits
        else f"Another reading gives that of {_listed([NETWORKS[n] for n in fits])}."
    )
    yield Finding(
        "Stated average gains are not those of the tables",
        "Section 4.2",
        "contradiction",
        f"The average improvement over KD on Urban100 is {_listed(said)}.",
        f"Means over three scales are {_listed(seen)}. {other}",
        f"{len(wrong)} of the {len(told)} headline figures cannot be used as targets.",
        gains.rename(columns={"datasets": "sets"}),
    )


def _duplicated_rows() -> Iterator[Finding]:
    rows: Any = audit.duplicated_rows()
    for row in rows[~rows["same_model"]].itertuples():
        network, scale = str(row.other_model).split()[:2]
        implied = audit.implied_by_statement(network, int(scale[1:]))
        stated = _n(
            float(
                audit.average_gains()
                .query("network == @network and stated == stated")["stated"]
                .iloc[0]
            )
        )
        yield Finding(
            "Two different models share all their numbers",
            f"Tables {row.table} and {row.other_table}",
            "contradiction",
            f"Table {row.other_table}, row {row.other_row}, is {_model(row.other_model)}.",
            f"All {row.cells} of its numbers are those of {_model(row.model)} in Table "
            f"{row.table}, row {row.row}. If the stated average gain of {stated} dB is right, its "
            f"Urban100 is {_n(implied['implied'])} dB, not {_n(implied['printed'])}.",
            "Probably a row copied by mistake: neither it nor what was computed from it is a "
            "target.",
            rows[["table", "row", "model", "other_table", "other_row", "other_model", "cells"]],
        )


def _model(name: object) -> str:
    parts = [NETWORKS.get(part, METHODS.get(part, part)) for part in str(name).split()]
    return " ".join(f"×{part[1:]}" if part in ("x2", "x3", "x4") else part for part in parts)


def _reprinted() -> Iterator[Finding]:
    pairs: Any = audit.reprinted_values()
    odd = pairs[pairs["difference"] != 0]
    for row in odd.itertuples():
        yield Finding(
            "One number is printed in two versions",
            f"Tables {row.table} and {row.other_table}",
            "contradiction",
            f"Table {row.table} gives {_n(row.value, 4)} for "
            f"{_model(f'{row.network} x{row.scale} {row.method}')} on {row.dataset}.",
            f"Table {row.other_table} gives {_n(row.other_value, 4)} for the same model; the "
            f"other {len(pairs) - len(odd)} numbers that two tables share agree.",
            "Small; one of the two was not copied from the run.",
            odd.drop(columns=["teacher"]),
        )


def _teachers() -> Iterator[Finding]:
    level: Any = audit.teacher_level()
    nearest = level[level["nearest"]]
    seen = {}
    for network, part in nearest.groupby("network", sort=False):
        raised = part.loc[part["evaluation"] == "self_ensemble", "scale"]
        if len(raised):
            seen[str(network)] = [int(scale) for scale in raised]
    for network, scales in seen.items():
        pairs = audit.against_external()
        keys = {"network": network, "scale": max(scales), "dataset": "Urban100"}
        pairs = pairs[(pairs["table"] == 12) & (pairs["metric"] == "psnr_y")]
        for key, value in keys.items():
            pairs = pairs[pairs[key] == value]
        by = pairs.groupby("evaluation")["public"].max()
        single = level[(level["network"] == network) & (level["evaluation"] == "single_pass")]
        others = [NETWORKS[n] for n in NETWORKS if n not in seen]
        yield Finding(
            f"{NETWORKS[network]}'s teachers are scored by self-ensemble, it seems",
            "Table 12",
            "doubtful",
            f"The ×{keys['scale']} teacher has {_n(pairs['printed'].iloc[0])} dB on Urban100; how "
            "it was evaluated is not said.",
            f"Public single-pass figures reach {_n(by['single_pass'])} dB, self-ensembled ones "
            f"{_n(by['self_ensemble'])}. Over its scales the teacher is at least "
            f"{_n(single['difference'].min())} dB above single-pass figures; {_listed(others)} are "
            "near theirs.",
            "A gap between teacher and student then measures two ways of evaluating, and a "
            "repetition in single passes must expect a weaker teacher.",
            level,
        )


def _ablation_base() -> Iterator[Finding]:
    base: Any = audit.ablation_base()
    near, full = base.iloc[0], base[base["evaluation"] == "full_precision"].iloc[0]
    if near["evaluation"] == "full_precision":
        return
    psnr = paper_value(6, "psnr_y", method="kd")
    bits = str(near["evaluation"]).removeprefix("quantized_").removesuffix("bit")
    yield Finding(
        f"The ablation's base row is at the level of {bits}-bit networks",
        "Tables 6 and 7",
        "doubtful",
        f"KD of a student of 64 channels and 16 blocks has {_n(psnr)} dB on Urban100; the scale is "
        "not said.",
        f"That is {_n(abs(full['psnr_difference']))} dB below the public ×4 network of that size, "
        f"trained without a teacher, and {_n(abs(near['psnr_difference']))} dB from its {bits}-bit "
        "quantisation by DAQ.",
        "The ablation may be on quantised or hardly trained networks, where gains are larger.",
        base,
    )


def _ablation_rows() -> Iterator[Finding]:
    ways = ["zoom_in", "zoom_out", "zoom_both"]
    psnr = {way: paper_value(7, "psnr_y", method=way) for way in ways}
    printed = dict.fromkeys([*load_table(7)["method"], *load_table(6)["method"]])
    if "consistency" not in printed:
        same = "the same" if psnr["zoom_in"] == psnr["zoom_out"] else "different numbers"
        gap = psnr["zoom_both"] - max(psnr["zoom_in"], psnr["zoom_out"])
        yield Finding(
            "No row shows label consistency alone",
            "Section 4.3, Tables 6 and 7",
            "contradiction",
            "Auxiliary samples and label consistency help “whether used separately or together”.",
            f"The rows are {_listed([METHODS[row] for row in printed])}: label consistency is "
            f"never used by itself. Zooming in ({_n(psnr['zoom_in'])}) and out "
            f"({_n(psnr['zoom_out'])}) give {same}, "
            f"both together {_n(gap, sign=True)} dB.",
            "Half of the claim has no evidence in the paper. Ours has that row.",
            pd.DataFrame({"row": [METHODS[way] for way in psnr], "Urban100 PSNR": psnr.values()}),
        )


def _initialisation() -> Iterator[Finding]:
    gap: Any = audit.initialisation_gap()
    urban: Any = gap[(gap["dataset"] == "Urban100") & (gap["metric"] == "psnr_y")].set_index(
        "method"
    )
    gains: Any = audit.average_gains()
    row = gains[(gains["network"] == "edsr") & gains["stated"].notna()].iloc[0]
    yield Finding(
        "A start from ×2 is worth as much as the method",
        "Tables 2 and 9",
        "confounded",
        "×4 students of Table 2 start from ×2 ones; those of Table 9 do not.",
        f"On Urban100 that start alone is worth {_n(urban.loc['scratch', 'gap'], sign=True)} dB to "
        f"training from scratch and {_n(urban.loc['augkd', 'gap'], sign=True)} dB to AugKD, which "
        f"gains {_n(row['x4'])} dB over KD there.",
        "Methods compare only from the same start.",
        gap,
    )


def _more_data() -> Iterator[Finding]:
    rows = []
    for dataset in ("B100", "Urban100"):
        keys = {"dataset": dataset, "scale": 4}
        own = paper_value(9, "psnr_y", method="augkd", training_set="div2k", **keys)
        other = paper_value(9, "psnr_y", method="kd", training_set="df2k", **keys)
        rows.append({"dataset": dataset, "AugKD, DIV2K": own, "KD, DF2K": other})
    table = pd.DataFrame(rows)
    gaps = (table["AugKD, DIV2K"] - table["KD, DF2K"]).round(4)
    table["difference"] = gaps
    if gaps.max() <= 0.01:
        yield Finding(
            "The lead over more data is one last digit",
            "Table 9",
            "doubtful",
            "AugKD is “superior to training with more input data”.",
            f"Over KD with the larger set it leads by {_listed([_n(gap) for gap in gaps])} dB on "
            f"{_listed(list(table['dataset']))}: one unit of the last printed digit.",
            "Without seeds or intervals this is a tie.",
            table,
        )


def _heterogeneous() -> Iterator[Finding]:
    table: Any = audit.heterogeneous_teachers().set_index("teacher")
    best, strong = table["student_psnr"].idxmax(), table["teacher_psnr"].idxmax()
    if best == strong:
        return
    ends = table["student_psnr"]
    yield Finding(
        "The strongest teacher has not the best student",
        "Tables 3, 4 and 12",
        "doubtful",
        "AugKD works across architectures.",
        f"RCAN ×4 taught by {NETWORKS[str(best)]} reaches {_n(ends[best])} dB on Urban100; taught "
        f"by {NETWORKS[str(strong)]}, a teacher {_n(table.loc[strong, 'teacher_psnr'])} dB strong "
        f"against {_n(table.loc[best, 'teacher_psnr'])}, it reaches {_n(ends[strong])}.",
        "It works, but a better teacher of another kind buys nothing here.",
        table.reset_index(),
    )


def _coverage() -> Iterator[Finding]:
    table: Any = audit.coverage()
    gaps = {
        NETWORKS[network]: [METHODS[str(method)] for method in table.index[~table[network]]]
        for network in table
        if not table[network].all()
    }
    if gaps:
        said = [f"{network} lacks {_listed(absent)}" for network, absent in gaps.items()]
        yield Finding(
            "Not every method is compared on every network",
            "Tables 2, 3 and 10",
            "unstated",
            "AugKD is the best “in all experimental settings”.",
            f"{'; '.join(said)}.",
            "For SwinIR the comparison is with KD alone.",
            table.replace({True: "yes", False: "–"}).reset_index(),
        )


def _niqe() -> Iterator[Finding]:
    table: Any = audit.niqe_gains()
    gains = table[table["over"] == "kd"]
    most = gains.sort_values("gain").iloc[-1]
    share = most["gain"] / gains["gain"].sum()
    yield Finding(
        f"The NIQE gain over KD is mostly that on {most['dataset']}",
        "Table 5",
        "doubtful",
        "AugKD “achieves lower NIQE scores” on real photographs.",
        f"Lower than KD by {_listed([_n(g, 3) for g in gains['gain']])} on "
        f"{_listed(list(gains['dataset']))}: {100 * share:.0f} % of the sum is "
        f"{most['dataset']}'s.",
        "NIQE has no reference; without intervals the smaller gains say little. The training with "
        "degradations (length, patch, weights) is not described.",
        table,
    )


def _speed() -> Iterator[Finding]:
    table: Any = audit.speed_against_operations().set_index("network")
    share = table["faster"] / table["fewer"]
    worst = str(share.idxmin())
    yield Finding(
        "Fewer operations are not as many more frames",
        "Table 1",
        "unstated",
        f"{NETWORKS[worst]}'s student has {_n(table.loc[worst, 'fewer'], 1)} times fewer "
        "operations (multiply-accumulates, which the table calls FLOPs).",
        f"It is {_n(table.loc[worst, 'faster'], 1)} times faster by the same table; EDSR's is "
        f"{_n(table.loc['edsr', 'faster'], 1)} times faster with "
        f"{_n(table.loc['edsr', 'fewer'], 1)} times fewer.",
        "Operations do not stand for speed; the table's V100 of 64 GB is not a product either.",
        table.reset_index(),
    )


def _cost() -> Iterator[Finding]:
    table: Any = audit.step_cost().set_index("method")
    own = table.loc["augkd"]
    yield Finding(
        "What “only” leaves out",
        "Appendix A.3, Table 11",
        "confounded",
        f"AugKD costs “only {_n(own['extra_seconds'])}s” more a step than KD.",
        f"That is {100 * own['extra_share']:.0f} % more; the gain beside it is "
        f"{_n(own['psnr_gain'])} dB. KD was not given that time.",
        "At equal time KD would take more updates: our page of controls gives it twice as many.",
        table.reset_index(),
    )


def _csd() -> Iterator[Finding]:
    pairs: Any = audit.against_external()
    own = pairs[pairs["method"] == "csd"]
    public: Any = audit.external()
    sliced = public[public["method"] == "sliced_l1"].set_index("dataset")["value"]
    if own.empty or (own["difference"] != 0).any():
        return
    joined = own.set_index("dataset")["printed"].to_frame("CSD, Table 2")
    joined["sliced start, plain L1"] = sliced
    gap = joined["CSD, Table 2"] - joined["sliced start, plain L1"]
    yield Finding(
        "CSD's row is the published one, and a sliced start reaches it",
        "Table 2",
        "confounded",
        "CSD ×4 is a row among the others; nothing is said of its start or its evaluation.",
        f"Its {len(own)} PSNR are those of its own paper. A user of its code reports within "
        f"{_n(gap.abs().max())} dB of them by starting from the teacher's first channels alone.",
        "CSD's evaluation (self-ensemble in its commands) and start are not those of other rows.",
        joined.round(2).reset_index(),
    )


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _average_gains,
    _duplicated_rows,
    _ablation_rows,
    _reprinted,
    _teachers,
    _ablation_base,
    _more_data,
    _heterogeneous,
    _niqe,
    _initialisation,
    _csd,
    _cost,
    _coverage,
    _speed,
)
