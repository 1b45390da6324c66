"""A training's students and their teacher without weights of worth, to count and to time."""

import torch
from torch import Tensor, nn

from augkd.augment import Invertible
from augkd.config import Cohort, Study, Training
from augkd.data.batch import Batch
from augkd.distill.kd import Scratch
from augkd.distill.vgg import VGG19
from augkd.models.teacher import load_teacher
from augkd.quantize import quantize
from augkd.study import build
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
