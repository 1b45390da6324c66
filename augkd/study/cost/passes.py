"""Operations and memory of networks and optimiser steps, counted without computing them.

A step is taken on torch's "meta" device by the very networks and methods of the training: every
tensor has a shape and no values, so that one of the paper's size is counted in moments.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, UntypedStorage, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from augkd.data.sampler import Batch, make_batch
from augkd.distill import Teacher
from augkd.distill.kd import Scratch
from augkd.distill.teacher import Terms
from augkd.distill.vgg import VGG19
from augkd.models import SRNetwork, create_model
from augkd.models.foreign import load_teacher
from augkd.models.quantize import quantize
from augkd.options import Training
from augkd.study.params import Cohort, Study, TeacherEntry
from augkd.study.runs import build
from augkd.train import Member

META = torch.device("meta")


def parameters(model: nn.Module) -> int:
    """Number of learnable numbers; constants such as the RGB mean are not among them."""
    return sum(p.numel() for p in model.parameters())


def multiply_accumulates(network: nn.Module, height: int, width: int) -> float:
    """Of a forward pass of one image (1, 3, height, width).

    The convention is fvcore's, which gives all six numbers of Table 1 (its "FLOPs", at 256 x 256):
    one for each multiply-add of a convolution, linear layer or matrix product; five for each
    element of a LayerNorm, one for each input element of an average pooling; nothing for biases,
    activations, softmax and additions. A quantised network counts as it does in full precision.

    Every operation of our networks is either proportional to the pixels (of the image padded to
    whole windows) or constant, so two small images tell the count of any size exactly.
    """
    if not isinstance(network, SRNetwork):
        return _counted(network, height, width)
    window = network.sizes.get("window_size", 1)
    pixels = math.prod(-(-length // window) * window for length in (height, width))
    constant, slope = _line(network.name, network.scale, tuple(network.sizes.items()))
    return float(constant + slope * pixels)


@cache
def _line(name: str, scale: int, sizes: tuple[tuple[str, Any], ...]) -> tuple[float, float]:
    """Of a network of ours: what is constant, and what each pixel adds."""
    with META:
        network = create_model(name, scale=scale, **dict(sizes)).eval()
    side = dict(sizes).get("window_size", 8)
    one, two = (_counted(network, side, width) for width in (side, 2 * side))
    return 2 * one - two, (two - one) / side**2


def _counted(network: nn.Module, height: int, width: int) -> float:
    def each(count: int) -> Any:  # torch counts two operations a multiply-accumulate
        return lambda shape, *_, **__: 2 * count * math.prod(shape)

    formulas = {torch.ops.aten.native_layer_norm: each(5), torch.ops.aten.mean: each(1)}
    image = torch.empty(1, 3, height, width, device=next(network.parameters()).device)
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        network(image)
    return int(counter.get_total_flops()) / 2


def entry_of(study: Study, stage: str, name: str) -> Cohort | TeacherEntry:
    """What the stage "teach" or "distil" trains by that name."""
    return study.teacher(name) if stage == "teach" else study.cohort(name)


def untrained(
    study: Study, stage: str, name: str, device: torch.device
) -> tuple[list[Member], nn.Module | None]:
    """Untrained students of a training, one of each method, and their teacher.

    VGG19, where CSD asks for it, has random weights: neither counts nor times depend on them, nor
    on how many bits students are quantised to.
    """
    entry = entry_of(study, stage, name)
    common = study.params.optimiser, study.schedule(entry), device
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder:
        if isinstance(entry, TeacherEntry):
            with device:
                network = build(study, str(entry.network), "teacher", entry.scale, 0)
            return [Member("teacher", network, Scratch(), None, *common)], None
        with device:
            teacher = _teacher(study, entry).to(device).eval().requires_grad_(False)
        members, vgg = [], Path(folder, "vgg19.safetensors")
        for key in entry.methods:
            with device:
                network = build(study, entry.network, entry.student, entry.scale, 0)
            network = quantize(network, entry.bits[0]) if entry.bits else network
            method = entry.method(key)
            if getattr(method, "vgg", None):
                save_file(VGG19().state_dict(), vgg)
                method = replace(method, vgg=vgg)
            members.append(Member(key, network, method, teacher, *common))
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


def noise(training: Training, scale: int, crops: int, device: torch.device) -> Batch:
    """A batch of the training's sizes, in which there is nothing to see."""
    n, patch = training.batch, training.patch
    lr, hr = (torch.rand(n, 3, side, side) for side in (patch, scale * patch))
    return make_batch(lr, hr, scale, np.random.default_rng(0), crops=crops).to(device)


@dataclass(frozen=True)
class Pass:
    """Images (n, 3, height, width) through a network; ``factor`` times a forward pass' operations.

    1 where nothing is differentiated, 2 where the gradient goes through frozen weights to the
    input, 3 where weights are trained.
    """

    network: nn.Module
    n: int
    height: int
    width: int
    factor: int

    def operations(self, images: float = 1, side: float = 1) -> float:
        """Multiply-accumulates; of ``images`` times as many images, ``side`` times as wide."""
        height, width = (math.ceil(side * length) for length in (self.height, self.width))
        return images * self.n * self.factor * multiply_accumulates(self.network, height, width)


@contextmanager
def watched(member: Member, teacher: Teacher | None) -> Iterator[list[Pass]]:
    """Collects the passes inside: every network of ours begins with its one ``conv_first``.

    A network of halves of both, as CrossKD's, counts as the one that its first half is of; its
    twin makes the sum of forward passes right, and half a teacher's backward pass is left out.
    """
    kept = member.method.modules() if isinstance(member.method, nn.Module) else ()
    networks: list[nn.Module] = [
        member.network,
        *(part for part in kept if isinstance(part, SRNetwork)),
    ]
    networks += [teacher.network] if teacher else []
    owners = {n.conv_first if isinstance(n, SRNetwork) else n: n for n in networks}
    passes: list[Pass] = []

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        network = module if isinstance(module, VGG19) else owners.get(module)
        if network is not None:
            learns = any(p.requires_grad for p in network.parameters())
            factor = 3 if learns else 2 if inputs[0].requires_grad else 1
            n, _, height, width = inputs[0].shape
            passes.append(Pass(network, n, height, width, factor if torch.is_grad_enabled() else 1))

    handle = register_module_forward_pre_hook(see)
    try:
        yield passes
    finally:
        handle.remove()


class Answers(Teacher):
    """A cohort's teacher that notes its answers, and of which images a student asks for them."""

    def __init__(self, network: nn.Module, batch: Batch) -> None:
        super().__init__(network)
        self.see(batch)
        self.passes: dict[str, Pass] = {}  # by image
        self.kept: dict[tuple[str, str], Tensor] = {}  # by image and tap
        self.asked: set[str] = set()
        self.watched: list[Pass] = []  # of a student, whose own passes alone stay there

    def output(self, name: str) -> Tensor:
        return self._note(name, ())[""]

    def features(self, name: str, taps: Sequence[str]) -> dict[str, Tensor]:
        found = self._note(name, taps)
        return {tap: found[tap] for tap in taps}

    def _note(self, name: str, taps: Sequence[str]) -> dict[str, Tensor]:
        begun = len(self.watched)
        found = super().features(name, taps) if taps else {}
        found[""] = super().output(name)
        if len(self.watched) > begun:
            self.passes[name] = self.watched[-1]
            del self.watched[begun:]
        self.kept |= {(name, tap): tensor for tap, tensor in found.items()}
        self.asked.add(name)
        return found


@dataclass
class Step:
    """A cohort's step: one student of each method, ``copies`` of each, beside one teacher."""

    copies: int  # by seeds and widths in bits
    own: list[list[Pass]] = field(default_factory=list)  # passes of each student
    asked: list[set[str]] = field(default_factory=list)  # images of which it wants answers
    answers: dict[str, Pass] = field(default_factory=dict)  # the teacher's, once for all, by image
    updates: int = 0  # of all optimisers
    memory: int = 0  # peak bytes; students take turns: one's activations are there at a time
    weights: int = 0  # bytes of the students' checkpoints
    resume: int = 0  # bytes that are saved to resume from

    @property
    def students(self) -> int:
        return self.copies * len(self.own)

    def operations(self, images: float = 1, side: float = 1, copies: int | None = None) -> float:
        """Multiply-accumulates of the step, the teacher's passes shared."""
        own = sum(p.operations(images, side) for p in chain(*self.own))
        answers = sum(p.operations(images, side) for p in self.answers.values())
        return own * (copies or self.copies) + answers

    def operations_apart(self) -> float:
        """The same where each student has the teacher to itself."""
        asked = [self.answers[image] for image in chain(*self.asked)]
        return self.copies * sum(p.operations() for p in (*asked, *chain(*self.own)))


def count_step(study: Study, stage: str, name: str) -> Step:
    """The step of a training, as the notebook of its stage ("teach" or "distil") takes it."""
    entry = entry_of(study, stage, name)
    batch = noise(study.schedule(entry), entry.scale, study.params.augment.crops, META)
    members, network = untrained(study, stage, name, META)
    teacher = Answers(network, batch) if network else None
    copies = study.seeds(name) * max(1, len(entry.bits)) if isinstance(entry, Cohort) else 1
    step, most = Step(copies), 0
    held = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    for member in members:
        member.network.train()
        with watched(member, teacher) as passes:
            if teacher:
                teacher.watched, teacher.asked = passes, set()
            for saved in _updates(member, teacher, batch):
                for tensor in (*held, *member.trained, *(teacher.kept.values() if teacher else ())):
                    saved.pop(tensor.untyped_storage(), None)
                sizes = [_bytes([tensor]) for tensor in saved.values()]
                most = max(most, sum(sizes) + 2 * max(sizes))  # two gradients are under way
                step.updates += step.copies
        step.own.append(passes)
        step.asked.append(teacher.asked if teacher else set())
        trained, weights = _bytes(member.trained), _bytes(member.network.parameters())
        twins = bool(member.ema) + (not getattr(member.method, "trains_student", True))
        resume = 3 * trained + twins * weights  # with Adam's moments
        frozen = {p.network for p in passes if isinstance(p.network, VGG19)}
        gradients_and_frozen = trained + sum(_bytes(vgg.parameters()) for vgg in frozen)
        step.weights += step.copies * weights
        step.resume += step.copies * resume
        step.memory += step.copies * (resume + gradients_and_frozen)
    if teacher:
        step.answers = teacher.passes
        held += [*teacher.network.parameters(), *teacher.kept.values()]
    step.memory += _bytes(held) + most
    return step


def _updates(
    member: Member, teacher: Teacher | None, batch: Batch
) -> Iterator[dict[UntypedStorage, Tensor]]:
    """What each update saves for its backward pass, a tensor for each piece of memory: one update
    for each group of terms, whose activations go before those of the next one come."""
    groups: Iterator[Terms] | None = None
    while True:
        saved: dict[UntypedStorage, Tensor] = {}

        def keep(tensor: Tensor, saved: dict[UntypedStorage, Tensor] = saved) -> Tensor:
            saved[tensor.untyped_storage()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if groups is None:
                answer = member.method(member.network, teacher, batch)
                groups = iter([answer]) if isinstance(answer, dict) else answer
            if next(groups, None) is None:
                return
        yield saved


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
