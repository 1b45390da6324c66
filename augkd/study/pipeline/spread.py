"""The study's stages over several workers: GPUs of a machine, or machines with one file system.

    augkd spread --workers 2
    augkd spread --scheduler tcp://host:8786

Dask hands each stage to a worker as one ``dvc --wait-for-lock repro --single-item STAGE``. It goes
by levels of DVC's graph: a stage starts once all of the levels before it are done, so that no two
stages that run at once write what the other reads. Stages that train or score ask for the resource
GPU (on machines without GPUs, one training at a time counts as one). If a worker is lost, Dask
hands its stage to another, which goes on from the training's saved state; what the lost worker had
started ends with it. What is already up to date is not run again: DVC decides, as ever.
"""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from augkd.errors import UserError
from augkd.study.pipeline.stage import USES_GPU, notebook_of

LOGS = Path("build/spread")


class Task(NamedTuple):
    """A stage, and how many GPUs it asks for."""

    stage: str
    gpus: int


class Done(NamedTuple):
    """What running a stage came to."""

    status: int  # of dvc
    worker: str
    seconds: float


def levels(root: Path, processes: int = 1) -> list[list[Task]]:
    """The stages of the study in ``root``; those of a level rest on the levels before it alone.

    Args:
        processes: how many GPUs a training takes.
    """
    from dvc.repo import Repo
    from networkx import topological_generations

    with Repo(str(root)) as repo:
        graph = repo.index.graph.reverse()  # from what a stage rests on, to the stage
        return [
            sorted(_task(stage, processes) for stage in level if hasattr(stage, "name"))
            for level in topological_generations(graph)
        ]


def _task(stage: Any, processes: int) -> Task:
    notebook = notebook_of(stage.cmd)
    trains = notebook in ("teach", "distil")
    return Task(stage.name, processes if trains else int(notebook in USES_GPU))


def spread(
    root: Path,
    *,
    workers: int = 0,
    scheduler: str | None = None,
    processes: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Runs all stages of the study in ``root`` on a cluster; returns when they are done.

    Args:
        workers: so many on this machine; or
        scheduler: the address of a Dask scheduler, whose workers see ``root`` at the same path.
        processes: how many GPUs a training takes; a local worker is given so many.

    Raises:
        UserError: no Dask, no such scheduler, no worker with GPUs enough, or stages that failed
            (after the rest of their level was done).
    """
    if importlib.util.find_spec("distributed") is None:
        raise UserError("spread needs Dask: pip install distributed")
    plan = levels(root, processes)
    total, count = sum(map(len, plan)), 0
    with _client(workers, scheduler, processes) as client:
        from distributed import as_completed

        _require(client, max(task.gpus for level in plan for task in level))
        for level in plan:
            futures = {}
            for task in level:
                log = root / LOGS / f"{task.stage}.txt"
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text("")
                future = client.submit(
                    run_stage,
                    *(task.stage, root, _environ(workers), processes if workers else 0),
                    key=f"{task.stage} {time.time_ns()}",
                    resources={"GPU": task.gpus} if task.gpus else None,
                    pure=False,
                )
                futures[future] = (task.stage, log)
            failed = []
            for future in as_completed(list(futures)):
                stage, log = futures.pop(future)  # or a result lost later would be made again
                count += 1
                where = f"[{count}/{total}] {stage}"
                if future.status == "error":  # its workers died, again and again
                    failed.append(log)
                    say(f"{where}: {type(future.exception()).__name__}")
                    continue
                done = Done(*future.result())
                again = log.read_text(errors="replace").count(_HEAD) - 1
                note = f", after {again} lost worker{'s' * (again > 1)}" if again else ""
                if done.status:
                    failed.append(log)
                    note += ", FAILED"
                say(f"{where}: {done.seconds:.0f} s on worker {done.worker}{note}")
            if failed:
                names = ", ".join(log.stem for log in failed)
                raise UserError(f"{names}: failed: see {failed[0]}, mend it, and run this again")


_HEAD = "# on worker "


def run_stage(stage: str, root: Path, environ: dict[str, str], gpus: int = 0) -> Done:
    """What a worker does: runs a stage in a process of its own, which ends with the worker.

    Args:
        environ: variables for the stage, beside the worker's.
        gpus: this worker's share of the machine's; 0 leaves to it what it sees.
    """
    import dask.config
    from distributed import get_worker

    name, begun = str(get_worker().name), time.monotonic()
    inherited = dict(os.environ)
    for variable in dask.config.get("distributed.nanny.pre-spawn-environ", {}):
        inherited.pop(variable, None)  # for the worker's own arrays, not for torch
    if gpus:
        environ = environ | _devices(int(name), gpus)
    with (root / LOGS / f"{stage}.txt").open("ab") as log:
        log.write(f"{_HEAD}{name}\n".encode())
        log.flush()
        child = subprocess.Popen(
            [sys.executable, "-m", "augkd.study.pipeline.spread", stage],
            cwd=root,
            env=inherited | environ,
            stdin=subprocess.PIPE,  # closed when this process ends, in whatever way
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        status = child.wait()
    return Done(status, name, time.monotonic() - begun)


def _devices(worker: int, gpus: int) -> dict[str, str]:
    """The GPUs of the local worker of this number, where there are any."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.device_count():
        return {}
    mine = [devices[(worker * gpus + i) % len(devices)] for i in range(gpus)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


def _environ(workers: int) -> dict[str, str]:
    """What local workers' stages get: this process' environment, and a share of the cores."""
    if not workers:
        return {}
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    return {"OMP_NUM_THREADS": str(threads)} | dict(os.environ)


@contextmanager
def _client(workers: int, scheduler: str | None, gpus: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if bool(workers) == bool(scheduler):
        raise UserError("give either --workers N, for this machine, or --scheduler ADDRESS")
    if scheduler:
        try:
            client = Client(scheduler, timeout=20)
        except (OSError, ValueError) as error:
            raise UserError(f"--scheduler {scheduler}: no answer ({error}): start it") from None
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
            resources={"GPU": gpus},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _require(client: Any, gpus: int) -> None:
    """Waits for a worker, and refuses to wait for a GPU that nobody offers."""
    client.wait_for_workers(1)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    offered = max(worker.get("resources", {}).get("GPU", 0) for worker in workers)
    if offered < gpus:
        raise UserError(
            f"no worker offers GPU={gpus}, which trainings ask for: start them with "
            f"'dask worker ADDRESS --nthreads 1 --resources GPU={gpus}'"
        )


def main(stage: str) -> int:
    """Runs a stage by DVC; if standard input ends before it, so does all that was started."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    with FileLock(LOGS / f"{stage}.lock"):  # what a lost worker had started may still be ending
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
        return child.wait()


def _end_with_input(dvc: "subprocess.Popen[bytes]") -> None:
    """Kills what DVC started, so that it fails and releases its locks; at last, DVC itself."""
    import psutil

    os.read(0, 1)
    for _ in range(100):
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(dvc.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()  # one by one: kernels have sessions of their own
        time.sleep(0.1)
    dvc.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
