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
from augkd.distill import Teacher
from augkd.distill.features import points
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model
from augkd.options import Optimiser, Training
from augkd.study.cost.passes import CPU, META, Asked, multiply_accumulates, watched
from augkd.study.paper import load_table, select
from augkd.train import Member, single_core

# the paper's letters for what a batch holds
SIGNS = {"lr": "x", "hr": "y", "zoom_in": "z_i", "zoom_out": "z_o", "transform": "F"}
Pair = tuple[SRNetwork, SRNetwork]  # student and teacher
Call = Callable[[], object]


class Step(NamedTuple):
    """One iteration of a method, or why there is none."""

    refusal: str = ""  # why the method does not apply to these networks; "" where it does
    terms: Mapping[str, float] = {}  # times their weights, summed over the iteration's updates
    sees: str = ""  # what was read of the batch; T if the teacher answered; the taps compared
    student: float = 0.0  # forward passes, in batches of LR patches: an image counts by its area
    teacher: float = 0.0  # likewise, of it and of networks that a method keeps (as CSD does)


def try_step(name: str, method: Any, pair: Pair, batch: Batch) -> Step:
    """Lets a method take an iteration on a batch, from copies of the networks: terms are those at
    their weights; a second update starts from what the paper's learning rate moved."""
    try:
        [member], teacher = learner(name, method, pair, CPU, precision="float32")
    except UserError as error:
        return Step(refusal=str(error))
    member.share(None)  # so that drop-path draws by the member's name
    read: set[str] = set()

    class Seen(Batch):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    with watched(member, asked := Asked(teacher.network)) as passes:
        update([member], asked, Seen(**vars(batch)))
    counts = {True: 0.0, False: 0.0}
    for one in passes:
        if isinstance(one.network, SRNetwork):
            counts[one.network is member.network] += one.shape.numel() / batch.lr.numel()
    signs = [sign for name, sign in SIGNS.items() if name in read] + ["T"] * bool(counts[False])
    taps = ", ".join(points(member.network)[index] for index in getattr(method, "taps", ()))
    sees = ", ".join(signs) + (f"; features {taps}" if taps else "")
    return Step("", member.means(1), sees, counts[True], counts[False])


def learner(
    name: str, method: Any, pair: Pair, device: torch.device, **options: Any
) -> tuple[list[Member], Teacher]:
    """A student that can take steps, and its teacher: copies, by no schedule."""
    once = ("steps", "batch", "patch", "decay_every", "seeds", "validate_every")
    training = Training(**dict.fromkeys(once, 1) | options, lr=1e-4, ema=0.0)
    student, teacher = (deepcopy(network).to(device) for network in pair)
    with torch.random.fork_rng(devices=[]):
        member = Member(name, student, method, teacher, Optimiser(), training, device)
    return [member], Teacher(teacher)


def update(members: Sequence[Member], teacher: Teacher, batch: Batch, lr: float = 1e-4) -> None:
    """One step of each, in turn, beside their teacher."""
    teacher.see(batch)
    for member in members:
        member.update(batch, teacher, lr, 0)


def time_rounds(
    calls: Mapping[str, Call], device: torch.device, limit: float, rounds: tuple[int, int] = (5, 60)
) -> pd.DataFrame:
    """Seconds of calls that take turns, so that a machine that slows down or warms up does so for
    all of them: rows rounds, each begun with another; columns calls. No round begins after
    ``limit`` seconds, once the fewest of ``rounds`` are done, nor after the most."""

    def took(call: Call) -> float:
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    names, measured, end = list(calls), list[dict[str, float]](), time.perf_counter() + limit
    with single_core(device):
        while (n := len(measured)) <= rounds[0] or (n <= rounds[1] and time.perf_counter() < end):
            order = names[n % len(names) :] + names[: n % len(names)]
            measured.append({name: took(calls[name]) for name in order})
    # the first warms up: a teacher that is asked for features makes a pass more then
    return pd.DataFrame(measured[1:])[names].rename_axis("round")


def time_steps(
    methods: Mapping[str, Any], pair: Pair, batch: Batch, device: torch.device, *limits: Any
) -> pd.DataFrame:
    """``time_rounds`` of whole steps: forward, backward, update; the batch is there already."""
    batch = batch.each(lambda tensor: tensor.to(device))
    calls = {n: partial(update, *learner(n, m, pair, device), batch) for n, m in methods.items()}
    return time_rounds(calls, device, *limits)


def cost_table(
    timed: pd.DataFrame, steps: Mapping[str, Step], pair: Pair, patch: int
) -> pd.DataFrame:
    """What a step costs, a row a method: of ``time_steps`` and ``try_step``, KD among them.

    Columns: seconds, the median; ratio to KD's, whose rounds are drawn together with the method's;
    each with _low and _high, 95 % intervals from resampled rounds. student, teacher: passes. macs:
    10^9, forward, an LR patch of ``patch`` pixels a side; macs_paper: of 48, by the EDSR pair of
    Table 1 at x2; _kd: how many times KD's. paper: Table 11's seconds; with paper_ratio.
    """
    rounds, kd = timed.to_numpy(dtype=float), list(timed).index("kd")
    drawn = np.random.default_rng(0).integers(len(rounds), size=(1999, len(rounds)))
    medians = np.vstack([np.median(rounds, axis=0), np.median(rounds[drawn], axis=1)])
    frame = pd.DataFrame(index=pd.Index(timed.columns, name="method"))
    for name, (one, *many) in {"seconds": medians, "ratio": medians / medians[:, [kd]]}.items():
        low, high = np.quantile(many, [0.025, 0.975], axis=0)
        frame = frame.assign(**{name: one, f"{name}_low": low, f"{name}_high": high})
    frame["student"] = [steps[name].student for name in frame.index]
    frame["teacher"] = [steps[name].teacher for name in frame.index]
    with META:
        networks = [create_model("edsr", role, 2) for role in ("student", "teacher")]
    for name, of, side in (("macs", pair, patch), ("macs_paper", networks, 48)):
        student, teacher = (multiply_accumulates(one, side, side) / 1e9 for one in of)
        frame[name] = frame["student"] * student + frame["teacher"] * teacher
        frame[f"{name}_kd"] = frame[name] / frame[name]["kd"]
    # the paper's CSD compares features of VGG19, which is another computation
    printed = select(load_table(11), metric="seconds_per_step").set_index("method")["value"]
    frame["paper"] = printed.reindex(frame.index)
    return frame.assign(paper_ratio=frame["paper"] / float(printed["kd"]))


def crop_corners(hr: Tensor, crops: Tensor) -> list[tuple[int, ...]]:
    """Row and column where each crop (N, 3, p, p) lies in its image (N, 3, H, W); the first."""
    size = crops.shape[-1]
    windows = hr.unfold(2, size, 1).unfold(3, size, 1)
    same = (windows == crops[:, :, None, None]).flatten(4).all(4).all(1)
    return [tuple(one.nonzero()[0].tolist()) for one in same]
