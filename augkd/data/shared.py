"""One training over several processes, which torchrun starts.

    torchrun --standalone --nproc_per_node 2 -m augkd train edsr_x2

Every process draws the whole batch of a step, a function of seed and step alone, and trains on its
part of the images. Each weighs its loss by its share of them, and the gradients are added up:
batch, draws and updates are those of a single process, up to rounding (losses within 1e-5 after
several steps, tested). A method takes part if it says ``per_image``: its loss is a mean over
images. The others (RKD, FitNet and CSD compare images or divide by a mean over the batch) see the
whole batch in the main process alone, whose results are the only ones that are kept.

The main process alone validates, writes files and shows a bar. Any number of processes may go on
with a state that another number has left. Each has a GPU of its own, and NCCL connects them; where
there is no GPU, gloo does.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from augkd.data.sampler import Batch
from augkd.errors import UserError


class Part(NamedTuple):
    """A process' images of every batch: ``first`` to ``last`` - 1 of ``whole``."""

    first: int
    last: int
    whole: int

    def rows(self, count: int) -> Tensor:
        """Where its images are among K * whole ones, k * whole + i being of image i."""
        return torch.arange(count).view(-1, self.whole)[:, self.first : self.last].flatten()

    def draw(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """What ``torch.rand`` draws for its ``count`` images where it draws for the whole batch."""
        every = count * self.whole // (self.last - self.first)
        return torch.rand(every, generator=generator, device=device)[self.rows(every).to(device)]

    def of(self, batch: Batch) -> Batch:
        """Its images of a batch, in their order."""
        return batch.each(lambda tensor: tensor[self.rows(len(tensor)).to(tensor.device)])


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
            mend = f"use at most {batch}, or a larger batch"
            raise UserError(f"{self.count} processes cannot share a batch of {batch}: {mend}")
        first, last = (rank * batch // self.count for rank in (self.rank, self.rank + 1))
        return Part(first, last, batch)

    def device(self) -> torch.device:
        """The GPU of this process where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

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
        own = losses * ((part.last - part.first) / part.whole)
        gradients = torch.autograd.grad(own.sum(), parameters, allow_unused=True)
        moved = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        flat = torch.cat([own.detach(), *(g.flatten() for _, g in moved)])
        dist.all_reduce(flat)
        values, *pieces = torch.split(flat, [len(losses), *(g.numel() for _, g in moved)])
        for (p, _), piece in zip(moved, pieces, strict=True):
            summed = torch.empty_like(p).copy_(piece.view(p.shape))  # in its memory format
            p.grad = summed if p.grad is None else p.grad + summed
        return values


def joined() -> Group:
    """The processes that this one was started with; joins them the first time.

    torchrun says who they are (RANK, WORLD_SIZE) and which GPU is this one's (LOCAL_RANK).
    """
    if not dist.is_initialized():
        if "RANK" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
            return Group()
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
    return Group(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Takes leave of the others, at the end of a process."""
    if dist.is_initialized():
        dist.destroy_process_group()
