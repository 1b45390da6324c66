"""What an optimiser step of a method costs (Table 11): timed on this device, and counted."""

import time
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler

from augkd.config import Study
from augkd.data.batch import Batch
from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore
from augkd.distill import Teacher
from augkd.models import SRNetwork
from augkd.paper import load_table, select
from augkd.study import build
from augkd.style import METHOD_NAMES
from augkd.zoo import Entry, Step, new_member, try_step

Pair = tuple[SRNetwork, SRNetwork]


def table_entries(study: Study, cohort: str, methods: Sequence[str]) -> list[Entry]:
    """The methods with the options that the cohort gives them, or their defaults."""
    chosen = study.cohort(cohort).methods
    found = []
    for name in methods:
        options = dict(chosen.get(name, {}))
        found.append(Entry(name, str(options.pop("method", name)), options))
    return found


def pair_and_batch(study: Study) -> tuple[Pair, Batch]:
    """The budget's EDSR student and teacher at x2, untrained, and a batch of its size."""
    pair = (build(study, "edsr", "student", 2, 0), build(study, "edsr", "teacher", 2, 0))
    training = study.budget.distil
    sampler = PatchSampler(
        ImageStore(study.folder("prepare") / "train"),
        scale=2,
        patch=training.patch,
        batch=training.batch,
        seed=study.params.seed,
    )
    return pair, sampler.draw(0)


def count_steps(entries: Sequence[Entry], pair: Pair, batch: Batch) -> dict[str, Step]:
    """The forward passes of each method's step, for ``zoo.cost_table``."""
    return {entry.name: try_step(entry, *pair, batch, repeats=0) for entry in entries}


def time_steps(
    entries: Sequence[Entry],
    pair: Pair,
    batch: Batch,
    device: torch.device,
    limit: float,
    rounds: tuple[int, int] = (5, 60),
) -> pd.DataFrame:
    """Seconds of whole steps: forward, backward, update; the batch is there already.

    Methods take turns, one step each a round and each round beginning with another, so that a
    machine that slows down or warms up does so for all of them.

    Args:
        pair: student and teacher; copied, so that they stay as they are.
        limit: seconds after which no round begins, once ``rounds[0]`` are done.
        rounds: fewest and most.

    Returns:
        Rows rounds, columns methods.
    """
    batch, members, teachers = batch.to(device), {}, {}
    for entry in entries:
        student, teacher = (deepcopy(network).to(device) for network in pair)
        members[entry.name] = new_member(entry.name, student, entry.method(), teacher, device)
        teachers[entry.name] = Teacher(teacher)
    names = list(members)

    def step(name: str) -> float:
        _wait(device)
        begun = time.perf_counter()
        members[name].update(batch, teachers[name].see(batch), 1e-4)
        _wait(device)
        return time.perf_counter() - begun

    for name in names:  # twice: taps asked for once are read in the same pass from then on
        step(name)
        step(name)
    measured: list[dict[str, float]] = []
    end = time.perf_counter() + limit
    while len(measured) < rounds[0] or (time.perf_counter() < end and len(measured) < rounds[1]):
        turn = len(measured) % len(names)
        measured.append({name: step(name) for name in names[turn:] + names[:turn]})
    return pd.DataFrame(measured)[names].rename_axis("round")


def summarise(timed: pd.DataFrame, reference: str, resamples: int = 1999) -> pd.DataFrame:
    """The median step of each method, with 95 % intervals from resampled rounds.

    Returns:
        Rows methods; columns seconds, low, high; ratio, ratio_low, ratio_high: to the reference,
        whose rounds are drawn together with the method's, as they were measured.
    """
    values = timed.to_numpy(dtype=float)
    drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    medians = np.median(values[drawn], axis=1)
    place = list(timed.columns).index(reference)
    seconds = np.median(values, axis=0)
    ratios = medians / medians[:, [place]]
    edges = [0.025, 0.975]
    low, high = np.quantile(medians, edges, axis=0)
    ratio_low, ratio_high = np.quantile(ratios, edges, axis=0)
    return pd.DataFrame(
        {
            "seconds": seconds,
            "low": low,
            "high": high,
            "ratio": seconds / seconds[place],
            "ratio_low": ratio_low,
            "ratio_high": ratio_high,
        },
        index=pd.Index(timed.columns, name="method"),
    )


def beside_paper(timed: pd.DataFrame, counted: pd.DataFrame) -> pd.DataFrame:
    """Table 11's costs: ``summarise``, then passes and operations, then the paper's seconds.

    Args:
        timed: of ``summarise``.
        counted: of ``augkd.zoo.cost_table``.
    """
    counted = counted.reindex(timed.index)
    kept = counted[["student", "teacher", "macs", "macs_paper_kd"]]
    printed = select(load_table(11), metric="seconds_per_step").set_index("method")["value"]
    return timed.join(kept).assign(
        macs_kd=counted["macs"] / float(counted["macs"]["kd"]),
        paper=printed.reindex(timed.index),
        paper_ratio=printed.reindex(timed.index) / float(printed["kd"]),
    )


def show(costs: pd.DataFrame, where: str) -> Styler:
    """The table of the page: times with their intervals, counts, the paper's.

    Args:
        costs: of ``beside_paper``.
        where: device and sizes, for the heading.
    """

    def within(name: str, low: str, high: str, digits: int) -> list[str]:
        columns = zip(costs[name], costs[low], costs[high], strict=True)
        return [
            f"{m:.{digits}f} ({a:.{digits}f} … {b:.{digits}f})" if a < b else f"{m:.{digits}f}"
            for m, a, b in columns
        ]

    def plain(name: str, digits: int) -> list[str]:
        return ["–" if pd.isna(v) else f"{v:.{digits}f}" for v in costs[name]]

    milliseconds = 1000 * costs[["seconds", "low", "high"]]
    here = [f"{m:.1f} ({a:.1f} … {b:.1f})" for m, a, b in milliseconds.to_numpy()]
    frame = pd.DataFrame(
        {
            ("milliseconds a step", "ours"): here,
            ("milliseconds a step", "paper"): [f"{1000 * v:.0f}" for v in costs["paper"]],
            ("× KD", "ours"): within("ratio", "ratio_low", "ratio_high", 2),
            ("× KD", "paper"): plain("paper_ratio", 2),
            ("passes", "student"): plain("student", 2),
            ("passes", "teacher"): plain("teacher", 2),
            ("multiply-adds", "G"): plain("macs", 3),
            ("multiply-adds", "× KD"): plain("macs_kd", 2),
            ("multiply-adds", "Table 1"): plain("macs_paper_kd", 2),
        },
        index=pd.Index([METHOD_NAMES[name] for name in costs.index], name="method"),
    )
    styler = frame.style.set_uuid("costs").set_table_attributes('class="paper-table"')
    styler = styler.set_table_styles(
        [{"selector": "td, thead th.col_heading", "props": "text-align: right"}]
    )
    return styler.set_caption(f"Ours: {where}.")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
