"""The cohort loop: students that learn together, beside one frozen teacher.

Two laws, both tested. A student's weights do not depend on who else is in its cohort: every draw
is a function of (seed, step), and no student touches what another reads. Students of one seed see
the same batches, and each seed has its own. A run killed anywhere and resumed ends with the same
weights as one never killed, bit for bit on the CPU. Several processes may share a training: see
augkd/data/shared.py.
"""

import copy
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from augkd.data.sampler import Batch, PatchSampler
from augkd.data.shared import Part, joined
from augkd.distill import Teacher
from augkd.errors import UserError, replacing
from augkd.models import SRNetwork
from augkd.options import Optimiser, Training


@contextmanager
def single_core(device: torch.device) -> Iterator[None]:
    """On a CPU, torch computes on one core within.

    On patches of a few pixels a second one is of little use, and so numbers depend neither on how
    many there are nor on what else runs.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else cores)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def precision(training: Training, device: torch.device) -> torch.dtype:
    """What activations are computed in: with "auto" bfloat16, where a device is made for it."""
    fast = training.precision == "bfloat16"
    if training.precision == "auto" and device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif training.precision == "auto" and device.type == "cpu":
        able = torch.cpu.get_capabilities()
        fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


class Member:
    """One student: its network, its method, its optimiser and, if wanted, its average."""

    def __init__(
        self,
        name: str,  # unique in the cohort, e.g. "augkd-0"
        network: SRNetwork,  # the student, with its initial weights
        method: Any,  # an entry of ``augkd.distill.METHODS`` with its options
        teacher: nn.Module | None,  # for methods that bind to both networks
        optimiser: Optimiser,
        training: Training,
        device: torch.device,
        seed: int = 0,  # whose batches it sees
    ) -> None:
        # on the CPU, convolutions on channels-last memory take about half the time
        self.network: SRNetwork = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name, self.key, self.seed = name, zlib.crc32(name.encode()), seed
        self.per_image: bool = getattr(method, "per_image", False)
        self.part: Part | None = None
        # none can be had for "meta", on which a step is counted and nothing is drawn
        self.generator = torch.Generator("cpu" if device.type == "meta" else device)
        self.device, self.dtype = device.type, precision(training, device)
        self.method = method
        if hasattr(method, "bind"):
            torch.manual_seed(self.key)
            self.method = method.bind(self.network, teacher)
        self.sync: Callable[[SRNetwork], None] = getattr(self.method, "sync", lambda _: None)
        trains_student = getattr(self.method, "trains_student", True)
        self.trained = list(self.network.parameters()) if trains_student else []
        self.parts: dict[str, Any] = {"network": self.network}
        if isinstance(self.method, nn.Module):
            self.parts["method"] = self.method.to(device)
            self.trained += self.method.parameters()
        lr, betas, eps = training.lr, optimiser.betas, optimiser.eps
        self.optimiser = torch.optim.Adam(self.trained, lr, betas, eps, fused=device.type != "meta")
        self.parts["optimiser"] = self.optimiser
        self.ema = training.ema
        weights = self.network.named_parameters() if self.ema else ()
        self.average = {name: weight.detach().clone() for name, weight in weights}
        self.sums: dict[str, Tensor] = {}

    def share(self, part: Part | None) -> bool:
        """Prepares for sharing batches with other processes, or for None; whether it does."""
        self.part = part if self.per_image else None
        own = self.part or Part(0, 1, 1)  # all there is
        bound = self.method.modules() if isinstance(self.method, nn.Module) else ()
        for module in (*self.network.modules(), *bound):
            if hasattr(module, "draw"):  # drop-path, from the member's own generator
                module.draw = partial(own.draw, generator=self.generator)
        return self.part is not None

    def update(self, batch: Batch, teacher: Teacher | None, lr: float, step: int) -> bool:
        """One iteration, on this process' part of the batch where it is shared.

        A method that yields several groups of terms takes a step after each, on gradients that go
        on accumulating (the predecessor's released two-step update).

        Returns:
            Whether losses and gradients are finite. Where one is not, weights stay as they are.
        """
        self.generator.manual_seed(batch.seed ^ self.key)  # for drop-path: by member, not by order
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        answer = self.compute(self.method, self.network, teacher, batch)
        groups = iter([answer]) if isinstance(answer, dict) else answer
        while (terms := self.compute(next, groups, None)) is not None:  # each when it is asked for
            if not terms:
                raise UserError(f"{self.name}: every weight of its loss is 0: give one that is not")
            losses = torch.stack(list(terms.values()))
            if self.part:
                losses = joined().backward(losses, self.part, self.trained)
            else:
                losses.sum().backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad for p in self.trained if p.grad is not None]
            if not (losses.sum() + nn.utils.get_total_norm(gradients)).isfinite():
                return False
            self.optimiser.step()
            for term, value in zip(terms, losses.detach(), strict=True):
                self.sums[term] = self.sums.get(term, 0) + value
        if self.ema:
            self.sync(self.network)
            parameters = [p.detach() for p in self.network.parameters()]
            # at first over fewer steps, so that what the weights began with is soon forgotten
            share = 1 - min(self.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_([*self.average.values()], parameters, share)
        return True

    def compute(self, call: Callable[..., Any], *args: Any) -> Any:
        """What a call returns, its activations in the member's precision."""
        if self.dtype == torch.float32:
            return call(*args)
        # with no cache of weights in bfloat16, since updates move them
        with torch.autocast(self.device, self.dtype, cache_enabled=False):
            return call(*args)

    def means(self, steps: int) -> dict[str, float]:
        """Mean of each loss term over the last ``steps`` steps; starts the next mean."""
        sums, self.sums = self.sums, {}
        return {term: float(value) / steps for term, value in sums.items()}

    def result(self) -> SRNetwork:
        """The student as it is scored and saved: its average where one is kept."""
        self.sync(self.network)
        if not self.ema:
            return self.network.eval()
        averaged = copy.deepcopy(self.network)
        averaged.load_state_dict(self.average, strict=False)  # all but buffers
        return averaged.eval()

    def state(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return {**parts, "average": self.average, "sums": self.sums}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.average, self.sums = state["average"], state["sums"]


@dataclass
class Curves:
    """What was seen while training; ``loss`` is a mean over the steps since the last row."""

    loss: list[dict[str, Any]] = field(default_factory=list)  # step, member, term, value
    psnr: list[dict[str, Any]] = field(default_factory=list)  # step, member, value
    stopped: dict[str, int] = field(default_factory=dict)  # steps that a member took before NaN


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

    A member whose loss or gradient is no longer finite stops there, and the others go on. Its
    weights before that step, and the batch, are kept in ``state``/stopped.

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
        UserError: every member stopped, or a loss has no terms.
    """
    processes = joined()
    part = processes.part(training.batch)
    members = [member for member in members if member.share(part) or processes.main]
    whole = Teacher(teacher.network) if teacher and part else teacher  # of the whole batch
    validate = validate if processes.main else None
    start, curves = 0, Curves()
    if (file := state / "state.pt").is_file():
        past = torch.load(file, weights_only=True)
        for member in members:
            member.load_state(past["members"][member.name])
        start, curves = past["step"], Curves(past["loss"], past["psnr"], past["stopped"])
    going = [member for member in members if member.name not in curves.stopped]
    processes.wait()  # until all have read the state, before a newer one is written
    saved = time.monotonic()
    window = max(1, training.validate_every // 10)
    look: dict[str, Any] = {"unit": "step", "mininterval": 0.5, "ncols": 88}
    left, hidden = range(start, training.steps), not processes.main
    bar = tqdm(left, label, training.steps, initial=start, disable=hidden, **look)
    with single_core(sampler.device):
        if start == 0 and validate:
            _validate(members, validate, 0, curves)
        for step in bar:
            rate = training.lr * optimiser.decay ** (step // training.decay_every)
            for seed in sorted({member.seed for member in going}):
                batch = sampler.draw(step, seed)
                mine = part.of(batch) if part else batch
                for sees, images in ((whole, batch), (teacher, mine)):
                    if sees:
                        sees.see(images)
                for member in [member for member in going if member.seed == seed]:
                    seen = (mine, teacher) if member.part else (batch, whole)
                    if member.update(*seen, rate, step):
                        continue
                    going.remove(member)
                    curves.stopped[member.name] = step
                    kept = {"step": step, "rate": rate, "member": member.state()}
                    kept |= {"batch": vars(batch) | {"transform": batch.transform.flags}}
                    if processes.main:
                        _write(state / "stopped" / f"{member.name}.pt", kept)
            done, last = step + 1, step + 1 == training.steps
            if processes.main and not going:
                problem = f"{member.name}: the loss is not finite at step {done}"
                raise UserError(f"{problem}: lower the budget's learning rate (lr)")
            if going and (done % window == 0 or last):
                rows: list[dict[str, Any]] = [
                    {"step": done, "member": member.name, "term": term, "value": mean}
                    for member in going
                    for term, mean in member.means((done - 1) % window + 1).items()
                ]
                curves.loss += rows
                loss = sum(row["value"] for row in rows) / len(going)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if validate and (done % training.validate_every == 0 or last):
                _validate(going, validate, done, curves)
            if processes.main and (last or time.monotonic() - saved > save_every):
                kept = {"step": done, "members": {m.name: m.state() for m in members}}
                _write(file, kept | vars(curves))
                saved = time.monotonic()
            if after_step:
                after_step(done)
    return curves


def finish(state: Path) -> None:
    """Forgets the resume state, once the result that it would have led to is on disk."""
    shutil.rmtree(state)


def _validate(
    members: Sequence[Member], validate: Callable[[SRNetwork], float], step: int, curves: Curves
) -> None:
    for member in members:
        value = validate(member.result())
        curves.psnr.append({"step": step, "member": member.name, "value": value})


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as partial:
        torch.save(state, partial)
