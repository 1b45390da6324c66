"""The cohort loop: students that learn side by side, beside one frozen teacher.

Two laws, both tested. A student's weights do not depend on who else is in its cohort: every draw
is a function of (seed, step), and no student touches what another reads. A run killed anywhere
and resumed ends with the same weights as one never killed, bit for bit on the CPU. Several
processes may share a training: see augkd/data/shared.py.
"""

import copy
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from augkd.data.sampler import Batch, PatchSampler
from augkd.data.shared import Part, joined
from augkd.distill import Teacher
from augkd.distill.options import Updates
from augkd.errors import UserError, replacing
from augkd.models import SRNetwork
from augkd.study.params import Optimiser, Training

Method = Callable[[SRNetwork, Any, Batch], Updates]
Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # as map


@dataclass
class Draws:
    """Drop-path's numbers, from a member's own generator; of shared batches, those of its part."""

    generator: torch.Generator
    part: Part | None

    def __call__(self, count: int, device: torch.device) -> Tensor:
        if self.part:
            return self.part.draw(count, device, self.generator)
        return torch.rand(count, generator=self.generator, device=device)


class Member:
    """One student: its network, its method, its optimiser and, if wanted, its average.

    Args:
        name: unique in the cohort, e.g. "augkd-0".
        network: the student, with its initial weights.
        method: an entry of ``augkd.distill.METHODS`` with its options.
        teacher: for methods that bind to both networks.
    """

    def __init__(
        self,
        name: str,
        network: SRNetwork,
        method: Any,
        teacher: nn.Module | None,
        optimiser: Optimiser,
        training: Training,
        device: torch.device,
    ) -> None:
        # on the CPU, convolutions on channels-last memory take about half the time
        self.network: SRNetwork = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name = name
        self.key = zlib.crc32(name.encode())
        self.per_image: bool = getattr(method, "per_image", False)
        self.part: Part | None = None
        # none can be had for "meta", on which a step is counted and nothing is drawn
        self.generator = torch.Generator("cpu" if device.type == "meta" else device)
        self.method: Method = method
        trained = list(self.network.parameters())
        if hasattr(method, "bind"):
            torch.manual_seed(self.key)
            bound = method.bind(self.network, teacher).to(device)
            self.method = bound
            own = list(bound.parameters())
            trained = trained + own if getattr(bound, "trains_student", True) else own
        self.trained = trained
        self.optimiser = torch.optim.Adam(
            trained,
            lr=training.lr,
            betas=optimiser.betas,
            eps=optimiser.eps,
            fused=device.type in ("cpu", "cuda"),
        )
        self.ema = training.ema
        self.average = [p.detach().clone() for p in self.network.parameters()] if self.ema else []
        self.sums: dict[str, Tensor] = {}

    def share(self, part: Part | None) -> bool:
        """Prepares for sharing batches with other processes, or for None; whether it does."""
        self.part = part if self.per_image else None
        bound = self.method.modules() if isinstance(self.method, nn.Module) else ()
        for module in (*self.network.modules(), *bound):
            if hasattr(module, "draw"):  # drop-path
                module.draw = Draws(self.generator, self.part)
        return self.part is not None

    def update(self, batch: Batch, teacher: Teacher | None, lr: float) -> None:
        """One iteration, on this process' part of the batch where it is shared.

        A method that yields several groups of terms takes a step after each, on gradients that go
        on accumulating (the predecessor's released two-step update).
        """
        self.generator.manual_seed(batch.seed ^ self.key)  # for drop-path: by member, not by order
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        answer = self.method(self.network, teacher, batch)
        for terms in [answer] if isinstance(answer, dict) else answer:
            if not terms:
                raise UserError(f"{self.name}: every weight of its loss is 0: give one that is not")
            losses = torch.stack(list(terms.values()))
            if self.part:
                losses = joined().backward(losses, self.part, self.trained)
            else:
                losses.sum().backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            for term, value in zip(terms, losses.detach(), strict=True):
                self.sums[term] = self.sums.get(term, 0) + value
        if self.ema:
            if hasattr(self.method, "sync"):
                self.method.sync(self.network)
            parameters = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(self.average, parameters, 1 - self.ema)

    def means(self, steps: int) -> dict[str, float]:
        """Mean of each loss term over the last ``steps`` steps; starts the next mean."""
        sums, self.sums = self.sums, {}
        return {term: float(value) / steps for term, value in sums.items()}

    def result(self) -> SRNetwork:
        """The student as it is scored and saved: its average where one is kept."""
        if hasattr(self.method, "sync"):
            self.method.sync(self.network)
        if not self.ema:
            return self.network.eval()
        averaged = copy.deepcopy(self.network)
        with torch.no_grad():
            for parameter, mean in zip(averaged.parameters(), self.average, strict=True):
                parameter.copy_(mean)
        return averaged.eval()

    def state(self) -> dict[str, Any]:
        method = self.method.state_dict() if isinstance(self.method, nn.Module) else {}
        return {
            "network": self.network.state_dict(),
            "method": method,
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "sums": self.sums,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if isinstance(self.method, nn.Module):
            self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = state["average"]
        self.sums = state["sums"]


@dataclass
class Curves:
    """What was seen while training; ``loss`` is a mean over the steps since the last row."""

    loss: list[dict[str, Any]] = field(default_factory=list)  # step, member, term, value
    psnr: list[dict[str, Any]] = field(default_factory=list)  # step, member, value

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return (
            pd.DataFrame(self.loss, columns=["step", "member", "term", "value"]),
            pd.DataFrame(self.psnr, columns=["step", "member", "value"]),
        )


def train(
    members: Sequence[Member],
    teacher: Teacher | None,
    sampler: PatchSampler,
    training: Training,
    optimiser: Optimiser,
    *,
    state: Path,
    validate: Callable[[SRNetwork], float] | None = None,
    label: str = "",
    save_every: float = 60.0,
    after_step: Callable[[int], None] | None = None,
) -> Curves:
    """Trains the members together, from the last state saved or from the start.

    Started in several processes alike, it shares each batch among them; what the other processes
    return, and their members, are not complete.

    Args:
        teacher: None where no member asks for one (training a teacher).
        state: folder of the resume state, named by a fingerprint of all that the result depends
            on; removed by ``finish`` once the result is on disk.
        validate: score of a student, taken every ``training.validate_every`` steps.
        save_every: seconds between saves of the state.
        after_step: called with the number of finished steps (tests kill runs with it).

    Raises:
        UserError: another process trains the same, or a loss is no longer finite.
    """
    processes = joined()
    part = processes.part(training.batch)
    shared = [member.share(part) for member in members]
    whole = Teacher(teacher.network) if teacher and part else teacher  # of the whole batch
    if not processes.main:
        members = [member for member, shares in zip(members, shared, strict=True) if shares]
    state.mkdir(parents=True, exist_ok=True)
    lock = _lock(state / "lock", label) if processes.main else nullcontext()
    # several processes must come to their sums in the same order
    on_cpu = all(member.generator.device.type == "cpu" for member in members)
    apart = on_cpu and processes.count == 1
    with lock, side_by_side(apart) as each:
        curves = Curves()
        start = _load(state / "state.pt", members, curves)
        processes.wait()  # until all have read the state, before a newer one is written
        saved = time.monotonic()
        window = max(1, training.validate_every // 10)
        took, order = [0.0] * len(members), [*range(len(members))]  # seconds of the last step
        bar = tqdm(
            range(start, training.steps),
            desc=label,
            total=training.steps,
            initial=start,
            unit="step",
            mininterval=0.5,
            dynamic_ncols=False,
            ncols=88,
            disable=not processes.main,
        )
        if not processes.main:
            validate = None
        if start == 0 and validate:
            _validate(members, validate, 0, curves, each)
        for step in bar:
            batch = sampler.draw(step)
            mine = part.of(batch) if part else batch
            if teacher:
                teacher.see(mine)
            if whole and part:
                whole.see(batch)
            rate = training.lr * optimiser.decay ** (step // training.decay_every)
            turns = [
                partial(m.update, mine, teacher, rate)
                if m.part
                else partial(m.update, batch, whole, rate)
                for m in members
            ]

            def turn(i: int, turns: Sequence[Callable[[], None]] = turns) -> None:
                begun = time.thread_time()
                turns[i]()
                took[i] = time.thread_time() - begun

            if apart:  # the longest first, or a core waits for it in the end
                order.sort(key=lambda i: -took[i])
            list(each(turn, order))
            done = step + 1
            if done % window == 0 or done == training.steps:
                steps = (done - 1) % window + 1
                bar.set_postfix(loss=f"{_log(members, steps, done, curves):.4f}", refresh=False)
            if validate and (done % training.validate_every == 0 or done == training.steps):
                _validate(members, validate, done, curves, each)
            if processes.main and time.monotonic() - saved > save_every:
                _save(state / "state.pt", done, members, curves)
                saved = time.monotonic()
            if after_step:
                after_step(done)
        if processes.main:
            _save(state / "state.pt", training.steps, members, curves)
    return curves


def finish(state: Path) -> None:
    """Forgets the resume state, once the result that it would have led to is on disk."""
    for name in ("state.pt", "lock"):
        (state / name).unlink(missing_ok=True)
    state.rmdir()


def _lock(path: Path, label: str) -> AbstractContextManager[Any]:
    try:
        return FileLock(path).acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{label}: another process is training it (lock: {path}): wait for it or stop it"
        ) from None


@contextmanager
def side_by_side(apart: bool) -> Iterator[Each]:
    """A ``map`` over what is to be done for each student or image: if ``apart``, on the CPU, as
    many at once as cores; else one after the other.

    Each then has a single core, a teacher that is trained alone too: on patches of a few pixels a
    second one is of little use, and so numbers depend neither on how many there are nor on what
    else runs. A GPU is busy with one. Threads do not inherit ``torch.no_grad``: what is called has
    to ask.
    """
    if not apart:
        yield map
        return
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores, "member") as pool:
            yield pool.map
    finally:
        torch.set_num_threads(cores)


def _log(members: Sequence[Member], steps: int, done: int, curves: Curves) -> float:
    """Adds a row a term; returns the mean loss over members."""
    total = 0.0
    for member in members:
        means = member.means(steps)
        loss = sum(means.values())
        if not abs(loss) < float("inf"):
            raise UserError(
                f"{member.name}: the loss is not finite at step {done}: lower the learning rate "
                "(lr) of this budget"
            )
        total += loss / len(members)
        for term, value in means.items():
            curves.loss.append({"step": done, "member": member.name, "term": term, "value": value})
    return total


def _validate(
    members: Sequence[Member],
    validate: Callable[[SRNetwork], float],
    step: int,
    curves: Curves,
    each: Each,
) -> None:
    values = each(lambda member: validate(member.result()), members)
    for member, value in zip(members, values, strict=True):
        curves.psnr.append({"step": step, "member": member.name, "value": value})


def _save(path: Path, step: int, members: Sequence[Member], curves: Curves) -> None:
    state = {
        "step": step,
        "members": {m.name: m.state() for m in members},
        "loss": curves.loss,
        "psnr": curves.psnr,
    }
    with replacing(path) as partial:
        torch.save(state, partial)


def _load(path: Path, members: Sequence[Member], curves: Curves) -> int:
    """Puts members and curves back where they were; returns the number of finished steps."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    for member in members:
        member.load_state(state["members"][member.name])
    curves.loss, curves.psnr = state["loss"], state["psnr"]
    return int(state["step"])
