"""The steps between files: teach a teacher, distil a cohort. What the notebooks call."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import nn

from augkd.augment import step_generator
from augkd.data.sampler import PatchSampler
from augkd.data.shared import joined
from augkd.data.store import ImageStore
from augkd.distill import Teacher
from augkd.distill.kd import Scratch
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model, load_checkpoint, save_checkpoint
from augkd.models.checkpoint import read_weights, save_weights
from augkd.models.foreign import load_teacher as open_teacher
from augkd.options import Training
from augkd.study.params import Cohort, Study, TeacherEntry
from augkd.study.record import Run, read_curves
from augkd.train import Curves, Member, train


def pick_device() -> torch.device:
    return joined().device()


def build(study: Study, network: str, role: str, scale: int, seed: int) -> SRNetwork:
    """A network of the budget's size with the initial weights of one seed.

    Methods of one seed start from the same weights: they differ by method, not by luck.
    """
    key = zlib.crc32(f"{study.params.seed}/{network}/{role}/{scale}/{seed}".encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        return create_model(network, scale=scale, **study.size(network, role))


def start_from(network: SRNetwork, path: Path) -> None:
    """Loads every tensor of a checkpoint that fits, as x4 networks start from x2 (Appendix A.1).

    For EDSR and RCAN at x4 that is everything but the second stage of the upsampler.
    """
    from safetensors.torch import load_file

    parent, own = load_file(path), network.state_dict()
    fitting = {k: v for k, v in parent.items() if k in own and v.shape == own[k].shape}
    network.load_state_dict({**own, **fitting})


def student_path(study: Study, cohort: str, student: str, seed: int) -> Path:
    """Where a cohort's student lies: its method's name, or of ``Cohort.variants``."""
    return study.folder("distil", cohort) / "students" / f"{student}-{seed}.safetensors"


def load_student(
    study: Study, name: str, student: str, seed: int, device: torch.device
) -> SRNetwork:
    """A trained student of the cohort ``name``, ready to answer."""
    cohort = study.cohort(name)
    network = _fresh(study, cohort, cohort.variants()[student][1], seed)
    load_checkpoint(student_path(study, name, student, seed), network)
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def _fresh(study: Study, cohort: Cohort, bits: int | None, seed: int) -> SRNetwork:
    """A student's network before training, quantised if it shall be."""
    network = build(study, cohort.network, cohort.student, cohort.scale, seed)
    if not bits:
        return network
    from augkd.models.quantize import quantize  # here, since other cohorts do not rest on it

    return quantize(network, bits)


def load_teacher(study: Study, cohort: Cohort, device: torch.device) -> nn.Module:
    """The frozen teacher of a cohort, from the stage that made it.

    An ``SRNetwork``, unless its entry names a network from elsewhere.
    """
    source = cohort.teacher
    network: nn.Module
    if source.trained:
        network = _open(study, study.teacher(source.trained), _teacher_path(study, cohort))
    else:
        network = load_student(study, source.student or "", source.method or "", 0, device)
    network = network.to(device).eval()
    if isinstance(network, SRNetwork):  # a foreign one may view its memory as it was
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _teacher_path(study: Study, cohort: Cohort) -> Path:
    source = cohort.teacher
    if source.trained:
        return study.folder("teach", source.trained) / "teacher.safetensors"
    return student_path(study, source.student or "", source.method or "", 0)


def _open(study: Study, entry: TeacherEntry, file: Path | None) -> nn.Module:
    """The network of an entry, with the weights of ``file``."""
    if not entry.network:
        return open_teacher(entry.spec(file), entry.scale)
    assert file
    network = build(study, entry.network, "teacher", entry.scale, 0)
    load_checkpoint(file, network)
    return network


def teach(study: Study, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains the teacher ``name`` from HR images alone, or takes the network that it names.

    Writes teacher.safetensors, curves and run.json into runs/BUDGET/teach/NAME. The first holds
    the weights of a foreign network too: later stages read them there, through the same door, so
    that it does not matter to them whether the file that they came from is still as it was. The
    record names that file and its SHA-256.

    Where the budget asks for several processes, this one starts them, and they do all that. A
    process among others does its part of the training, and writes only if it is the main one.

    Returns:
        The curves: loss (step, member, term, value) and validation PSNR (step, member, value).
    """
    entry = study.teacher(name)
    if study.only_shows("teach", name) or (entry.trained and launch(study, "teach", name)):
        return read_curves(study.folder("teach", name))
    device, training = pick_device(), study.schedule(entry)
    steps = training.steps if entry.trained else 0
    with Run(study, "teach", name, steps, ["teacher"], device) as run:
        file = run.out / "teacher.safetensors"
        if not entry.network or not entry.trained:
            run.record["source"] = _take(study, entry, file)
            return run.end(Curves())
        network = build(study, entry.network, "teacher", entry.scale, 0)
        if entry.start:
            start_from(network, study.folder("teach", entry.start) / file.name)
        method, optimiser = Scratch(), study.params.optimiser
        member = Member("teacher", network, method, None, optimiser, training, device)
        curves = _learn(study, run, [member], None, training, entry)
        if run.main:
            header = {"network": entry.network, "scale": str(entry.scale)}
            save_checkpoint(file, member.result(), header)
        return run.end(curves)


def _take(study: Study, entry: TeacherEntry, out: Path) -> dict[str, str]:
    """Copies a teacher that is not trained here to ``out``; returns where it comes from."""
    file = study.root / entry.file if entry.file else None
    network = _open(study, entry, file)
    source = {"factory": entry.factory} if entry.factory else {}
    if file:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        source |= {"file": file.name, "sha256": digest}
    if entry.spandrel and file:  # which finds the architecture by the file's own names
        save_weights(out, read_weights(file), source)
    else:
        save_checkpoint(out, network, source)
    return source


def distil(study: Study, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains every student of the cohort ``name``: each method with each seed.

    Writes students/METHOD-SEED.safetensors, curves and run.json into runs/BUDGET/distil/NAME.
    Several processes share it as they do ``teach``, and it returns the curves as that does.
    """
    if study.only_shows("distil", name) or launch(study, "distil", name):
        return read_curves(study.folder("distil", name))
    cohort, device = study.cohort(name), pick_device()
    training, optimiser = study.schedule(cohort), study.params.optimiser
    teacher = load_teacher(study, cohort, device)
    members = []
    for student, (kind, bits) in cohort.variants().items():
        for seed in range(study.seeds(name)):
            network, method = _fresh(study, cohort, bits, seed), cohort.method(kind)
            if cohort.start:
                parent = cohort.start.method or kind
                start_from(network, student_path(study, cohort.start.cohort, parent, seed))
            label = f"{student}-{seed}"
            members.append(Member(label, network, method, teacher, optimiser, training, device))
    names = [member.name for member in members]
    with Run(study, "distil", name, training.steps, names, device) as run:
        curves = _learn(study, run, members, Teacher(teacher), training, cohort)
        if run.main:
            partial, out = run.out / "students.partial", run.out / "students"
            shutil.rmtree(partial, ignore_errors=True)
            header = {"network": cohort.network, "scale": str(cohort.scale)}
            for member in members:
                path = partial / f"{member.name}.safetensors"
                save_checkpoint(path, member.result(), header | {"method": member.name})
            shutil.rmtree(out, ignore_errors=True)
            os.replace(partial, out)
        return run.end(curves)


def launch(study: Study, stage: str, name: str) -> bool:
    """Trains in several processes of this machine, where the budget asks for them.

    Fresh processes, not forks of a notebook's kernel, whose threads and CUDA forks cannot use.
    What they print is shown here.

    Returns:
        Whether it did: not where the budget asks for one, nor within one of several.

    Raises:
        UserError: fewer GPUs than processes, or what the main process says.
        RuntimeError: a process failed otherwise; what it printed says why.
    """
    processes, gpus = study.budget.processes, torch.cuda.device_count()
    if processes == 1 or joined().count > 1:
        return False
    if 0 < gpus < processes:
        raise UserError(f"{processes} processes need as many GPUs, here are {gpus}: use fewer")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "augkd", "train", name]
    command += ["--budget", study.budget.name] + ["--teacher"] * (stage == "teach")
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes))}
    said, pipe = "", subprocess.PIPE
    with subprocess.Popen(
        command, cwd=study.root, env=os.environ | threads, stdout=pipe, stderr=subprocess.STDOUT
    ) as run:
        assert run.stdout
        try:
            # newline="": a bar's carriage returns end lines, and stay what they are
            for line in TextIOWrapper(run.stdout, errors="replace", newline=""):
                sys.stderr.write(line)
                said = line.strip() if line.startswith("augkd: ") else said
        except BaseException:
            run.terminate()  # torchrun passes it on
            run.wait()
            raise
    if run.returncode and said:
        raise UserError(said.removeprefix("augkd: "))
    if run.returncode:
        raise RuntimeError(f"training {name}: a process failed: see what it printed")
    return True


def _learn(
    study: Study,
    run: Run,
    members: list[Member],
    teacher: Teacher | None,
    training: Training,
    entry: Cohort | TeacherEntry,
) -> Curves:
    """Trains the members of a run, which no other process does meanwhile."""
    params, store = study.params, ImageStore(study.folder("prepare") / "train")
    datasets, images = study.training_set(entry)
    sampler = PatchSampler(
        store,
        scale=entry.scale,
        patch=training.patch,
        batch=training.batch,
        seed=params.seed,
        edges=params.data.edges,
        crops=params.augment.crops,
        probability=params.augment.probability,
        images=images,
        datasets=datasets,
        degradation=entry.degradation,
        device=run.device,
        on_device=params.data.on_device,
    )
    named = f"{run.label}-{_fingerprint(study, run, members, store, training)}"
    run.state = study.root / ".state" / named
    run.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.state / "lock", timeout=0) if run.main else nullcontext()
    try:
        with lock:
            return train(
                members,
                teacher,
                sampler,
                training,
                params.optimiser,
                state=run.state,
                validate=validation(study, entry, run.device),
                label=run.label,
            )
    except Timeout as error:
        raise UserError(
            f"{run.label}: another process is training it (lock: {error.lock_file}): wait for it "
            "or stop it"
        ) from None


def validation(
    study: Study, entry: Cohort | TeacherEntry, device: torch.device
) -> Callable[[SRNetwork], float]:
    """Mean PSNR-Y over the centres of the test photographs, or of the datasets that the budget
    watches: for the curves, never for choosing.

    The last weights are what is scored; no checkpoint is picked by these values.
    """
    from augkd.metrics.fidelity import psnr_y  # here, since no weights rest on it

    store, scale = ImageStore(study.folder("prepare") / "test"), entry.scale
    lows, highs = [], []
    for dataset, image in store.keys:
        lr, hr = centre(*store.pair(dataset, image, scale), scale, 64)
        lr = degraded(lr, hr, entry, dataset, image)
        lows.append(lr)
        highs.append(hr)
    low, high = torch.stack(lows), torch.stack(highs)

    @torch.no_grad()
    def score(network: SRNetwork) -> float:
        values = []
        for few, truth in zip(torch.split(low, 16), torch.split(high, 16), strict=True):
            sr = network(few.to(device).float().div(255))
            values.append(psnr_y(sr, truth.to(device), border=scale))
        return float(torch.cat(values).mean())

    return score


def degraded(
    lr: torch.Tensor, hr: torch.Tensor, entry: Cohort | TeacherEntry, dataset: str, image: str
) -> torch.Tensor:
    """The LR image that a test of the entry starts from: its own, or BSRGAN's of the HR image.

    The latter's parameters are drawn from the image's name, so that all see the same.
    """
    if entry.degradation == "bicubic":
        return lr
    from augkd.degrade.bsrgan import Degradation  # here, since other cohorts do not rest on it

    generator = step_generator(zlib.crc32(f"{dataset}/{image}".encode()), entry.scale)
    return Degradation.draw(entry.scale, generator).apply(hr)


def centre(
    lr: torch.Tensor, hr: torch.Tensor, scale: int, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The centre of an LR image, ``side`` pixels wide where it is that large, and its HR."""
    height, width = (min(side, length) for length in lr.shape[-2:])
    top, left = (lr.shape[-2] - height) // 2, (lr.shape[-1] - width) // 2
    low = lr[:, top : top + height, left : left + width]
    high = hr[:, scale * top : scale * (top + height), scale * left : scale * (left + width)]
    return low, high


def _fingerprint(
    study: Study, run: Run, members: list[Member], store: ImageStore, training: Training
) -> str:
    """Names all that the result depends on, so that no state is resumed into another run."""
    digest = hashlib.sha256()
    params = study.params.model_dump(mode="json", include={"seed", "augment", "optimiser"})
    params["edges"] = study.params.data.edges
    params["training"] = asdict(training)
    table = study.params.cohorts if run.stage == "distil" else study.params.teachers
    params["entry"] = table[run.name].model_dump(mode="json")
    params["methods"] = study.budget.methods
    params["training_set"] = study.training_set(table[run.name])
    digest.update(json.dumps(params, sort_keys=True).encode())
    digest.update(pd.DataFrame(store.index).to_csv().encode())
    digest.update(run.record["code"].encode())
    digest.update(torch.__version__.encode() + run.record["device"].encode())
    for member in members:  # initial weights stand for sizes, seeds, starts
        for key, value in member.network.state_dict().items():
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    if run.stage == "distil":
        cohort = study.cohort(run.name)
        for options in cohort.methods.values():
            if vgg := options.get("vgg"):  # weights that a method reads
                digest.update(Path(study.root, vgg).read_bytes())
        digest.update(_teacher_path(study, cohort).read_bytes())
    return digest.hexdigest()[:16]
