"""The steps between files: teach a teacher, distil a cohort. What the notebooks call."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from augkd.config import Cohort, Study, TeacherEntry, Training
from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore
from augkd.distill import Teacher
from augkd.distill.kd import Scratch
from augkd.metrics import psnr_y
from augkd.models import SRNetwork, create_model, load_checkpoint, save_checkpoint
from augkd.models.checkpoint import read_weights, save_weights
from augkd.models.teacher import load_teacher as open_teacher
from augkd.train import Curves, Member, finish, train

# What a trained network is made of: part of the fingerprint of its resume state, and recorded.
TRAINING_CODE = ("augment.py", "train.py", "study.py", "data", "degrade", "distill", "models")


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def student_path(study: Study, cohort: str, method: str, seed: int) -> Path:
    return study.folder("distil", cohort) / "students" / f"{method}-{seed}.safetensors"


def load_teacher(study: Study, cohort: Cohort, device: torch.device) -> nn.Module:
    """The frozen teacher of a cohort, from the stage that made it.

    An ``SRNetwork``, unless its entry names a network from elsewhere.
    """
    source = cohort.teacher
    if source.trained:
        path = study.folder("teach", source.trained) / "teacher.safetensors"
        network = _open(study, study.teacher(source.trained), path)
    else:
        assert source.student  # the configuration has checked it
        taught = study.cohort(source.student)
        network = build(study, taught.network, taught.student, taught.scale, 0)
        load_checkpoint(student_path(study, source.student, source.method or "", 0), network)
    network = network.to(device).eval()
    if isinstance(network, SRNetwork):  # a foreign one may view its memory as it was
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _open(study: Study, entry: TeacherEntry, file: Path | None) -> nn.Module:
    """The network of an entry, with the weights of ``file``."""
    if not entry.network:
        return open_teacher(entry.spec(file), entry.scale)
    assert file
    network = build(study, entry.network, "teacher", entry.scale, 0)
    load_checkpoint(file, network)
    return network


def teach(study: Study, name: str) -> tuple[pd.DataFrame, ...]:
    """Trains the teacher ``name`` from HR images alone, or takes the network that it names.

    Writes teacher.safetensors, curves and run.json into runs/BUDGET/teach/NAME. The first holds
    the weights of a foreign network too: later stages read them there, through the same door, so
    that it does not matter to them whether the file that they came from is still as it was. The
    record names that file and its SHA-256.

    Returns:
        The curves: loss (step, member, term, value) and validation PSNR (step, member, value).
    """
    entry, out, device = study.teacher(name), study.folder("teach", name), pick_device()
    training = study.budget.teach
    steps = training.steps if entry.trained else 0
    with _Run(study, "teach", name, steps, ["teacher"], device, out) as run:
        if not entry.network or not entry.trained:
            run.record["source"] = _take(study, entry, out / "teacher.safetensors")
            return run.end(Curves())
        network = build(study, entry.network, "teacher", entry.scale, 0)
        if entry.start:
            start_from(network, study.folder("teach", entry.start) / "teacher.safetensors")
        method, optimiser = Scratch(), study.params.optimiser
        member = Member("teacher", network, method, None, optimiser, training, device)
        curves = _learn(study, run, [member], None, training, entry.scale)
        header = {"network": entry.network, "scale": str(entry.scale)}
        save_checkpoint(out / "teacher.safetensors", member.result(), header)
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


def distil(study: Study, name: str) -> tuple[pd.DataFrame, ...]:
    """Trains every student of the cohort ``name``: each method with each seed.

    Writes students/METHOD-SEED.safetensors, curves and run.json into runs/BUDGET/distil/NAME.

    Returns:
        The curves, as ``teach`` does.
    """
    cohort, out, device = study.cohort(name), study.folder("distil", name), pick_device()
    training = study.budget.distil
    teacher = load_teacher(study, cohort, device)
    members = []
    for method in cohort.methods:
        for seed in range(training.seeds):
            network = build(study, cohort.network, cohort.student, cohort.scale, seed)
            if cohort.start:
                start_from(network, student_path(study, cohort.start, method, seed))
            members.append(
                Member(
                    f"{method}-{seed}",
                    network,
                    cohort.method(method),
                    teacher,
                    study.params.optimiser,
                    training,
                    device,
                )
            )
    names = [member.name for member in members]
    with _Run(study, "distil", name, training.steps, names, device, out) as run:
        curves = _learn(study, run, members, Teacher(teacher), training, cohort.scale)
        partial = out / "students.partial"
        shutil.rmtree(partial, ignore_errors=True)
        header = {"network": cohort.network, "scale": str(cohort.scale)}
        for member in members:
            path = partial / f"{member.name}.safetensors"
            save_checkpoint(path, member.result(), header | {"method": member.name})
        shutil.rmtree(out / "students", ignore_errors=True)
        os.replace(partial, out / "students")
        return run.end(curves)


def _learn(
    study: Study,
    run: "_Run",
    members: list[Member],
    teacher: Teacher | None,
    training: Training,
    scale: int,
) -> Curves:
    store = ImageStore(study.folder("prepare") / "train")
    augment = study.params.augment
    sampler = PatchSampler(
        store,
        scale=scale,
        patch=training.patch,
        batch=training.batch,
        seed=study.params.seed,
        edges=study.params.data.edges,
        crops=augment.crops,
        zoom=augment.zoom_in,
        probability=augment.probability,
        device=run.device,
    )
    run.state = study.root / ".state" / f"{run.label}-{_fingerprint(study, run, members, store)}"
    return train(
        members,
        teacher,
        sampler,
        training,
        study.params.optimiser,
        state=run.state,
        validate=validation(study, scale, run.device),
        label=run.label,
    )


def validation(study: Study, scale: int, device: torch.device) -> Callable[[SRNetwork], float]:
    """Mean PSNR-Y over the centres of the test photographs: for the curves, never for choosing.

    The last weights are what is scored; no checkpoint is picked by these values.
    """
    store = ImageStore(study.folder("prepare") / "test")
    lows, highs = [], []
    for dataset, image in store.keys:
        lr, hr = centre(*store.pair(dataset, image, scale), scale, 64)
        lows.append(lr)
        highs.append(hr)
    low = torch.stack(lows).to(device).float().div(255)
    high = torch.stack(highs).to(device)

    @torch.no_grad()
    def score(network: SRNetwork) -> float:
        return float(psnr_y(network(low), high, border=scale).mean())

    return score


def centre(
    lr: torch.Tensor, hr: torch.Tensor, scale: int, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The centre of an LR image, ``side`` pixels wide where it is that large, and its HR."""
    height, width = (min(side, length) for length in lr.shape[-2:])
    top, left = (lr.shape[-2] - height) // 2, (lr.shape[-1] - width) // 2
    low = lr[:, top : top + height, left : left + width]
    high = hr[:, scale * top : scale * (top + height), scale * left : scale * (left + width)]
    return low, high


def code_hash() -> str:
    """SHA-256 over the sources that training runs through."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for part in TRAINING_CODE:
        path = package / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _fingerprint(study: Study, run: "_Run", members: list[Member], store: ImageStore) -> str:
    """Names all that the result depends on, so that no state is resumed into another run."""
    digest = hashlib.sha256()
    params = study.params.model_dump(mode="json", include={"seed", "data", "augment", "optimiser"})
    params["training"] = getattr(study.budget, run.stage).model_dump(mode="json")
    table = study.params.cohorts if run.stage == "distil" else study.params.teachers
    params["entry"] = table[run.name].model_dump(mode="json")
    digest.update(json.dumps(params, sort_keys=True).encode())
    digest.update(store.index.to_csv().encode())
    digest.update(run.record["code"].encode())
    digest.update(torch.__version__.encode() + run.record["device"].encode())
    for member in members:  # initial weights stand for sizes, seeds, starts
        for key, value in member.network.state_dict().items():
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    if run.stage == "distil":
        source = study.cohort(run.name).teacher
        path = (
            study.folder("teach", source.trained) / "teacher.safetensors"
            if source.trained
            else student_path(study, source.student or "", source.method or "", 0)
        )
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class _Run:
    """The record of one training: made before it starts, since code may change meanwhile."""

    def __init__(
        self,
        study: Study,
        stage: str,
        name: str,
        steps: int,
        members: list[str],
        device: torch.device,
        out: Path,
    ) -> None:
        self.stage, self.name, self.device, self.out = stage, name, device, out
        self.label = f"{stage} {study.budget.name} {name}".replace(" ", "-")
        self.state: Path | None = None
        self.begun = time.monotonic()
        self.record: dict[str, Any] = {
            "cohort": name,
            "stage": stage,
            "budget": study.budget.name,
            "members": members,
            "steps": steps,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "revision": _git(study.root, "rev-parse", "HEAD"),
            "dirty": bool(_git(study.root, "status", "--porcelain", "--untracked-files=no")),
            "code": code_hash(),
            "device": device_name(device),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def __enter__(self) -> "_Run":
        self.out.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self.state and error[0] is None:
            finish(self.state)

    def end(self, curves: Curves) -> tuple[pd.DataFrame, ...]:
        """Writes curves and record; the training is over."""
        loss, psnr = curves.frames()
        folder = self.out / "curves"
        folder.mkdir(exist_ok=True)
        loss.to_csv(folder / "terms.csv", index=False)
        for name, frame in (("loss", loss), ("psnr", psnr)):
            by_method(frame).to_csv(folder / f"{name}.csv", index=False)
        self.record["seconds"] = round(time.monotonic() - self.begun, 1)
        text = json.dumps(self.record, indent=2) + "\n"
        (self.out / "run.json").write_text(text)
        return loss, psnr


def by_method(frame: pd.DataFrame) -> pd.DataFrame:
    """Curves with a column a method: terms summed, then the mean over seeds, as dvc plots wants."""
    if frame.empty:
        return pd.DataFrame({"step": []})
    total = frame.groupby(["step", "member"], sort=False)["value"].sum().reset_index()
    total["method"] = total["member"].str.replace(r"-\d+$", "", regex=True)
    wide = total.pivot_table(index="step", columns="method", values="value", sort=False)
    return wide.round(6).reset_index()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def _git(root: Path, *arguments: str) -> str:
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
