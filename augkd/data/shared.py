"""One training over several processes, and how a notebook or a shell starts them.

    accelerate launch --multi_gpu --num_processes 2 -m augkd train edsr_x2

Every process draws the whole batch of a step, which is a function of seed and step alone, and
trains on its part of the images. Each weighs its loss by its share of them, and the gradients are
added up: batch, draws and updates are those of a single process, up to rounding (losses within
1e-5 after several steps, tested). A method takes part in this if it says ``per_image``: its loss
is a mean over images. Methods that compare images with one another or divide by a mean over the
batch (RKD, FitNet, CSD) do not, and neither does a method that says nothing: such members
see the whole batch in the main process alone, whose results are the only ones that are kept.

The main process alone validates, writes files and shows a bar. Any number of processes may go on
with a state that another number has left. accelerate starts the processes, places them on their
GPUs and connects them: by NCCL where there are GPUs, else by gloo. A study's cohorts, which are
independent, are spread over machines by augkd/study/pipeline/spread.py instead.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from augkd.augment import Invertible
from augkd.data.sampler import Batch
from augkd.errors import UserError


@dataclass(frozen=True)
class Part:
    """A process' images of every batch: ``first`` to ``last`` - 1 of ``whole``."""

    first: int
    last: int
    whole: int

    @property
    def share(self) -> float:
        return (self.last - self.first) / self.whole

    def rows(self, count: int) -> Tensor:
        """Where its images are among K * whole ones, k * whole + i being of image i."""
        return torch.arange(count).view(-1, self.whole)[:, self.first : self.last].flatten()

    def draw(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """What ``torch.rand`` draws for its ``count`` images where it draws for the whole batch."""
        every = count * self.whole // (self.last - self.first)
        drawn = torch.rand(every, generator=generator, device=device)
        return drawn[self.rows(every).to(device)]

    def of(self, batch: Batch) -> Batch:
        """Its images of a batch, in their order."""
        device = batch.lr.device
        taken: dict[str, Any] = {
            field.name: value[self.rows(len(value)).to(device)]
            for field in fields(batch)
            if isinstance(value := getattr(batch, field.name), Tensor)
        }
        flags = batch.transform.flags
        transform = Invertible(flags[self.rows(len(flags)).to(device)])
        return replace(batch, **taken, transform=transform)


@dataclass(frozen=True)
class Group:
    """The processes of one training, as one of them sees it."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def part(self, batch: int) -> Part | None:
        """This process' part of batches of so many images; None where it is alone.

        Raises:
            UserError: fewer images than processes.
        """
        if self.count == 1:
            return None
        if batch < self.count:
            raise UserError(
                f"{self.count} processes cannot share a batch of {batch}: use at most {batch}, "
                "or a larger batch"
            )
        first, last = (rank * batch // self.count for rank in (self.rank, self.rank + 1))
        return Part(first, last, batch)

    def device(self) -> torch.device:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if self.count == 1:
            return torch.device("cuda")
        return torch.device("cuda", torch.cuda.current_device())

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()

    def backward(self, losses: Tensor, part: Part, parameters: Sequence[nn.Parameter]) -> Tensor:
        """``losses.sum().backward()`` of the whole batch, from the losses (terms,) of a part.

        One sum over the processes carries gradients and losses. It begins after the backward
        pass. Gradients that the parameters already had are added to, as ever.

        Returns:
            The losses of the whole batch, (terms,).
        """
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        (part.share * losses).sum().backward()  # type: ignore[no-untyped-call]
        values = part.share * losses.detach()
        summed = [*(p.grad for p in parameters if p.grad is not None), values]
        flat = torch.cat([tensor.flatten() for tensor in summed])
        dist.all_reduce(flat)
        sizes = [tensor.numel() for tensor in summed]
        for tensor, piece in zip(summed, torch.split(flat, sizes), strict=True):
            tensor.copy_(piece.view(tensor.shape))
        for p, old in zip(parameters, before, strict=True):
            if old is not None:
                p.grad = old if p.grad is None else old + p.grad
        return values


def joined() -> Group:
    """The processes that this one was started with; joins them the first time.

    Raises:
        UserError: there are others, but no accelerate.
    """
    if not dist.is_initialized():
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Group()
        _require_accelerate()
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())
    return Group(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Takes leave of the others, at the end of a process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launch(arguments: list[str], processes: int, folder: Path) -> None:
    """``augkd ARGUMENTS`` on so many processes of this machine; what they print is shown here.

    Fresh processes, not forks of a notebook's kernel, whose threads and CUDA forks cannot use.

    Raises:
        UserError: no accelerate, fewer GPUs than processes, or what the main process says.
        RuntimeError: a process failed otherwise; what it printed says why.
    """
    _require_accelerate()
    gpus, cores = torch.cuda.device_count(), len(os.sched_getaffinity(0))
    if 0 < gpus < processes:
        raise UserError(f"{processes} processes need as many GPUs, here are {gpus}: use fewer")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["--num_cpu_threads_per_process", str(max(1, cores // processes))]
    command += ["-m", "augkd", *arguments]
    said = ""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        assert run.stdout
        try:
            # newline="": a bar's carriage returns end lines, and stay what they are
            for line in TextIOWrapper(run.stdout, errors="replace", newline=""):
                sys.stderr.write(line)
                said = line.strip() if line.startswith("augkd: ") else said
        except BaseException:
            run.terminate()  # accelerate passes it on
            raise
    if run.returncode and said:
        raise UserError(said.removeprefix("augkd: "))
    if run.returncode:
        raise RuntimeError(f"augkd {' '.join(arguments)}: a process failed: see what it printed")


def _require_accelerate() -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise UserError("several processes need accelerate: pip install accelerate")
