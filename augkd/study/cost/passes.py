"""What a training's step takes, counted without computing it: operations, memory, updates.

The step is taken on torch's "meta" device, by the very networks and methods of the training: every
tensor has a shape and no values, so that a step of the paper's size is counted in moments.

A training's students and their teacher without weights of worth, to count and to time.

What a network costs: the two columns of Table 1 that need no clock.
"""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from augkd.augment import Invertible
from augkd.data.sampler import Batch
from augkd.distill import Teacher
from augkd.distill.kd import Scratch
from augkd.distill.vgg import VGG19
from augkd.models import SRNetwork
from augkd.models.foreign import load_teacher
from augkd.models.network import SRNetwork
from augkd.models.quantize import quantize
from augkd.models.swinir import SwinIR
from augkd.study.params import Cohort, Study, Training
from augkd.study.runs import build
from augkd.train import Member


def schedule(study: Study, stage: str, name: str) -> Training:
    """Of the training ``name`` of a stage, "teach" or "distil"."""
    return study.schedule(study.teacher(name) if stage == "teach" else study.cohort(name))


def untrained(
    study: Study, stage: str, name: str, device: torch.device
) -> tuple[list[Member], nn.Module | None]:
    """Untrained students of a training, one of each method and width in bits; their teacher.

    VGG19, where CSD asks for it, has random weights: neither counts nor times depend on them.
    """
    training, optimiser = schedule(study, stage, name), study.params.optimiser
    with torch.random.fork_rng(devices=[]), device:
        if stage == "teach":
            entry = study.teacher(name)
            network = build(study, str(entry.network), "teacher", entry.scale, 0)
            member = Member("teacher", network, Scratch(), None, optimiser, training, device)
            return [member], None
        cohort = study.cohort(name)
        teacher = _teacher(study, cohort).to(device).eval().requires_grad_(False)
        members = []
        for student, (method, bits) in cohort.variants().items():
            network = build(study, cohort.network, cohort.student, cohort.scale, 0)
            network = quantize(network, bits) if bits else network
            options = dict(cohort.methods[method])
            vgg = options.pop("vgg", None)
            plain = cohort.model_copy(update={"methods": {method: options}})
            member = Member(
                student, network, plain.method(method), teacher, optimiser, training, device
            )
            if vgg:
                features = VGG19().to(device).eval().requires_grad_(False)
                member.method._vgg = (features,)  # type: ignore[attr-defined]
            members.append(member)
    return members, teacher


def _teacher(study: Study, cohort: Cohort) -> nn.Module:
    """A cohort's teacher, untrained; one from elsewhere is read from its file."""
    source = cohort.teacher
    if not source.trained:
        taught = study.cohort(str(source.student))
        return build(study, taught.network, taught.student, taught.scale, 0)
    entry = study.teacher(source.trained)
    if entry.network:
        return build(study, entry.network, "teacher", entry.scale, 0)
    return load_teacher(entry.spec(study.root / entry.file if entry.file else None), entry.scale)


def empty_batch(training: Training, scale: int, crops: int) -> Batch:
    """A batch of the training's sizes on the meta device, without values."""
    n, patch, out = training.batch, training.patch, -(-training.patch // scale)

    def images(count: int, side: int) -> Tensor:
        return torch.empty(count, 3, side, side, device="meta")

    return Batch(
        lr=images(n, patch),
        hr=images(n, scale * patch),
        zoom_in=images(crops * n, patch),
        zoom_out=images(n, out),
        transform=Invertible(torch.empty(crops * n, 4, dtype=torch.bool, device="meta")),
        seed=0,
        uniform=torch.empty(crops * n, 4, device="meta"),
        zoom_cell=images(crops * n, patch),
    )


def parameters(model: nn.Module) -> int:
    """Number of learnable numbers; constants such as the RGB mean are not among them."""
    return sum(p.numel() for p in model.parameters())


def multiply_accumulates(model: SRNetwork, height: int, width: int) -> float:
    """10^9 multiply-accumulates (G) for one image (1, 3, height, width).

    The convention is fvcore's, which gives all six numbers of Table 1 (its "FLOPs", at 256 x 256):
    one for each multiply-add of a convolution, linear layer or matrix product; five for each
    element of a LayerNorm, one for each input element of an average pooling; nothing for biases,
    activations, softmax and additions.

    Every operation of these networks is either proportional to the pixels (of the image padded
    to whole windows) or constant, so two small images tell the count of any size exactly.
    """
    window = model.window if isinstance(model, SwinIR) else 1
    side = -(-8 // window) * window
    small, double = _counted(model, side, side), _counted(model, side, 2 * side)
    slope = (double - small) / side**2
    pixels = (-(-height // window) * window) * (-(-width // window) * window)
    return (small + slope * (pixels - side**2)) / 1e9


def _counted(model: nn.Module, height: int, width: int) -> float:
    training, log = model.training, logging.getLogger("fvcore")
    level = log.level
    model.eval()
    log.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about sizes that become constants
            image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
            count = FlopCountAnalysis(model, image)
            count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            return float(count.total())
    finally:
        model.train(training)
        log.setLevel(level)


META = torch.device("meta")


@dataclass(frozen=True)
class Pass:
    """Images (n, 3, height, width) through a network; ``factor`` times a forward pass' operations.

    1 where nothing is differentiated, 2 where the gradient goes through frozen weights to the
    input, 3 where weights are trained.
    """

    network: nn.Module
    n: float
    height: int
    width: int
    factor: int

    def operations(self, images: float = 1, side: float = 1) -> float:
        """Multiply-accumulates; of ``images`` times as many images, ``side`` times as wide."""
        window = self.network.window if isinstance(self.network, SwinIR) else 1
        size = [window * math.ceil(side * length / window) for length in (self.height, self.width)]
        return images * self.n * self.factor * _forward(self.network, size[0] * size[1])


@dataclass
class Student:
    """One student's part in a step. ``shared`` are the teacher's answers that it asks for: they
    are computed once for the whole cohort. Bytes, but for ``passes`` and ``updates``."""

    passes: list[Pass] = field(default_factory=list)
    shared: dict[str, Pass] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)  # kept of the teacher, by what is kept
    updates: int = 0  # of the optimiser
    state: int = 0  # weights, gradients, Adam's two moments, average
    saved: int = 0  # for the backward pass, and the gradients under way in it
    resume: int = 0  # what is saved of it to resume from
    weights: int = 0  # of its checkpoint


@dataclass
class Step:
    """A cohort's step: its distinct students, each ``seeds`` times."""

    students: list[Student]
    seeds: int
    constant: int  # bytes: the teacher, the batch

    def operations(self, images: float = 1, side: float = 1, seeds: int | None = None) -> float:
        """Multiply-accumulates of the step, the teacher's passes shared."""
        own = sum(p.operations(images, side) for s in self.students for p in s.passes)
        shared = {name: p for student in self.students for name, p in student.shared.items()}
        return own * (seeds or self.seeds) + sum(
            p.operations(images, side) for p in shared.values()
        )

    def operations_apart(self) -> float:
        """The same where each student has the teacher to itself."""
        passes = [p for s in self.students for p in (*s.passes, *s.shared.values())]
        return self.seeds * sum(p.operations() for p in passes)

    @property
    def count(self) -> int:
        return self.seeds * len(self.students)

    @property
    def updates(self) -> int:
        return self.seeds * sum(student.updates for student in self.students)

    @property
    def memory(self) -> int:
        """Peak bytes: students take turns, so only one's activations are there at a time."""
        answers = {
            name: size for student in self.students for name, size in student.answers.items()
        }
        state = self.seeds * sum(student.state for student in self.students)
        return (
            self.constant
            + state
            + sum(answers.values())
            + max(student.saved for student in self.students)
        )


def count_step(study: Study, stage: str, name: str) -> Step:
    """The step of a training, as its notebook's ``stage`` ("teach" or "distil") takes it."""
    training = schedule(study, stage, name)
    scale = (study.teacher(name) if stage == "teach" else study.cohort(name)).scale
    batch = empty_batch(training, scale, study.params.augment.crops)
    members, teacher = untrained(study, stage, name, META)
    students = [_count(member, teacher, batch) for member in members]
    constant = _bytes(_tensors(batch)) + (_bytes(teacher.parameters()) if teacher else 0)
    return Step(students, study.seeds(name) if stage == "distil" else 1, constant)


class _Answers(Teacher):
    """A teacher that says which image it is answering for, and what it keeps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.answering = ""
        self.kept: dict[str, Tensor] = {}

    def _compute(self, name: str) -> None:
        self.answering = name
        super()._compute(name)
        self.answering = ""
        found = {"": self._outputs[name], **self._features.get(name, {})}
        self.kept |= {f"{name} {tap}": tensor for tap, tensor in found.items()}


def _count(member: Member, teacher: nn.Module | None, batch: Batch) -> Student:
    answers = _Answers(teacher) if teacher else None
    if answers:
        answers.see(batch)
    found = Student()
    member.network.train()
    with _watched(member, answers, found):
        groups: Any = None
        while True:  # a group of terms for each update: its activations go before the next one's
            with _saving(member.trained, batch) as saved:
                if groups is None:
                    answer = member.method(member.network, answers, batch)
                    groups = iter([answer]) if isinstance(answer, dict) else iter(answer)
                if next(groups, None) is None:
                    break
            found.updates += 1
            counted = {_memory(tensor) for tensor in answers.kept.values()} if answers else set()
            sizes = [_bytes([t]) for memory, t in saved.items() if memory not in counted]
            found.saved = max(found.saved, sum(sizes) + 2 * max(sizes))
    trained, weights = _bytes(member.trained), _bytes(member.network.parameters())
    apart = 0 if getattr(member.method, "trains_student", True) else weights  # CSD's copy of it
    average = weights if member.ema else 0
    vgg = sum(_bytes(m.parameters()) for m in getattr(member.method, "_vgg", ()))
    found.state = 4 * trained + apart + average + vgg
    found.resume, found.weights = 3 * trained + apart + average, weights
    if answers:
        found.answers = {name: _bytes([tensor]) for name, tensor in answers.kept.items()}
    return found


@contextmanager
def _watched(member: Member, answers: _Answers | None, found: Student) -> Iterator[None]:
    """Notes every pass inside: every network of ours begins with its one ``conv_first``.

    A network of halves of both, as CrossKD's, counts as the one that its first half is of; its
    twin makes the sum of forward passes right, and half a teacher's backward pass is left out.
    """
    method = member.method
    parts = method.modules() if isinstance(method, nn.Module) else ()
    kept = [part for part in parts if isinstance(part, SRNetwork)]
    networks = [member.network, *kept, *getattr(method, "_vgg", ())]
    networks += [answers.network] if answers else []
    handles = []

    def watch(network: nn.Module) -> None:
        trains = network is member.network or any(network is one for one in kept)

        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            n, _, height, width = inputs[0].shape
            factor = 1
            if torch.is_grad_enabled():
                factor = 3 if trains else 2 if inputs[0].requires_grad else 1
            one = Pass(network, n, height, width, factor)
            if answers and network is answers.network and answers.answering:
                found.shared[answers.answering] = one
            else:
                found.passes.append(one)

        first = network.get_submodule("conv_first") if isinstance(network, SRNetwork) else network
        handles.append(first.register_forward_pre_hook(see))

    for network in networks:
        watch(network)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _saving(trained: Iterable[Tensor], batch: Batch) -> Iterator[dict[int, Tensor]]:
    """Collects what is saved for the backward pass, a tensor for each piece of memory; weights
    and the batch are counted elsewhere."""
    known = {_memory(tensor) for tensor in (*trained, *_tensors(batch))}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _memory(tensor) not in known:
            saved[_memory(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(batch: Batch) -> list[Tensor]:
    return [value for value in vars(batch).values() if isinstance(value, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


_LINES: dict[str, tuple[float, float]] = {}


def _forward(network: nn.Module, pixels: int) -> float:
    """Multiply-accumulates of a forward pass of one image: of convolutions and matrix products.

    Table 1 also counts normalisation and pooling, under a hundredth of the sum. Those of our
    networks are a constant and a multiple of the pixels, so that two small images tell both.
    """
    if not isinstance(network, SRNetwork):
        side = math.isqrt(pixels)
        return _counted(network, side, side)
    key = f"{network.name} {network.scale} {network.sizes}"
    if key not in _LINES:
        side = network.window if isinstance(network, SwinIR) else 8
        one, two = _counted(network, side, side), _counted(network, side, 2 * side)
        slope = (two - one) / side**2
        _LINES[key] = (one - slope * side**2, slope)
    constant, slope = _LINES[key]
    return constant + slope * pixels


def _counted(network: nn.Module, height: int, width: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, height, width, device=META))
    return int(counter.get_total_flops()) / 2
