"""The tables as data: against the paper's text where it is at hand, and by samples always.

Set AUGKD_PAPER to a plain text of the paper, with tab-separated tables, to compare every cell.
The reader here knows nothing of the CSV files: it reads the tables as printed.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from augkd.study.paper import TABLES, all_tables, load_table, paper_value
from augkd.study.report.claims import load_claims

IDS = {"Logits KD": "kd", "FAKD+AugKD": "fakd_augkd", "BSD100": "B100", "#Params": "parameters"}
SWITCHES = {
    6: {"✗✗": "kd", "✓✗": "zoom_both", "✓✓": "augkd"},
    7: {"✗✗": "kd", "✓✗": "zoom_in", "✗✓": "zoom_out", "✓✓": "zoom_both"},
}
Cell = tuple[int, int, str, str, str, str, str, str]  # table, row, then keys, metric, text


def _id(text: str) -> str:
    text = text.strip().strip("*()")
    return IDS.get(text, text if text in ("Set5", "Set14", "Urban100") else text.lower())


def _blocks(text: str) -> dict[int, list[list[str]]]:
    """The tab-separated lines under each "Table n:" caption."""
    blocks: dict[int, list[list[str]]] = {}
    number = 0
    for line in text.splitlines():
        if caption := re.match(r"Table (\d+):", line):
            number = int(caption[1])
        elif "\t" in line and number:
            blocks.setdefault(number, []).append([c.strip() for c in line.split("\t")])
        elif line.strip() and number in blocks:
            number = 0
    return blocks


def _quality(
    table: int, row: int, keys: tuple[str, str, str], sets: list[str], cells: list[str]
) -> Iterator[Cell]:
    for dataset, cell in zip(sets, cells, strict=True):
        psnr, ssim = re.sub(r"</?u>|\s", "", cell).split("/")
        yield table, row, *keys, dataset, "psnr_y", psnr
        yield table, row, *keys, dataset, "ssim_y", ssim


def _read(text: str) -> Iterator[Cell]:
    blocks = _blocks(text)
    network = ""
    names = ["channels", "blocks", "groups", "multiply_accumulates", "parameters"]
    for row, line in enumerate(blocks[1][2:], 1):
        network = line[0] or network
        for metric, value in zip([*names, "frames_per_second"], line[2:], strict=True):
            if value != "-":
                yield 1, row, network.lower(), "4", "", "", metric, value.removesuffix(" M")
    for table, network in ((2, "edsr"), (3, "rcan"), (10, "swinir"), (12, "")):
        scale = ""
        sets = [_id(c) for c in blocks[table][0][2:]]
        for row, line in enumerate(blocks[table][2:], 1):
            scale = "".join(re.findall(r"\d", line[0])) or scale
            keys = (network or _id(line[1]), scale, _id(line[1]) if network else "teacher")
            yield from _quality(table, row, keys, sets, line[2:])
    for row, line in enumerate(blocks[4][2:], 1):
        method = "scratch" if "Scratch" in line[0] else "augkd"
        yield from _quality(4, row, ("rcan", "4", method), ["B100", "Urban100"], line[1:])
    for row, line in enumerate(blocks[5][1:], 1):
        method = "teacher" if row == 1 else _id(line[0])
        keys = ("swinir", "4", method)
        if line[1]:
            yield 5, row, *keys, "", "parameters", line[1].removesuffix("M")
        for dataset, value in zip(blocks[5][0][2:], line[2:], strict=True):
            yield 5, row, *keys, dataset, "niqe", value
    for table, methods in SWITCHES.items():
        for row, line in enumerate(blocks[table][2:], 1):
            keys = ("edsr", "", methods[line[0] + line[1]])
            yield from _quality(table, row, keys, ["Urban100"], [line[2]])
    for row, line in enumerate(blocks[8][2:], 1):
        yield from _quality(8, row, ("edsr", "", _id(line[1])), ["Urban100"], [line[2]])
    for row, line in enumerate(blocks[9][2:], 1):
        if line[1]:
            mantissa, power = line[2].split("×10^")
            steps = str(int(float(mantissa) * 10 ** int(power)))
            yield 9, row, "edsr", "4", "", "", "training_images", line[1]
            yield 9, row, "edsr", "4", "", "", "training_steps", steps
        keys = ("edsr", "4", _id(line[3]))
        yield from _quality(9, row, keys, ["B100", "Urban100"], line[4:])
    names = [_id(c) for c in blocks[11][0][1:]]
    measured = (("", "seconds_per_step"), ("Urban100", "psnr_y"))
    for row, ((dataset, metric), line) in enumerate(zip(measured, blocks[11][1:], strict=True), 1):
        for method, value in zip(names, line[1:], strict=True):
            yield 11, row, "edsr", "2", method, dataset, metric, value


def _ours(table: pd.DataFrame) -> set[Cell]:
    cells = set()
    for row in table.to_dict("records"):
        scale = "" if pd.isna(row["scale"]) else str(row["scale"])
        text = f"{row['value']:.{max(row['decimals'], 0)}f}"
        keys = (str(row["network"]), scale, str(row["method"]), str(row["dataset"]))
        cells.add((int(row["table"]), int(row["row"]), *keys, str(row["metric"]), text))
    return cells


@pytest.fixture(scope="module")
def paper_text() -> str:
    path = os.environ.get("AUGKD_PAPER")
    if not path:
        pytest.skip("AUGKD_PAPER does not name the paper's text")
    return Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("number", TABLES)
def test_every_cell_is_as_printed(paper_text: str, number: int) -> None:
    printed = {cell for cell in _read(paper_text) if cell[0] == number}
    assert printed ^ _ours(load_table(number)) == set()


def test_marks_are_as_printed(paper_text: str) -> None:
    for number in (2, 3):
        rows = load_table(number).groupby("row")
        for (_, mine), line in zip(rows, _blocks(paper_text)[number][2:], strict=True):
            assert mine["marks"].str.contains("starred").eq("*" in line[1]).all()
            for dataset, cell in zip(["Set5", "Set14", "B100", "Urban100"], line[2:], strict=True):
                marks = mine.loc[mine["dataset"] == dataset, "marks"]
                assert marks.str.contains("underlined").eq("<u>" in cell).all()


def test_quotations_are_in_the_text(paper_text: str) -> None:
    plain = re.sub(r"[*’'\s]+", " ", paper_text.replace("$", ""))
    for claim in load_claims():
        assert re.sub(r"[*’'\s]+", " ", claim.quote) in plain, claim.id


def test_size_of_every_table() -> None:
    # rows x columns counted on the printed page
    sizes = [32, 192, 192, 12, 14, 6, 8, 8, 20, 72, 10, 72]
    assert [len(load_table(number)) for number in TABLES] == sizes
    assert len(all_tables()) == sum(sizes)


@pytest.mark.parametrize(
    ("table", "metric", "keys", "value"),
    [
        (1, "multiply_accumulates", {"network": "swinir", "role": "student"}, 121.48),
        (2, "psnr_y", {"scale": 4, "method": "augkd", "dataset": "Urban100"}, 26.45),
        (3, "ssim_y", {"scale": 2, "method": "crosskd", "dataset": "Set5"}, 0.9612),
        (4, "psnr_y", {"teacher": "swinir", "dataset": "Urban100"}, 26.59),
        (5, "niqe", {"method": "scratch", "dataset": "RealSR"}, 5.810),
        (7, "ssim_y", {"method": "zoom_out", "scale": 4}, 0.7552),  # prints no scale
        (9, "training_steps", {"training_set": "df2k"}, 5e5),
        (12, "psnr_y", {"row": 9, "dataset": "Set14"}, 28.94),
    ],
)
def test_a_number_by_its_keys(
    table: int, metric: str, keys: dict[str, object], value: float
) -> None:
    assert paper_value(table, metric, **keys) == value


def test_lookup_refuses_what_is_not_one_number() -> None:
    cases: list[tuple[int, dict[str, object], str]] = [
        (2, {"dataset": "Set5"}, "24 numbers"),
        (2, {"method": "crosskd", "scale": 2, "dataset": "Set5"}, "0 numbers"),
        (2, {"methd": "kd"}, "no key 'methd'"),
        (13, {}, "not 13"),
    ]
    for table, keys, said in cases:
        with pytest.raises(LookupError, match=said):
            paper_value(table, "psnr_y", **keys)


def test_a_loaded_table_is_the_callers_own() -> None:
    mine = load_table(2)
    mine["value"] = 0.0
    assert paper_value(2, "psnr_y", scale=2, method="kd", dataset="Set5") == 38.04
