"""What the audit must find; the expected numbers were worked out by hand from the printed page."""

from typing import Any

import pandas as pd
import pytest

from augkd.study.paper import audit

KD, SCRATCH, OTHER = (
    {"over": over, "datasets": "Urban100"} for over in ("kd", "scratch", "best_other")
)
URBAN = {"dataset": "Urban100", "metric": "psnr_y"}
ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # the stated averages are not those of the tables
    ("average_gains", {"network": "edsr", **KD}, {"x2": 0.55, "x3": 0.44, "x4": 0.24}),
    ("average_gains", {"network": "rcan", **KD}, {"x2": 0.20, "x3": 0.17, "x4": 0.13}),
    ("average_gains", {"network": "swinir", **KD}, {"x2": 0.54, "x3": 0.30, "x4": 0.28}),
    ("average_gains", {"network": "edsr", **KD}, {"mean": 0.410, "stated": 0.43}),
    ("average_gains", {"network": "rcan", **KD}, {"mean": 0.1667, "stated": 0.31}),
    ("average_gains", {"network": "swinir", **KD}, {"mean": 0.3733, "stated": 0.31}),
    # other readings of "improvement"
    ("average_gains", {"network": "edsr", **SCRATCH}, {"mean": 0.42}),
    ("average_gains", {"network": "rcan", **SCRATCH}, {"mean": 0.23}),
    ("average_gains", {"network": "swinir", **SCRATCH}, {"mean": 0.3967}),
    ("average_gains", {"network": "edsr", **OTHER}, {"mean": 0.2033}),
    ("average_gains", {"network": "rcan", **OTHER}, {"mean": 0.1467}),
    ("average_gains", {"network": "swinir", **OTHER}, {"mean": 0.3733}),
    # one row is printed under two models, and one number in two versions
    ("duplicated_rows", {"same_model": False}, {"table": 3, "row": 1, "model": "rcan x2 scratch"}),
    ("duplicated_rows", {"same_model": False}, {"other_table": 10, "other_row": 3, "cells": 8}),
    ("duplicated_rows", {"same_model": False}, {"other_model": "swinir x2 augkd"}),
    ("reprinted_values", {"difference": 0.0003}, {"table": 2, "value": 0.7963}),
    ("reprinted_values", {"difference": 0.0003}, {"other_table": 8, "other_value": 0.7966}),
    # a start from x2 is worth more than most methods
    ("initialisation_gap", {"method": "scratch", **URBAN}, {"gap": 0.27}),
    ("initialisation_gap", {"method": "augkd", **URBAN}, {"gap": 0.13}),
    # the strongest teacher has not the best student
    ("heterogeneous_teachers", {"teacher": "rcan"}, {"student_psnr": 26.62}),
    ("heterogeneous_teachers", {"teacher": "edsr"}, {"student_psnr": 26.59}),
    ("heterogeneous_teachers", {"teacher": "swinir"}, {"student_psnr": 26.59}),
    # the ablation's base row is at two-bit level
    ("ablation_base", {"psnr_difference": -0.01}, {"evaluation": "quantized_2bit"}),
    ("ablation_base", {"psnr_difference": -1.17}, {"evaluation": "full_precision"}),
    # EDSR's teachers are self-ensembled and the others are not
    *(
        ("teacher_level", {"network": network, "scale": scale, "nearest": True}, {"evaluation": by})
        for network, scales, by in [
            ("edsr", (2, 4), "self_ensemble"),
            ("rcan", (2, 4), "single_pass"),
            ("swinir", (2, 3, 4), "single_pass"),
        ]
        for scale in scales
    ),
    ("step_cost", {"method": "augkd"}, {"extra_seconds": 0.21, "psnr_gain": 0.55}),
    ("step_cost", {"method": "augkd"}, {"extra_share": pytest.approx(0.43, abs=0.005)}),
    ("speed_against_operations", {"network": "swinir"}, {"fewer": 7.09, "faster": 1.9}),
]


@pytest.mark.parametrize(("name", "keys", "expected"), ROWS)
def test_a_row_by_its_keys(name: str, keys: dict[str, Any], expected: dict[str, Any]) -> None:
    table: pd.DataFrame = getattr(audit, name)()
    (row,) = table[(table[[*keys]] == keys).all(axis=1)].to_dict("records")
    assert {key: row[key] for key in expected} == expected


def test_no_reading_gives_the_stated_average() -> None:
    gains = audit.average_gains()
    for network, stated in {"edsr": 0.43, "rcan": 0.31, "swinir": 0.31}.items():
        means = gains.loc[gains["network"] == network, "mean"]
        assert not means.sub(stated).abs().le(0.005).any()
    implied = audit.implied_by_statement("swinir", 2)
    assert implied == {"stated": 0.31, "gain": 0.35, "implied": 32.44, "printed": 32.63}


def test_what_is_printed_twice_else_agrees() -> None:
    assert len(audit.duplicated_rows()) == 6  # five are one model printed twice
    pairs = audit.reprinted_values()
    assert (pairs["difference"] != 0).sum() == 1
    # Table 11's five columns, Table 8's three rows and Table 4's first agree with the main tables
    assert {8, 11, 4} <= set(pairs["other_table"])


def test_the_ablation_has_no_scale_that_fits() -> None:
    assert [audit.scale_of(number) for number in (8, 6, 7)] == [4, None, None]
    assert audit.ablation_base()["evaluation"].iloc[0] == "quantized_2bit"


def test_public_numbers_by_evaluation() -> None:
    level, pairs = audit.teacher_level(), audit.against_external()
    single = level[(level["network"] == "edsr") & (level["evaluation"] == "single_pass")]
    assert single["difference"].gt(0.05).all()  # ×3 too, where no ensemble figure was found
    keys = {"network": "edsr", "scale": 4, "table": 12, **URBAN}
    urban = pairs[(pairs[[*keys]] == keys).all(axis=1)]
    most = urban.groupby("evaluation")["difference"].max().to_dict()
    assert most == {"self_ensemble": 0.01, "single_pass": 0.23}
    csd = pairs.loc[pairs["method"] == "csd", "difference"]
    assert list(csd) == [0, 0, 0, 0]  # as published


def test_niqe_gains_and_coverage() -> None:
    niqe = audit.niqe_gains()
    assert list(niqe.loc[niqe["over"] == "kd", "gain"]) == [0.027, 0.030, 0.158]
    assert audit.heterogeneous_teachers().set_index("teacher")["teacher_psnr"].idxmax() == "swinir"
    coverage = audit.coverage()
    assert not coverage.loc["crosskd", "edsr"]
    assert not coverage.loc["csd", "rcan"]
    assert set(coverage.index[coverage["swinir"]]) == {"scratch", "kd", "augkd"}
