"""Operations and memory of networks and optimiser steps, counted without computing them.

A step is taken on torch's "meta" device by the very networks and methods of the training: every
tensor has a shape and no values, so that one of the paper's size is counted in moments.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from augkd.data.sampler import Batch, PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.distill import Teacher
from augkd.distill.kd import Scratch
from augkd.distill.vgg import VGG19
from augkd.models import SRNetwork, create_model
from augkd.models.quantize import quantize
from augkd.study.params import Study, TeacherEntry
from augkd.study.runs import Task, build, open_network, pick_device
from augkd.train import Member, precision

Key = tuple[str, str]  # of a training: its stage ("teach" or "distil") and name
CPU, META = torch.device("cpu"), torch.device("meta")


def parameters(model: nn.Module) -> int:
    """Number of learnable numbers; constants such as the RGB mean are not among them."""
    return sum(p.numel() for p in model.parameters())


def multiply_accumulates(network: nn.Module, height: int, width: int) -> float:
    """Of a forward pass of one image (1, 3, height, width).

    The convention is fvcore's, which gives all six numbers of Table 1 (its "FLOPs", at 256 x 256):
    one for each multiply-add of a convolution, linear layer or matrix product; five for each
    element of a LayerNorm, one for each input element of an average pooling; nothing for biases,
    activations, softmax and additions. A quantised network counts as it does in full precision.
    """
    if not isinstance(network, SRNetwork):
        return _count(network, height, width)
    return _count_ours(network.name, network.scale, tuple(network.sizes.items()), height, width)


@cache
def _count_ours(name: str, scale: int, sizes: tuple[Any, ...], height: int, width: int) -> float:
    with META:
        return _count(create_model(name, scale=scale, **dict(sizes)).eval(), height, width)


def _count(network: nn.Module, height: int, width: int) -> float:
    def each(count: int) -> Any:  # torch counts two operations a multiply-accumulate
        return lambda shape, *_, **__: 2 * count * math.prod(shape)

    formulas = {torch.ops.aten.native_layer_norm: each(5), torch.ops.aten.mean: each(1)}
    image = torch.empty(1, 3, height, width, device=next(network.parameters()).device)
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        network(image)
    return float(counter.get_total_flops() / 2)


def entry_of(study: Study, stage: str, name: str) -> Task:
    """What the stage "teach" or "distil" trains by that name."""
    return study.teacher(name) if stage == "teach" else study.cohort(name)


def untrained(study: Study, entry: Task, device: torch.device) -> tuple[list[Member], nn.Module]:
    """Untrained students of a training, one of each method, and their teacher, if only in name.
    Neither counts nor times depend on weights of VGG19, nor on how many bits students have."""
    common, members = (study.params.optimiser, study.schedule(entry), device), []
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder, device:
        if isinstance(entry, TeacherEntry):
            member = Member("teacher", _network(study, entry), Scratch(), None, *common)
            return [member], nn.Identity()
        source = entry.teacher
        taught = ("teach", source.trained) if source.trained else ("distil", str(source.student))
        teacher = _network(study, entry_of(study, *taught)).to(device).eval().requires_grad_(False)
        for name in entry.methods:
            network, method = _network(study, entry), entry.method(name)
            with CPU:
                if getattr(method, "vgg", None):
                    method = replace(method, vgg=Path(folder, "vgg19.safetensors"))
                    save_file(VGG19().state_dict(), method.vgg)
                members.append(Member(name, network, method, teacher, *common))
    return members, teacher


def _network(study: Study, entry: Task) -> Any:
    """What an entry trains, as it is before; a teacher from elsewhere is read from its file."""
    if isinstance(entry, TeacherEntry) and not entry.network:
        return open_network(study, entry, study.root / entry.file if entry.file else None)
    role, bits = getattr(entry, "student", "teacher"), getattr(entry, "bits", ())
    network = build(study, str(entry.network), role, entry.scale, 0)
    return quantize(network, bits[0]) if bits else network


def noise(study: Study, entry: Task, n: int, patch: int, device: torch.device) -> PatchSampler:
    """Draws batches of a training, in which there is nothing to see."""
    sides = (2 * patch * entry.scale, 2 * patch)
    hr, lr = (torch.randint(256, (3, side, side), dtype=torch.uint8) for side in sides)
    options = study.params.augment.model_dump() | {"scale": entry.scale, "patch": patch, "batch": n}
    options |= {"seed": 0, "degradation": entry.degradation, "device": device}
    with TemporaryDirectory() as folder:
        write_store(Path(folder, "noise"), [Prepared("", "", hr, {entry.scale: lr}, "")])
        return PatchSampler(ImageStore(Path(folder, "noise")), **options)


class Pass(NamedTuple):
    """Images (n, 3, height, width) through a network."""

    network: nn.Module
    shape: torch.Size
    # times a forward pass' operations: 1 where nothing is differentiated, 2 where the gradient goes
    # through frozen weights to the input, 3 where weights are trained
    factor: int
    image: str  # of the batch, about which the teacher answers; "" of a pass of the student's own

    def operations(self, images: float = 1, side: float = 1) -> float:
        """Multiply-accumulates; of ``images`` times as many images, ``side`` times as wide."""
        n, _, *sides = self.shape
        height, width = (math.ceil(side * length) for length in sides)
        return images * n * self.factor * multiply_accumulates(self.network, height, width)


class Asked(Teacher):
    """Notes which image of the batch it is asked about, and what it answers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.image, self.asked = "", set[str]()
        self.kept: dict[tuple[str, str], Tensor] = {}  # by image and tap

    def output(self, name: str) -> Tensor:
        self.features(name, ())
        return self.kept[name, ""]

    def features(self, name: str, taps: Sequence[str]) -> dict[str, Tensor]:
        self.image = name
        self.asked.add(name)
        found = super().features(name, taps) if taps else {}
        for tap, answer in {"": super().output(name), **found}.items():
            self.kept[name, tap] = answer
        self.image = ""
        return found


@contextmanager
def watched(member: Member, teacher: Asked) -> Iterator[list[Pass]]:
    """Collects the passes inside: every network of ours begins with its one ``conv_first``.

    A network of halves of both, as CrossKD's, counts as the one that its first half is of; its
    twin makes the sum of forward passes right, and half a teacher's backward pass is left out.
    """
    kept = member.method.modules() if isinstance(member.method, nn.Module) else ()
    networks = [member.network, teacher.network, *(n for n in kept if isinstance(n, SRNetwork))]
    owners = {getattr(network, "conv_first", network): network for network in networks}
    passes: list[Pass] = []

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        network = module if isinstance(module, VGG19) else owners.get(module)
        if network is not None:
            learns = any(p.requires_grad for p in network.parameters())
            factor = 3 if learns else 2 if inputs[0].requires_grad else 1
            factor = factor if torch.is_grad_enabled() else 1
            passes.append(Pass(network, inputs[0].shape, factor, teacher.image))

    with register_module_forward_pre_hook(see):
        yield passes


class Step(NamedTuple):
    """A cohort's step: one student of each method, ``copies`` of each, beside one teacher."""

    seeds: int  # each has batches of its own
    copies: int  # by seeds and widths in bits
    students: int
    updates: int  # of all optimisers
    weights: int  # bytes of the students' checkpoints
    resume: int  # bytes that are saved to resume from
    memory: int  # peak bytes; students take turns: one's activations are there at a time
    passes: list[Pass]  # of one copy of each student, were it by itself

    def operations(self, images: float = 1, side: float = 1) -> float:
        """Multiply-accumulates of the step, the teacher's answers shared."""
        own = sum(one.operations(images, side) for one in self.passes if not one.image)
        answers = {one.image: one.operations(images, side) for one in self.passes if one.image}
        return self.copies * own + self.seeds * sum(answers.values())

    def operations_apart(self) -> float:
        """The same where each student has the teacher to itself."""
        return self.copies * sum(one.operations() for one in self.passes)


def count_step(study: Study, stage: str, name: str) -> Step:
    """The step of a training, as the notebook of its stage ("teach" or "distil") takes it."""
    entry = entry_of(study, stage, name)
    training = study.schedule(entry)
    seeds, bits = 1, 1
    if not isinstance(entry, TeacherEntry):
        seeds, bits = len(study.seeds_of(name)), max(1, len(entry.bits))
    copies = seeds * bits
    drawn = noise(study, entry, training.batch, training.patch, CPU).draw(0)
    batch = drawn.each(lambda tensor: tensor.to(META))
    members, network = untrained(study, entry, META)
    held = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    passes, answers, rows, most = list[Pass](), dict[str, Pass](), [], 0.0
    # where activations are of half as many bytes; "meta", on which they are counted, has float32
    share = 0.5 if precision(training, pick_device()) == torch.bfloat16 else 1.0
    teacher = Asked(network)
    teacher.see(batch)
    for member in members:
        member.network.train()
        teacher.asked.clear()
        with watched(member, teacher) as found:
            updates = _activations(member, teacher, batch)
        answers |= {one.image: one for one in found if one.image}
        # about an image the teacher answers once, whoever asks, and for whatever of it
        passes += [
            *(one for one in found if not one.image),
            *(answers[image] for image in sorted(teacher.asked)),
        ]
        known = {t.untyped_storage() for t in (*held, *member.trained, *teacher.kept.values())}
        for saved in updates:
            sizes = [tensor.nbytes for memory, tensor in saved.items() if memory not in known]
            # two gradients are under way, and what convolutions lay out anew
            most = max(most, share * (sum(sizes) + 4 * max(sizes)))
        trained, weights = _bytes(member.trained), _bytes(member.network.parameters())
        twins = bool(member.ema) + (not getattr(member.method, "trains_student", True))
        resume = 3 * trained + twins * weights  # with Adam's moments
        vgg = {one.network for one in found if isinstance(one.network, VGG19)}
        frozen = sum(_bytes(network.parameters()) for network in vgg)
        rows.append((1, len(updates), weights, resume, resume + trained + frozen))  # gradients
    students, changes, weights, resume, memory = (copies * sum(c) for c in zip(*rows, strict=True))
    memory += round(most) + _bytes([*held, *network.parameters(), *teacher.kept.values()])
    return Step(seeds, copies, students, changes, weights, resume, memory, passes)


def _activations(member: Member, teacher: Teacher, batch: Batch) -> list[dict[Any, Tensor]]:
    """What each update, one a group of terms, keeps for its backward pass: by piece of memory."""
    updates, saved = [], dict[Any, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = member.method(member.network, teacher, batch)
        for _ in [answer] if isinstance(answer, dict) else answer:
            updates.append(saved.copy())
            saved.clear()
    return updates


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
