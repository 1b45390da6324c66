"""What each method sees, asks for and costs, found out by letting it take steps on one batch."""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from augkd.data.sampler import Batch
from augkd.distill import METHODS, Teacher
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model
from augkd.options import Optimiser, Training
from augkd.study.cost.passes import META, multiply_accumulates, watched
from augkd.study.paper import load_table, select
from augkd.study.params import Cohort
from augkd.train import Member, single_core

SIGNS = {"lr": "x", "hr": "y", "zoom_in": "z_i", "zoom_out": "z_o", "transform": "F"}
"""The paper's letters for what a batch holds."""

Pair = tuple[SRNetwork, SRNetwork]
"""Student and teacher."""

CPU = torch.device("cpu")


class Entry(NamedTuple):
    """A method with its options, under a name of its own; ``kind`` is that of METHODS."""

    name: str
    kind: str
    options: Mapping[str, Any]
    method: Any


def entry(cohort: Cohort, name: str) -> Entry:
    """A method as the cohort has it; with its default options where it has none of the name."""
    options = dict(cohort.methods.get(name, {}))
    kind = str(options.pop("method", name))
    return Entry(name, kind, options, cohort.method(name) if options else METHODS[kind]())


def entries(cohort: Cohort) -> list[Entry]:
    """Every method with its default options, then the cohort's that are not among those.

    A method that the cohort has under a name of its own, with default options, takes that name.
    """
    found = {kind: Entry(kind, kind, {}, method()) for kind, method in METHODS.items()}
    for one in (entry(cohort, name) for name in cohort.methods):
        found[one.name if one.options else one.kind] = one
    return list(found.values())


class Step(NamedTuple):
    """One iteration of a method, or why there is none.

    Attributes:
        refusal: the reason why the method does not apply to these networks; "" where it does.
        terms: each already multiplied by its weight, summed over the updates of the iteration.
        sees: the parts of the batch that were read, by student, teacher or loss; T where the
            teacher answered; the student's feature maps that were compared.
        student, teacher: forward passes through each, in batches of LR patches. An image of
            another size counts by its area: zooming out at x2 is a quarter. Networks that a
            method keeps (CSD's trainable teacher) count as the teacher.
    """

    refusal: str = ""
    terms: Mapping[str, float] = {}
    sees: str = ""
    student: float = 0.0
    teacher: float = 0.0


def try_step(entry: Entry, pair: Pair, batch: Batch) -> Step:
    """Lets a method take an iteration on a batch, from copies of the networks.

    Terms are those at the weights that were given and at the paper's learning rate (a second
    update within the iteration starts from moved weights).
    """
    try:
        [member], teacher = learner(entry.name, entry.method, pair)
    except UserError as error:
        return Step(refusal=str(error))
    member.share(None)  # so that drop-path draws by the member's name
    read: set[str] = set()

    class Seen(Batch):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    with watched(member, teacher) as passes:
        update([member], teacher, Seen(**vars(batch)))
    own = theirs = 0.0
    for one in passes:
        count = one.n * one.height * one.width / batch.lr[:, 0].numel()
        if one.network is member.network:
            own += count
        elif isinstance(one.network, SRNetwork):
            theirs += count
    signs = [sign for name, sign in SIGNS.items() if name in read] + ["T"] * bool(theirs)
    taps = ", ".join(getattr(member.method, "student_taps", ()))
    sees = ", ".join(signs) + (f"; features {taps}" if taps else "")
    return Step("", member.means(1), sees, own, theirs)


def learner(
    name: str, method: Any, pair: Pair, device: torch.device = CPU
) -> tuple[list[Member], Teacher]:
    """A student that can take steps, and its teacher; copies, by no schedule."""
    training = Training(
        steps=1, batch=1, patch=12, lr=1e-4, decay_every=1, seeds=1, ema=0.0, validate_every=1
    )
    student, teacher = (deepcopy(network).to(device) for network in pair)
    with torch.random.fork_rng(devices=[]):
        member = Member(name, student, method, teacher, Optimiser(), training, device)
    return [member], Teacher(teacher)


def update(members: Sequence[Member], teacher: Teacher, batch: Batch, lr: float = 1e-4) -> None:
    """One step of each, in turn, beside their teacher."""
    teacher.see(batch)
    for member in members:
        member.update(batch, teacher, lr)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """What a call takes until the device is done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    begun = now()
    call()
    return now() - begun


def time_rounds(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    limit: float,
    rounds: tuple[int, int] = (5, 60),
) -> pd.DataFrame:
    """Seconds of calls that take turns, each round beginning with another.

    So a machine that slows down or warms up does so for all of them.

    Args:
        limit: seconds after which no round begins, once ``rounds[0]`` are done.
        rounds: fewest and most.

    Returns:
        Rows rounds, columns calls.
    """
    names, measured, end = list(calls), list[dict[str, float]](), time.perf_counter() + limit
    with single_core(device):
        for call in calls.values():  # the first step of a method makes more passes than others
            call()
        while len(measured) < rounds[0] or (
            time.perf_counter() < end and len(measured) < rounds[1]
        ):
            turn = len(measured) % len(names)
            order = names[turn:] + names[:turn]
            measured.append({name: seconds(calls[name], device) for name in order})
    return pd.DataFrame(measured)[names].rename_axis("round")


def time_steps(
    entries: Sequence[Entry], pair: Pair, batch: Batch, device: torch.device, *limits: Any
) -> pd.DataFrame:
    """Times whole steps of methods: forward, backward, update; the batch is there already."""
    calls = {e.name: partial(update, *learner(e.name, e.method, pair, device), batch.to(device)) for e in entries}
    return time_rounds(calls, device, *limits)


def summarise(timed: pd.DataFrame, reference: str, resamples: int = 1999) -> pd.DataFrame:
    """The median step of each method, with 95 % intervals from resampled rounds.

    Returns:
        Rows methods; columns seconds, seconds_low, seconds_high; ratio, ratio_low, ratio_high: to
        the reference, whose rounds are drawn together with the method's, as they were measured.
    """
    rounds, place = timed.to_numpy(dtype=float), list(timed).index(reference)
    drawn = np.random.default_rng(0).integers(len(rounds), size=(resamples, len(rounds)))
    medians, resampled = np.median(rounds, axis=0, keepdims=True), np.median(rounds[drawn], axis=1)
    columns: dict[str, Any] = {}
    for name, divided in (("seconds", False), ("ratio", True)):
        one, many = (m / m[:, [place]] if divided else m for m in (medians, resampled))
        low, high = np.quantile(many, [0.025, 0.975], axis=0)
        columns |= {name: one[0], f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns, index=pd.Index(timed.columns, name="method"))


def cost_table(
    timed: pd.DataFrame, steps: Mapping[str, Step], pair: Pair, patch: int
) -> pd.DataFrame:
    """What a step costs, a row a method.

    Args:
        timed: of ``time_steps``, with "kd" among the methods.
        steps: of ``try_step``, by name.
        pair, patch: the networks of the steps, and the side of their LR patches, pixels.

    Returns:
        The columns of ``summarise``, with ratios to KD; student, teacher (passes); macs (10^9,
        forward, an LR patch) and macs_paper (the same with the EDSR pair of Table 1 at x2, a
        patch of 48 x 48), and macs_kd, macs_paper_kd: how many times KD's; Table 11's seconds
        (paper) and paper_ratio.
    """
    with META:
        networks = [create_model("edsr", role, 2) for role in ("student", "teacher")]
    frame = summarise(timed, "kd")
    for role in ("student", "teacher"):
        frame[role] = [getattr(steps[name], role) for name in frame.index]
    for name, of, side in (("macs", pair, patch), ("macs_paper", networks, 48)):
        student, teacher = (multiply_accumulates(one, side, side) / 1e9 for one in of)
        frame[name] = frame["student"] * student + frame["teacher"] * teacher
        frame[f"{name}_kd"] = frame[name] / frame[name]["kd"]
    # the paper's CSD compares features of VGG19, which is another computation
    printed = select(load_table(11), metric="seconds_per_step").set_index("method")["value"]
    frame["paper"] = printed.reindex(frame.index)
    return frame.assign(paper_ratio=frame["paper"] / float(printed["kd"]))


def crop_corners(hr: Tensor, crops: Tensor) -> list[tuple[int, int]]:
    """Row and column where each crop (N, 3, p, p) lies in its image (N, 3, H, W); the first."""
    size, corners = crops.shape[-1], []
    for image, crop in zip(hr, crops, strict=True):
        windows = image.unfold(1, size, 1).unfold(2, size, 1)
        same = (windows == crop[:, None, None]).flatten(3).all(3).all(0)
        row, column = same.nonzero()[0].tolist()
        corners.append((row, column))
    return corners
