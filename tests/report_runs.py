"""A small study that has been run: what the report is built from, with real outputs."""

import json
from base64 import encodebytes
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import torch
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from augkd.study.params import find_root
from augkd.study.report.pictures import SIDE, Example, by_hand, choose, show_windows
from augkd.study.report.style import paper_table, plain_table, use_style

TITLES = {
    "pages/table_02": "Table 2: EDSR & friends at <three> scales",
    "pages/table_03": "Table 3: one page of several",
    "pages/figure_02": "Figure 2: How alike student and teacher are",
    "pages/scorecard": "Scorecard: every claim, judged",
    "pages/compare": "Compare: two answers, by hand",
    "pages/controls": "Controls: where the gain comes from",
    "pages/audit": "Audit of the paper",
    "prepare": "Photographs",
    "teach/edsr_x2": "The teacher learns",
    "distil/edsr_x2": "A cohort learns",
    "distil/edsr_x4": "A cohort learns",
    "score/edsr": "Scores of a cohort",
}
RUN: dict[str, Any] = {"revision": "0123456789abcdef", "dirty": True, "device": "cpu"}
RUN |= {"cpu_count": 2, "torch": "2.13.0+cpu", "python": "3.11.9", "seconds": 93.0, "steps": 1000}
RUN["members"] = ["kd-0", "kd-1", "augkd-0", "augkd-1"]
CLAIMS: list[dict[str, Any]] = [
    {"id": "best", "verdict": "holds", "paper_gain": 0.12, "gain": 0.08, "low": 0.03, "high": 0.13}
    | {"seeds": 2},
    {"id": "vague", "verdict": "undecided", "paper_gain": 0.1, "gain": 0.0, "low": -3, "high": 3},
    {"id": "wrong", "verdict": "fails", "paper_gain": 0.3, "gain": -0.1, "low": -0.2, "high": -0.1},
    {"id": "absent", "verdict": "not run", "paper_gain": 0.8, "paper_verdict": "fails"},
    {"id": "few", "verdict": "not tested here", "gain": 0.1, "reason": "a method has too few"},
    {"id": "alike", "verdict": "no difference", "gain": 0.01, "low": -0.02, "high": 0.03}
    | {"shown": "no difference larger than 0.030 dB", "scope": "EDSR ×2"}
    | {"telling": "EDSR ×2, AugKD over KD"},
    {"id": "counted", "verdict": "holds", "unit": "", "topic": "Others", "title": "By <count>"},
]
GAINS = """claim,comparison,weight,gain,low,high,met
augkd_over_kd_edsr,"EDSR ×2, augkd over kd",0,0.02,-0.02,0.06,True
augkd_over_kd_edsr,"EDSR ×4, augkd over kd",0,-0.03,-0.06,0.0,True
augkd_over_kd_edsr,"EDSR ×3, augkd over kd",0,0.1,,,False
augkd_over_kd_edsr,"EDSR ×2, augkd over kd",1,0.03,-0.01,0.07,True
augkd_over_others_edsr,"EDSR ×2, augkd over kd",1,0.03,-0.01,0.07,True
"""
LINKS = {"Table 2": "#table_02", "gone": "#table_99", "all": ""}
TEXT = "AugKD is <b>best</b> & “first”"


def write_study(root: Path, budget: str = "smoke") -> Path:
    """Writes runs/BUDGET and a params.yaml below ``root``; returns runs/BUDGET."""
    runs = root / "runs" / budget
    for place, title in TITLES.items():
        folder = runs / place
        folder.mkdir(parents=True)
        made = one_of_several(title) if place == "pages/table_03" else notebook(title, place)
        (folder / "notebook.ipynb").write_text(nbformat.writes(made), encoding="utf-8")
        if place.startswith(("teach", "distil")):
            started = f"2026-02-0{1 + len(place) % 5}T10:00:00+00:00"
            run = RUN | {"cohort": folder.name, "budget": budget, "started": started}
            (folder / "run.json").write_text(json.dumps(run))
    (runs / "pages/table_02/table.csv").write_text("dataset,psnr\nSet5,38.00\n")
    (runs / "score/edsr/scores").mkdir()
    (runs / "score/edsr/scores/edsr_x2.csv").write_text("cohort,value\nedsr_x2,30\n")
    write_claims(runs / "pages/scorecard/verdicts.csv", CLAIMS)
    (runs / "pages/scorecard/gains.csv").write_text(GAINS)
    params = yaml.safe_load((find_root() / "params.yaml").read_text(encoding="utf-8"))
    params["budgets"][budget]["about"] = "Plumbing <only>, for a few steps."
    params["budget"] = params["budgets"]["cpu"]  # whichever is chosen in this clone
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return runs


def write_claims(path: Path, claims: list[dict[str, Any]]) -> None:
    defaults: dict[str, Any] = {"section": "4.2", "text": TEXT, "paper_verdict": "holds"}
    defaults |= {"unit": "dB", "seeds": 1, "images": 3}
    texts = ("topic", "note", "reason", "scope", "telling", "paper_gain", "gain", "low", "high")
    defaults |= dict.fromkeys(texts, "")
    rows = [defaults | {"title": one["id"], "shown": one["verdict"]} | one for one in claims]
    pd.DataFrame(rows).to_csv(path, index=False)


def notebook(title: str, place: str = "") -> Any:
    """An executed notebook with every kind of output that the study's notebooks have."""
    bars = "".join(f"\rkd:  {n}%|{'█' * (n // 10)}| {n}/100 [00:01<00:00]" for n in range(101))
    nested = "\ra: 10%|█  | 1/10\n\rb: 50%|██ | 5/10\x1b[A\ra: 100%|███| 10/10\nsaved\n5% off\n"
    warning = "/somewhere/ipykernel_123/4567.py:8: UserWarning: mind <this>\n"
    code = [
        new_code_cell("budget = 'cpu'", metadata={"tags": ["parameters"]}),
        new_code_cell("budget = 'smoke'", metadata={"tags": ["injected-parameters"]}),
        new_code_cell(
            "train(a < b)",
            outputs=[
                new_output("stream", name="stderr", text=bars[:400]),
                new_output("stream", name="stderr", text=bars[400:] + "\n" + warning + nested),
                new_output("stream", name="stdout", text="a <b> & \x1b[31mred\x1b[0m\n"),
            ],
        ),
        new_code_cell("show()", outputs=[_shown("text/html", table().to_html())]),
        new_code_cell("plot()", outputs=[_shown("image/svg+xml", svg())] * 2),
        new_code_cell("photo()", outputs=[_shown("image/png", png())]),
        new_code_cell("1 / 0", outputs=[new_output("error", ename="E", traceback=["1 <2"])]),
    ]
    opening = f"# {title}\n\nWhat $x^2$ & friends *say*.\n\nMore, in $a < b$ and `code`."
    code += [new_code_cell("own()", outputs=[_shown(*own)]) for own in special(place)]
    cells = [new_markdown_cell(opening), *code]
    cells.append(
        new_markdown_cell(
            "## Loss\n\n$$\\mathcal{L} = \\lVert x \\rVert_1$$\n\nSee [the table](table_02.ipynb), "
            "[another](table_99.ipynb).\n\n|a|b|\n|-|-|\n|1|2|\n\nBroken: $\\left( a$."
        )
    )
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
        cell.metadata["papermill"] = {"start_time": "now", "exception": False}
    made = new_notebook(cells=cells)
    made.metadata["papermill"] = {"output_path": "/somewhere/notebook.ipynb"}
    return made


def one_of_several(title: str) -> Any:
    """A page of a parameterised notebook, which says in its first cell what pages it makes."""
    opening = f"# {title}\n\nWhat *this* page says.\n\n**What to look at:** more."
    links = ", ".join(f"[{text}](backbone.ipynb{page})" for text, page in LINKS.items())
    cells = [
        new_markdown_cell("# Tables 2 and 3\n\nTwo pages.", metadata={"tags": ["introduction"]}),
        new_code_cell("page = 'table_03'", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("opening(page)", outputs=[_shown("text/markdown", opening)]),
        new_code_cell("note()", outputs=[_shown("text/markdown", f"A note: {links}.")]),
        new_code_cell("plot()", outputs=[_shown("image/svg+xml", f"<svg>{' ' * 200_000}</svg>")]),
    ]
    return new_notebook(cells=cells)


@cache
def example() -> Example:
    """An image of noise, whose answers are the nearer to HR the later."""
    noise = torch.randn(3, 112, 96, generator=torch.Generator().manual_seed(0))
    hr = (64 * noise + 128).clamp(0, 255).byte()
    spread = {"bicubic": 40, "scratch": 20, "kd": 19, "augkd": 18, "teacher": 9}
    answers = {m: (hr + s * noise.flip(1)).clamp(0, 255).byte() for m, s in spread.items()}
    windows = choose(answers, hr, ("scratch", "kd", "augkd"), SIDE, 2)
    return Example("x4", "photos", "a cat", hr, answers, {}, windows)


@cache
def special(place: str) -> list[tuple[str, str]]:
    """What else a page shows: kinds and data."""
    if place == "pages/compare":
        show_windows([example()], "widest")
        crops = by_hand([(example(), kind) for kind in example().windows.index])
        return [("text/html", crops), ("image/svg+xml", _svg())]
    table = plain_table(pd.DataFrame(CLAIMS)[["id", "verdict", "gain"]], "verdicts").to_html()
    marks = '<i id="T_premises"></i><i id="T_notes"></i><i id="T_augkd_over_kd"></i>'
    return [("text/html", table + marks)] if place == "pages/scorecard" else []


def _shown(mime: str, data: str) -> Any:
    return new_output("display_data", data={mime: data, "text/plain": "<object>"})


def table() -> Any:
    """A table with a better, a worse and an undecided row, and one that was not run."""
    index = pd.MultiIndex.from_product([["×2", "×4"], ["KD", "A<b>"]], names=["scale", "method"])
    columns = pd.MultiIndex.from_product(
        [["Set5", "Set14"], ["paper", "ours", "Δ", "interval"]], names=["dataset", "part"]
    )
    nan = float("nan")
    rows: list[list[Any]] = [
        [38.0, 35.123, 0.333, (0.1, 0.5)] * 2,
        [38.04, 35.456, -0.2, (-0.3, -0.1)] * 2,
        [32.1, 30.0, 0.001, (-0.1, 0.1)] * 2,
        [nan, nan, nan, None] * 2,
    ]
    frame = pd.DataFrame(rows, index=index, columns=columns, dtype=object)
    return paper_table(frame, "fixture", caption="PSNR <dB>.", labels={"Δ": "gain & loss"})


def svg() -> str:
    use_style()
    axes = plt.subplots()[1]
    axes.plot([0, 1], [1, 0], label="a & b")
    axes.set(xlabel="step", ylabel="PSNR [dB]")
    axes.legend()
    return _svg()


def _svg() -> str:
    file = StringIO()
    plt.savefig(file, format="svg", metadata={"Date": None})
    plt.close()
    return file.getvalue()


def png() -> str:
    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "png")
    return encodebytes(file.getvalue()).decode()
