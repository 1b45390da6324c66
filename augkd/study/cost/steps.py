"""What an optimiser step of a method costs (Table 11): timed on this device, and counted.

What each method sees, asks for and costs, found out by letting it take steps on one batch.

For the report's page of methods. Nothing here trains what is scored.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from augkd.data.sampler import Batch, PatchSampler
from augkd.data.store import ImageStore
from augkd.distill import METHODS, Teacher
from augkd.distill.kd import Scratch
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model
from augkd.study.cost.passes import multiply_accumulates
from augkd.study.paper import load_table, select
from augkd.study.params import Cohort, Optimiser, Study, Training
from augkd.study.report.style import METHOD_NAMES
from augkd.study.runs import build
from augkd.train import Member

# Small enough for a page; depths are equal where a method cuts its student out of the teacher.
# Widths are 4 to 1, 1 to 1 and 3 to 1, as in Table 1.
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
        "teacher": {"embed_dim": 24, "depths": (2, 2, 2), "num_heads": (3, 3, 3)},
        "student": {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2)},
    },
}
for _size in SIZES["swinir"].values():
    _size |= {"window_size": 8, "mlp_ratio": 2}

SIGNS = {"lr": "x", "hr": "y", "zoom_in": "z_i", "zoom_out": "z_o", "transform": "F"}
"""The paper's letters for what a batch holds."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Entry:
    """A method with its options, under a name of its own."""

    name: str
    kind: str  # of METHODS
    options: Mapping[str, Any]

    def method(self) -> Any:
        return METHODS[self.kind](**self.options)

    @property
    def line(self) -> str:
        """The first line of the method's documentation."""
        return str(METHODS[self.kind].__doc__).strip().splitlines()[0]


def entries(controls: Cohort) -> list[Entry]:
    """Every method with its default options, then the cohort's that are not among those.

    A method that the cohort has under a name of its own, with default options, takes that name.
    """
    plain = {name: Entry(name, name, {}) for name in METHODS}
    chosen = []
    for name, options in controls.methods.items():
        others = {key: value for key, value in options.items() if key != "method"}
        entry = Entry(name, str(options.get("method", name)), others)
        if others:
            chosen.append(entry)
        else:
            plain[entry.kind] = entry
    return [*plain.values(), *chosen]


@dataclass
class Passes:
    """Forward passes through student and teacher, in batches of LR patches.

    An image of another size counts by its area: zooming out at x2 is a quarter. A network made
    of halves of both counts by its first half, which gives the right sum where, as in CrossKD,
    the other halves make a second network.
    """

    student: float = 0.0
    teacher: float = 0.0


@contextmanager
def counted(student: SRNetwork, teacher: SRNetwork, method: Any, batch: Batch) -> Iterator[Passes]:
    """Counts the passes inside: every network here begins with its one ``conv_first``.

    Networks that a bound method keeps (CSD's trainable teacher) count as the teacher.
    """
    passes, one = Passes(), float(batch.lr.shape[0] * batch.lr[0, 0].numel())
    kept = list(method.modules()) if isinstance(method, nn.Module) else []
    owners = [(student, "student"), (teacher, "teacher")]
    owners += [(m, "teacher") for m in kept if isinstance(m, SRNetwork)]
    handles: list[RemovableHandle] = []

    def watch(network: SRNetwork, role: str) -> None:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            pixels = len(inputs[0]) * inputs[0][0, 0].numel()
            setattr(passes, role, getattr(passes, role) + pixels / one)

        handles.append(network.get_submodule("conv_first").register_forward_pre_hook(see))

    for network, role in owners:
        watch(network, role)
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def watched(batch: Batch) -> tuple[Batch, set[str]]:
    """The batch, and the set into which the names of the fields that are read will go."""
    read: set[str] = set()

    class Watched(Batch):
        def __getattribute__(self, name: str) -> Any:
            if name in SIGNS:
                read.add(name)
            return super().__getattribute__(name)

    return Watched(**{f.name: getattr(batch, f.name) for f in fields(batch)}), read


@dataclass(frozen=True)
class Step:
    """One iteration of a method, or why there is none.

    Attributes:
        refusal: the reason why the method does not apply to these networks; "" where it does.
        terms: each already multiplied by its weight, summed over the updates of the iteration.
        sees: the fields of the batch that were read, by student, teacher or loss.
        taps: the student's feature maps that were compared, where it is a feature method.
        seconds: of an iteration, the median of some, after one that warms up.
    """

    refusal: str = ""
    terms: Mapping[str, float] = field(default_factory=dict)
    sees: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    passes: Passes = field(default_factory=Passes)
    seconds: float = float("nan")

    def terms_text(self) -> str:
        """ "rec 0.0312, kd 0.0041", or the refusal."""
        if self.refusal:
            return f"does not apply: {self.refusal}"
        return ", ".join(f"{name} {value:.4f}" for name, value in self.terms.items())

    def sees_text(self) -> str:
        """ "x, y, T", with the feature maps where some are read."""
        signs = [SIGNS[name] for name in SIGNS if name in self.sees]
        signs += ["T"] if self.passes.teacher else []
        return ", ".join(signs) + (f"; features {', '.join(self.taps)}" if self.taps else "")


def try_step(
    entry: Entry, student: SRNetwork, teacher: SRNetwork, batch: Batch, repeats: int = 3
) -> Step:
    """Lets a method take ``1 + repeats`` iterations on one batch, from copies of the networks.

    Terms, fields and passes are those of the first, at the weights that were given and at the
    paper's learning rate (a second update within the iteration starts from moved weights).
    """
    student, teacher = deepcopy(student), deepcopy(teacher)
    try:
        member = new_member(entry.name, student, entry.method(), teacher)
    except UserError as error:
        return Step(refusal=str(error))
    answers = Teacher(teacher)
    seen, read = watched(batch)
    with counted(member.network, teacher, member.method, batch) as passes:
        member.update(seen, answers.see(seen), 1e-4)
    terms = member.means(1)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        member.update(batch, answers.see(batch), 1e-4)
        seconds.append(time.perf_counter() - begun)
    return Step(
        terms=terms,
        sees=tuple(sorted(read, key=list(SIGNS).index)),
        taps=tuple(getattr(member.method, "student_taps", ())),
        passes=passes,
        seconds=statistics.median(seconds) if seconds else float("nan"),
    )


def warmed(backbone: str, role: str, sampler: PatchSampler, steps: int) -> SRNetwork:
    """A small network after some steps of plain L1: fresh weights would make every term alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(("teacher", "student").index(role))
        network = create_model(backbone, scale=sampler.scale, **SIZES[backbone][role])
        member = new_member(role, network, Scratch(), None)
        for step in range(steps):
            member.update(sampler.draw(step), None, 2e-3)
    return member.result()


def cost_table(
    steps: Mapping[str, Step], student: SRNetwork, teacher: SRNetwork, patch: int = 24
) -> pd.DataFrame:
    """What an iteration costs, a row a method.

    Args:
        steps: by name, with "kd" among them; refused ones are left out.
        student, teacher: the networks of the steps.
        patch: side of their LR patches, pixels.

    Returns:
        Columns student, teacher (forward passes in batches of LR patches); macs (10^9, forward,
        an LR patch) and macs_paper (the same with the EDSR pair of Table 1 at x2, a
        patch of 48 x 48); seconds; and how many times KD's they are: macs_paper_kd, seconds_kd,
        and Table 11's seconds_paper_kd.
    """
    here = [multiply_accumulates(network, patch, patch) for network in (student, teacher)]
    roles = ("student", "teacher")
    there = [multiply_accumulates(create_model("edsr", role, 2), 48, 48) for role in roles]
    rows = {
        name: {
            "student": step.passes.student,
            "teacher": step.passes.teacher,
            "macs": step.passes.student * here[0] + step.passes.teacher * here[1],
            "macs_paper": step.passes.student * there[0] + step.passes.teacher * there[1],
            "seconds": step.seconds,
        }
        for name, step in steps.items()
        if not step.refusal
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    for column in ("macs_paper", "seconds"):
        frame[f"{column}_kd"] = frame[column] / float(frame[column]["kd"])
    printed = select(load_table(11), metric="seconds_per_step").set_index("method")["value"]
    # the paper's CSD compares features of VGG19, which is another computation
    frame["seconds_paper_kd"] = (printed / float(printed["kd"])).reindex(frame.index)
    return frame


def crop_corners(hr: Tensor, crops: Tensor) -> list[tuple[int, int]]:
    """Row and column where each crop (N, 3, p, p) lies in its image (N, 3, H, W); the first."""
    size, corners = crops.shape[-1], []
    for image, crop in zip(hr, crops, strict=True):
        windows = image.unfold(1, size, 1).unfold(2, size, 1)
        same = (windows == crop[:, None, None]).flatten(3).all(3).all(0)
        row, column = same.nonzero()[0].tolist()
        corners.append((row, column))
    return corners


def telling_step(sampler: PatchSampler, contrast: float = 0.0) -> int:
    """The first step whose F, for one image at least, is undone wrongly by repeating it: a
    transposition with exactly one flip (Section 3.4). ``contrast`` is the standard deviation
    that every patch shall have, since there is little to see on a wall."""
    for step in range(1000):
        batch = sampler.draw(step)
        _, rows, columns, transposed = batch.transform.flags.T
        seen = bool((batch.hr.flatten(1).std(1) >= contrast).all())
        if seen and bool((transposed & (rows ^ columns)).any()):
            return step
    raise ValueError(f"telling_step: no batch of patches has a contrast of {contrast}")


def new_member(
    name: str,
    network: SRNetwork,
    method: Any,
    teacher: nn.Module | None,
    device: torch.device = _CPU,
) -> Member:
    """A student that can take steps; a page's batches are one size, so that of no schedule."""
    training = Training(
        steps=1, batch=1, patch=12, lr=1e-4, decay_every=1, seeds=1, ema=0.0, validate_every=1
    )
    with torch.random.fork_rng(devices=[]):
        return Member(name, network, method, teacher, Optimiser(), training, device)


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
        counted: of ``augkd.study.cost.steps.cost_table``.
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
