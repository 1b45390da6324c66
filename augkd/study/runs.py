"""The steps between files: teach a teacher, distil a cohort. What the notebooks call."""

import hashlib
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from augkd.data.sampler import PatchSampler
from augkd.data.shared import joined
from augkd.data.store import ImageStore
from augkd.distill import Teacher
from augkd.distill.kd import Scratch
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model, load_checkpoint, save_checkpoint
from augkd.models.checkpoint import read_weights
from augkd.models.foreign import load_teacher as open_teacher
from augkd.study.params import Cohort, Study, TeacherEntry
from augkd.study.record import Frames, Run, read_curves
from augkd.train import Curves, Member, precision, train

Task = Cohort | TeacherEntry  # what is trained, as its entry of params.yaml says
Pair = tuple[Tensor, Tensor]  # LR and HR
Learner = tuple[str, SRNetwork, Any, int]  # name, itself before training, method, seed


def pick_device() -> torch.device:
    return joined().device()


def build(study: Study, network: str, role: str, scale: int, seed: int) -> SRNetwork:
    """A network of the budget's size, with the weights that all methods of one seed start from."""
    key = zlib.crc32(f"{study.params.seed}/{network}/{role}/{scale}/{seed}".encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        return create_model(network, scale=scale, **study.size(network, role))


def _fresh(study: Study, cohort: Cohort, student: str, seed: int) -> SRNetwork:
    """A student's network before training, quantised if it shall be."""
    network = build(study, cohort.network, cohort.student, cohort.scale, seed)
    if not (bits := cohort.variants()[student][1]):
        return network
    from augkd.models.quantize import quantize  # here, since other cohorts do not rest on it

    return quantize(network, bits)


def _start_from(network: SRNetwork, path: Path) -> None:
    """Loads every tensor of a checkpoint that fits, as x4 networks start from x2 (Appendix A.1): of
    EDSR and RCAN all but the second stage of the upsampler."""
    parent, own = read_weights(path), network.state_dict()
    fitting = {k: v for k, v in parent.items() if k in own and v.shape == own[k].shape}
    network.load_state_dict(fitting, strict=False)


def student_path(study: Study, cohort: str, student: str, seed: int) -> Path:
    """Where a cohort's student lies: its method's name, or of ``Cohort.variants``."""
    training = f"{cohort}-{seed}" if study.cohort(cohort).apart else cohort
    return study.folder("distil", training) / "students" / f"{student}-{seed}.safetensors"


def load_student(study: Study, name: str, label: str, seed: int, device: torch.device) -> SRNetwork:
    """A trained student of the cohort ``name``, ready to answer."""
    network = _fresh(study, study.cohort(name), label, seed)
    load_checkpoint(student_path(study, name, label, seed), network)
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def load_teacher(study: Study, cohort: Cohort, device: torch.device) -> nn.Module:
    """A cohort's frozen teacher, an ``SRNetwork`` unless its entry names one from elsewhere."""
    source = cohort.teacher
    if not source.trained:
        return load_student(study, source.student or "", source.method or "", 0, device)
    file = study.folder("teach", source.trained) / "teacher.safetensors"
    network = open_network(study, study.teacher(source.trained), file).to(device).eval()
    if isinstance(network, SRNetwork):  # another may view its memory as it was
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def open_network(study: Study, entry: TeacherEntry, file: Path | None) -> nn.Module:
    """The network of an entry, with the weights of ``file``."""
    if not entry.network or not file:
        return open_teacher(entry.spec(file), entry.scale)
    network = build(study, entry.network, "teacher", entry.scale, 0)
    load_checkpoint(file, network)
    return network


def teach(study: Study, name: str) -> Frames:
    """Trains the teacher ``name`` from HR images alone, or takes the network that it names.

    Writes teacher.safetensors, curves and run.json into runs/BUDGET/teach/NAME; no later stage
    needs the file that weights from elsewhere came from. Where the budget asks for several
    processes, this one starts them; each does its part, and only the main one writes.
    """
    entry = study.teacher(name)
    if study.only_shows("teach", name) or (entry.trained and launch(study, "teach", name)):
        return read_curves(study.folder("teach", name))
    run = Run(study, "teach", name)
    out = run.out / "teacher.safetensors"
    if not entry.trained:
        file = study.root / entry.file if entry.file else None
        taken = open_network(study, entry, file)
        run.record["source"] = source = entry.spec(None) | source_of(file)
        if study.budget.shipped:
            from augkd.study.gate import check_card  # here, since no weights rest on it

            source["card"] = check_card(study, entry, taken)
        # spandrel finds the architecture by the file's own names
        save_checkpoint(out, read_weights(file) if entry.spandrel and file else taken, source)
        return run.end(Curves())
    network = build(study, str(entry.network), "teacher", entry.scale, 0)
    if entry.start:
        _start_from(network, study.folder("teach", entry.start) / out.name)
    return _learn(run, entry, [("teacher", network, Scratch(), 0)], None)


def source_of(file: Path | None) -> dict[str, str]:
    """A file of weights, for a record."""
    if not file:
        return {}
    return {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def distil(study: Study, name: str) -> Frames:
    """Trains every student of the cohort ``name``: each method with each seed.

    Writes students/METHOD-SEED.safetensors, curves and run.json into runs/BUDGET/distil/NAME.
    Several processes share it as they do ``teach``.
    """
    if study.only_shows("distil", name) or launch(study, "distil", name):
        return read_curves(study.folder("distil", name))
    run, cohort = Run(study, "distil", name), study.cohort(name)
    teacher, students = load_teacher(study, cohort, run.device), []
    for student, (kind, _) in cohort.variants().items():
        for seed in study.seeds_of(name):
            network = _fresh(study, cohort, student, seed)
            if cohort.start:
                parent = cohort.start.method or kind
                _start_from(network, student_path(study, cohort.start.cohort, parent, seed))
            students.append((f"{student}-{seed}", network, cohort.method(kind), seed))
    return _learn(run, cohort, students, teacher)


def launch(study: Study, stage: str, name: str) -> bool:
    """Trains in several processes, where the budget asks for them, and shows what they print.

    Fresh processes, not forks of a notebook's kernel, whose threads and CUDA forks cannot use. What
    the main one says as it fails is raised again.
    """
    processes, gpus = study.budget.processes, torch.cuda.device_count()
    if processes == 1 or joined().count > 1:
        return False
    if 0 < gpus < processes:
        raise UserError(f"{processes} processes need as many GPUs, here are {gpus}: use fewer")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", "-m", "augkd", "train", name]
    command += ["--budget", study.budget.name] + ["--teacher"] * (stage == "teach")
    threads = str(len(os.sched_getaffinity(0)) // processes or 1)
    env, said = os.environ | {"OMP_NUM_THREADS": threads}, ""
    with Popen(command, cwd=study.root, env=env, stdout=PIPE, stderr=STDOUT) as run:
        assert run.stdout
        # newline="": a bar's carriage returns end lines, and stay what they are
        for line in TextIOWrapper(run.stdout, errors="replace", newline=""):
            sys.stderr.write(line)
            said = line[7:].strip() if line.startswith("augkd: ") else said
    if run.returncode:
        raise UserError(said or f"training {name}: a process failed: what it printed says why")
    return True


def _learn(run: Run, entry: Task, who: Sequence[Learner], teacher: nn.Module | None) -> Frames:
    """Trains networks together, which no other process does meanwhile, and writes them."""
    study, training = run.study, run.study.schedule(entry)
    params, store = study.params, ImageStore(study.folder("prepare") / "train")
    common = teacher, params.optimiser, training, run.device
    members = [Member(name, net, method, *common, seed) for name, net, method, seed in who]
    run.record |= {"members": [member.name for member in members], "steps": training.steps}
    run.record["precision"] = str(precision(training, run.device)).removeprefix("torch.")
    datasets, images = study.training_set(entry)
    drawn = params.augment.model_dump() | {"edges": params.data.edges}
    drawn |= {"images": images, "datasets": datasets, "degradation": entry.degradation}
    drawn |= {"scale": entry.scale, "patch": training.patch, "batch": training.batch}
    sampler = PatchSampler(store, seed=params.seed, device=run.device, **drawn)
    facts = [params.seed, params.optimiser, training, entry, drawn, store.index]
    facts += [run.record[key] for key in ("torch", "code", "device", "precision")]
    digest = hashlib.sha256(repr(facts).encode())
    for options in getattr(entry, "methods", {}).values():
        if vgg := options.get("vgg"):  # weights that a method reads
            digest.update(Path(study.root, vgg).read_bytes())
    # networks before training stand for sizes, seeds, starts
    for network in [*(member.network for member in members), *([teacher] if teacher else [])]:
        for key, value in network.state_dict().items():
            digest.update(key.encode() + value.flatten().cpu().view(torch.uint8).numpy().tobytes())
    # named by all that the training depends on, so that it is not resumed into another one
    run.state = study.root / ".state" / f"{run.label}-{digest.hexdigest()[:16]}"
    lock = FileLock(run.state / "lock", timeout=0) if run.main else nullcontext()
    start = members, Teacher(teacher) if teacher else None, sampler, training, params.optimiser
    validate = validation(study, entry, run.device)
    try:
        with lock:
            curves = train(*start, state=run.state, validate=validate, label=run.label)
    except Timeout:
        raise UserError(f"{run.label}: another process is training it: wait, or stop it") from None
    run.record["stopped"] = curves.stopped
    if curves.stopped and run.main:  # before a loss that was not finite: what is needed to replay
        shutil.copytree(run.state / "stopped", run.out / "stopped", dirs_exist_ok=True)
    for member in members if run.main else ():
        file = run.out / ("students" if teacher else "") / f"{member.name}.safetensors"
        header: dict[str, Any] = {"method": member.name} if teacher else {}
        if member.name in curves.stopped:
            header["stopped"] = curves.stopped[member.name]
        save_checkpoint(file, member.result(), header)
    return run.end(curves)


def validation(study: Study, entry: Task, device: torch.device) -> Callable[[SRNetwork], float]:
    """Mean PSNR-Y over the centres of the test store's images: for curves, never for choosing."""
    from augkd.metrics.fidelity import psnr_y  # here, since no weights rest on it

    store = ImageStore(study.folder("prepare") / "test")
    pairs = [read_pair(store, key, entry, 64) for key in store.keys]
    low, high = (torch.split(torch.stack(images), 16) for images in zip(*pairs, strict=True))

    @torch.no_grad()
    def score(network: SRNetwork) -> float:
        values = []
        for lr, hr in zip(low, high, strict=True):
            sr = network(lr.to(device).float().div(255))
            values.append(psnr_y(sr, hr.to(device), entry.scale))
        return float(torch.cat(values).mean())

    return score


def read_pair(store: ImageStore, key: tuple[str, str], entry: Task, side: int = 0) -> Pair:
    """LR and HR of an image to test an entry's networks on; their centres, if a side is given.

    LR is as stored, or by BSRGAN as is drawn from the image's name, so that all see the same.
    """
    lr, hr = store.pair(*key, entry.scale)
    if side:
        lr, hr = centre(lr, hr, entry.scale, side)
    if entry.degradation == "bicubic":
        return lr, hr
    from augkd.degrade.bsrgan import Degradation  # here, since other cohorts do not rest on it

    generator = np.random.default_rng([zlib.crc32("/".join(key).encode()), entry.scale])
    return Degradation.draw(entry.scale, generator).apply(hr), hr


def centre(lr: Tensor, hr: Tensor, scale: int, side: int) -> Pair:
    """The centre of an LR image, ``side`` pixels wide where it is that large, and its HR."""
    top, left = (max(length - side, 0) // 2 for length in lr.shape[-2:])
    low = lr[:, top : top + side, left : left + side]
    high = hr[:, scale * top : scale * (top + side), scale * left : scale * (left + side)]
    return low, high
