"""What the audit must find; the expected numbers were worked out by hand from the printed page."""

from typing import Any

import pandas as pd
import pytest

from augkd.study.paper import audit

URBAN = {"dataset": "Urban100", "metric": "psnr_y"}
ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # one row is printed under two models, and one number in two versions
    ("duplicated_rows", {"same_model": False}, {"table": 3, "row": 1, "model": "rcan x2 scratch"}),
    ("duplicated_rows", {"same_model": False}, {"other_table": 10, "other_row": 3, "cells": 8}),
    ("duplicated_rows", {"same_model": False}, {"other_model": "swinir x2 augkd"}),
    ("reprinted_values", {"difference": 0.0003}, {"table": 2, "value": 0.7963}),
    ("reprinted_values", {"difference": 0.0003}, {"other_table": 8, "other_value": 0.7966}),
    # a start from x2 is worth more than most methods
    ("initialisation_gap", {"method": "scratch", **URBAN}, {"gap": 0.27}),
    ("initialisation_gap", {"method": "augkd", **URBAN}, {"gap": 0.13}),
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
]


@pytest.mark.parametrize(("name", "keys", "expected"), ROWS)
def test_a_row_by_its_keys(name: str, keys: dict[str, Any], expected: dict[str, Any]) -> None:
    table: pd.DataFrame = getattr(audit, name)()
    (row,) = table[(table[[*keys]] == keys).all(axis=1)].to_dict("records")
    assert {key: row[key] for key in expected} == expected


def test_no_reading_gives_the_stated_average() -> None:
    gains = audit.average_gains().set_index(["over", "network"])
    urban = gains[gains["datasets"] == "Urban100"]
    kd = {"edsr": [0.55, 0.44, 0.24], "rcan": [0.20, 0.17, 0.13], "swinir": [0.54, 0.30, 0.28]}
    assert dict(zip(kd, urban.loc["kd", ["x2", "x3", "x4"]].to_numpy().tolist(), strict=True)) == kd
    means = urban["mean"].unstack("network").T.to_dict("list")
    assert means["kd"] == [0.410, 0.1667, 0.3733]
    assert means["scratch"] == [0.42, 0.23, 0.3967]
    assert means["best_other"] == [0.2033, 0.1467, 0.3733]
    for network, stated in {"edsr": 0.43, "rcan": 0.31, "swinir": 0.31}.items():
        assert urban.loc[("kd", network), "stated"] == stated
        every = gains.xs(network, level="network")["mean"].to_numpy()
        assert not (abs(every - stated) <= 0.005).any()
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
