"""What each method sees, asks for and costs, found out by letting it take steps on one batch."""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from augkd.data.sampler import Batch, PatchSampler
from augkd.distill import METHODS, Teacher
from augkd.distill.kd import Scratch
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model
from augkd.options import Optimiser, Training
from augkd.study.cost.passes import META, multiply_accumulates, watched
from augkd.study.paper import load_table, select
from augkd.study.params import Cohort
from augkd.train import Member, single_core

# Small enough for a page; depths are equal where a method cuts its student out of the teacher.
# Widths are 4 to 1, 1 to 1 and 3 to 1, as in Table 1.
_WINDOWS = {"window_size": 8, "mlp_ratio": 2}
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "edsr": {
        "teacher": {"channels": 32, "blocks": 4, "res_scale": 1.0},
        "student": {"channels": 8, "blocks": 4, "res_scale": 1.0},
    },
    "rcan": {
        "teacher": {"channels": 16, "groups": 4, "blocks": 3, "reduction": 4},
        "student": {"channels": 16, "groups": 4, "blocks": 1, "reduction": 4},
    },
    "swinir": {
        "teacher": {"embed_dim": 24, "depths": (2, 2, 2), "num_heads": (3, 3, 3), **_WINDOWS},
        "student": {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), **_WINDOWS},
    },
}

SIGNS = {"lr": "x", "hr": "y", "zoom_in": "z_i", "zoom_out": "z_o", "transform": "F"}
"""The paper's letters for what a batch holds."""

Pair = tuple[SRNetwork, SRNetwork]
"""Student and teacher."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Entry:
    """A method with its options, under a name of its own; ``kind`` is that of METHODS."""

    name: str
    kind: str
    options: Mapping[str, Any]
    method: Any

    @property
    def line(self) -> str:
        """The first line of the method's documentation."""
        return str(self.method.__doc__).strip().splitlines()[0]


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


@dataclass(frozen=True)
class Step:
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
    terms: Mapping[str, float] = field(default_factory=dict)
    sees: str = ""
    student: float = 0.0
    teacher: float = 0.0

    @property
    def text(self) -> str:
        """ "rec 0.0312, kd 0.0041", or the refusal."""
        if self.refusal:
            return f"does not apply: {self.refusal}"
        return ", ".join(f"{name} {value:.4f}" for name, value in self.terms.items())


def try_step(entry: Entry, pair: Pair, batch: Batch) -> Step:
    """Lets a method take an iteration on a batch, from copies of the networks.

    Terms are those at the weights that were given and at the paper's learning rate (a second
    update within the iteration starts from moved weights).
    """
    try:
        [member], teacher = _member(entry, pair)
    except UserError as error:
        return Step(refusal=str(error))
    member.share(None)  # so that drop-path draws by the member's name
    read: set[str] = set()

    class Seen(Batch):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    seen = Seen(**vars(batch))
    with watched(member, teacher) as passes:
        update([member], teacher, seen)
    area, counts = batch.lr[:, 0].numel(), {True: 0.0, False: 0.0}
    for one in passes:
        if isinstance(one.network, SRNetwork):
            counts[one.network is member.network] += one.n * one.height * one.width / area
    signs = [sign for name, sign in SIGNS.items() if name in read] + ["T"] * bool(counts[False])
    taps = ", ".join(getattr(member.method, "student_taps", ()))
    sees = ", ".join(signs) + (f"; features {taps}" if taps else "")
    return Step("", member.means(1), sees, counts[True], counts[False])


def _member(entry: Entry, pair: Pair, device: torch.device = _CPU) -> tuple[list[Member], Teacher]:
    """A student that can take steps, and its teacher; a batch is of no schedule's size here."""
    training = Training(
        steps=1, batch=1, patch=12, lr=1e-4, decay_every=1, seeds=1, ema=0.0, validate_every=1
    )
    student, teacher = (deepcopy(network).to(device) for network in pair)
    with torch.random.fork_rng(devices=[]):
        one = Member(entry.name, student, entry.method, teacher, Optimiser(), training, device)
    return [one], Teacher(teacher)


def update(
    members: Sequence[Member], teacher: Teacher | None, batch: Batch, lr: float = 1e-4
) -> None:
    """One step of each, in turn, beside their teacher."""
    if teacher:
        teacher.see(batch)
    for member in members:
        member.update(batch, teacher, lr)


def warmed(backbone: str, role: str, sampler: PatchSampler, steps: int) -> SRNetwork:
    """A small network after some steps of plain L1: fresh weights would make every term alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(("teacher", "student").index(role))
        network = create_model(backbone, scale=sampler.scale, **SIZES[backbone][role])
        members, teacher = _member(Entry(role, "scratch", {}, Scratch()), (network, network))
        for step in range(steps):
            update(members, teacher, sampler.draw(step), 2e-3)
    return members[0].result()


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """What a call takes until the device is done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    begun = now()
    call()
    return now() - begun


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
        pair: copied, so that the networks stay as they are.
        limit: seconds after which no round begins, once ``rounds[0]`` are done.
        rounds: fewest and most.

    Returns:
        Rows rounds, columns methods.
    """
    batch, measured = batch.to(device), list[dict[str, float]]()
    steps = {one.name: partial(update, *_member(one, pair, device), batch) for one in entries}
    names, end = list(steps), time.perf_counter() + limit
    with single_core(device):
        for name in 2 * names:  # taps asked for once are read in the same pass from then on
            steps[name]()
        while len(measured) < rounds[0] or (
            time.perf_counter() < end and len(measured) < rounds[1]
        ):
            turn = len(measured) % len(names)
            order = names[turn:] + names[:turn]
            measured.append({name: seconds(steps[name], device) for name in order})
    return pd.DataFrame(measured)[names].rename_axis("round")


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
