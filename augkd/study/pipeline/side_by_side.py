"""The study's stages side by side: on the cores of this machine, or on the workers of Dask.

    make repro JOBS=2
    augkd spread --workers 2
    augkd spread --scheduler tcp://host:8786

Plain ``dvc repro`` takes one stage after another. Here what is stale, and all that rests on it, is
handed to an executor as soon as it may run, the longest way to the end first: each stage, or a few
pages, as one ``dvc --wait-for-lock repro --single-item``, so that DVC decides and writes dvc.lock.
If a worker is lost, Dask hands its stage to another, which goes on from the training's saved state.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from graphlib import TopologicalSorter
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from augkd.errors import UserError, one_line, replacing
from augkd.study.pipeline.stage import RUNS, Stage, pipeline, upstream

JOBS = "AUGKD_JOBS"
LOGS = Path("build/spread")
TIMED = ("table_01", "table_11", "methods")  # notebooks that measure seconds
TRAINS = ("teach", "distil")
USES_GPU = (*TRAINS, "score")
ALONE = {*RUNS, *TIMED, "", "sources", "fetch", "site"}
PAGES = 4  # at most, that are run by one DVC, whose start takes as long as one of them
PAUSE = 10.0  # seconds between two lines of a bar, where the output is not a terminal
_HEAD = "# on worker "


class Done(NamedTuple):
    """What running a stage came to."""

    status: int  # DVC's exit code
    where: str = ""
    seconds: float = 0


Submit = Callable[[Stage], "Future[Done]"]
May = Callable[[Stage, list[str]], bool]
Say = Callable[[str], None]


def stale(root: Path, *stages: str) -> set[str]:
    """The stages that DVC finds changed; what rests on them may be, too. UserError: DVC fails.

    Waits for stages that a run has left behind that was killed, and mends what it left half done.
    """
    command = [*_DVC, "--wait-for-lock", "status", "--json", *stages]
    asked: dict[str, Any] = {"cwd": root, "capture_output": True, "text": True, "errors": "replace"}
    while (done := subprocess.run(command, **asked)).returncode:
        if " is busy, " in done.stderr:
            print("A stage of an earlier run goes on: waiting for it", flush=True)
            time.sleep(PAUSE / 2)
        elif not _mend(root):
            why = (done.stderr.partition("ERROR: ")[2] or done.stderr).partition("\n\n")[0]
            why = f"dvc status failed: {' '.join(why.split())}"
            needs = "it needs a git clone that you may write to, alone, and USER and HOME set"
            raise UserError(f"{why}: {needs}")
    return set(json.loads(done.stdout.strip().splitlines()[-1]))


def _mend(root: Path) -> bool:
    """Whether DVC was killed while it wrote one of its files in place, which now is as before: who
    reads and writes what, or dvc.lock, whose lost stages DVC has in its cache."""
    users, lock = root / ".dvc" / "tmp" / "rwlock", root / "dvc.lock"
    with suppress(OSError):
        try:
            json.loads(users.read_bytes())
        except ValueError:
            users.unlink()  # nobody does
            return True
    *before, last = re.split(r"(?m)^(?=  \S)", lock.read_text() if lock.is_file() else "-")
    if last == "-" or _whole(before, last) or (before[1:] and not _whole(before)):
        return False
    with replacing(lock) as part:
        part.write_text("".join(before))
    if not before[1:]:
        lock.unlink()
    return True


def _whole(stages: list[str], last: str = "") -> bool:
    """Whether it is a dvc.lock of so many stages, its header before them."""
    text = "".join([*stages, last])
    with suppress(yaml.YAMLError, AttributeError, KeyError, TypeError):
        found = yaml.load(text, yaml.CSafeLoader)["stages"].values()
        files = [file for stage in found for file in stage.get("deps", []) + stage["outs"]]
        return text.endswith("\n") and all("md5" in file for file in files)
    return False


def run(root: Path, submit: Submit, may: May, say: Say, logs: str = "above") -> int:
    """Runs what is stale in the study in ``root``; returns how many stages were handed out.

    ``submit`` starts a stage, ``may`` says whether one may start beside those of some notebooks,
    the stages' own words are in ``logs``. Raises UserError: stages that failed, after those that
    ran beside them were done.
    """
    stages, count = pipeline(root), 0
    graph = upstream(stages)
    while changed := stale(root):
        # sources alone come first: only then can be told what else is stale
        first = {name for name in changed if stages[name].notebook == "sources"}
        for name in TopologicalSorter(graph).static_order():
            if graph[name] & changed:
                changed.add(name)
        chosen = {name: graph[name] & changed for name in stages if name in (first or changed)}
        if failed := _hand_out(*together(stages, chosen), submit, may, say):
            raise UserError(f"{', '.join(failed)}: failed: see {logs}, mend it, and run this again")
        count += len(chosen)
        if not first:
            break
    return count


def together(
    stages: Mapping[str, Stage], graph: Mapping[str, set[str]]
) -> tuple[dict[str, Stage], dict[str, set[str]]]:
    """The same with pages that wait for the same stages made one, named by all of them."""
    alike: dict[frozenset[str], list[str]] = {}
    for name, before in graph.items():
        if stages[name].notebook not in ALONE:
            alike.setdefault(frozenset(before), []).append(name)
    of = {name: name for name in graph}
    for names in alike.values():
        parts = [names[i : i + PAGES] for i in range(0, len(names), PAGES)]
        of |= {name: " ".join(part) for part in parts for name in part}
    joined = {of[name]: {of[other] for other in before} for name, before in graph.items()}
    return {of[name]: stages[name]._replace(name=of[name]) for name in graph}, joined


def _hand_out(
    stages: Mapping[str, Stage], graph: Mapping[str, set[str]], submit: Submit, may: May, say: Say
) -> list[str]:
    """Runs the stages of a graph; returns those that failed, after which none was started."""
    sorter, way = TopologicalSorter(graph), heights(graph)
    sorter.prepare()
    ready, failed, ended = list[str](), list[str](), 0
    running: dict[Future[Done], Stage] = {}
    while True:
        ready = sorted([*ready, *sorter.get_ready()], key=lambda name: -way[name])
        for name in ready.copy():
            if not failed and may(stages[name], [stage.notebook for stage in running.values()]):
                ready.remove(name)
                running[submit(stages[name])] = stages[name]
        if not running:
            break
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            stage = running.pop(future)
            lost = future.exception()  # of Dask: its workers died, again and again
            done = Done(1, type(lost).__name__, 0) if lost else Done(*future.result())
            del future  # or Dask would make again what is lost with its worker later
            ended += 1
            if done.where:
                say(f"[{ended}/{len(graph)}] {stage.name}: {done.seconds:.0f} s on {done.where}")
            if done.status:
                failed.append(stage.name)
                rest = ", ".join(other.name for other in running.values())
                say(f"{stage.name} failed{f'; {rest} ends first' if rest else ''}")
            else:
                sorter.done(stage.name)
    return failed


def may_start(jobs: int, gpus_apart: bool, stage: Stage, beside: list[str]) -> bool:
    """Whether a stage may start beside those of the notebooks that run: so many jobs at once, who
    measures seconds alone, and if GPUs are to be apart one at a time of those that use them."""
    alone = bool(beside) and (stage.notebook in TIMED or not set(beside).isdisjoint(TIMED))
    gpu = gpus_apart and stage.notebook in USES_GPU and not set(beside).isdisjoint(USES_GPU)
    return len(beside) < jobs and not alone and not gpu


def heights(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """How many stages wait for each in a row, itself included."""
    found = dict.fromkeys(graph, 1)
    for name in reversed([*TopologicalSorter(graph).static_order()]):
        for other in graph[name]:
            found[other] = max(found[other], found[name] + 1)
    return found


_DVC = [sys.executable, "-m", "dvc"]


def _start(stage: str, **options: Any) -> "subprocess.Popen[bytes]":
    """DVC on a stage, in a process group of its own: a signal reaches all that it starts, once."""
    command = [*_DVC, "--wait-for-lock", "repro", "--single-item", *stage.split(" ")]
    return subprocess.Popen(command, start_new_session=True, **options)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Ends a stage as Ctrl-C would, so that DVC releases its locks."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGINT)


# --- this machine


def cores() -> int:
    return len(os.sched_getaffinity(0))


def _share(jobs: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(max(1, cores() // jobs))}


def wanted_jobs() -> int:
    """How many stages run at once: what the variable AUGKD_JOBS says, else as many as cores, but
    four at most, and no more than there are two gigabytes of memory for. UserError if it says no
    number from 1 on."""
    if text := os.environ.get(JOBS, ""):
        if not text.isdigit() or not int(text):
            raise UserError(f"{JOBS}={text}: give a number of stages from 1 on (make repro JOBS=2)")
        return int(text)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**31
    return max(1, min(cores(), 4, memory))


def here(root: Path, jobs: int) -> int:
    """Runs what is stale on this machine, ``jobs`` stages at once; Ctrl-C ends them all."""
    children: list[subprocess.Popen[bytes]] = []
    stopped = threading.Event()

    def work(stage: Stage) -> Done:
        if stopped.is_set():
            return Done(130)
        own = {} if stage.notebook in TIMED else _share(jobs)
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        child = _start(stage.name, cwd=root, env=os.environ | own, **pipe)
        children.append(child)
        assert child.stdout
        show(child.stdout)
        return Done(child.wait())

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        for child in children:
            _stop(child)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ThreadPoolExecutor(jobs) as pool:
            may = partial(may_start, jobs, bool(shutil.which("nvidia-smi")))
            return run(root, lambda stage: pool.submit(work, stage), may, tqdm.write)
    except UserError:
        if stopped.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(stream: IO[bytes]) -> None:
    """Passes on what a stage prints, line by line; a line that it goes on rewriting, a bar, stays
    below all others until it is whole, or appears now and then where there is no terminal."""
    bar, said = None, time.monotonic()
    # newline="": a bar's carriage returns end lines, and stay what they are
    for line in TextIOWrapper(stream, "utf-8", "replace", newline=""):
        text = line.rstrip("\r\n")
        if not line.endswith("\r"):
            tqdm.write(text)
        elif sys.stderr.isatty():
            if bar is None:  # which, without a length, is neither true nor false
                bar = tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True)
            bar.set_description_str(text)
        elif text and time.monotonic() - said > PAUSE:
            tqdm.write(text)
            said = time.monotonic()
    if bar is not None:
        bar.close()


# --- Dask's workers


def spread(
    root: Path, workers: int = 0, scheduler: str | None = None, processes: int = 1, say: Say = print
) -> None:
    """Runs what is stale on a cluster: of so many workers on this machine, or of those of a Dask
    scheduler (its address), which see ``root`` at the same path. A training takes ``processes``
    GPUs; a local worker is given so many.

    Raises UserError: no such scheduler, no worker with GPUs enough, or stages that failed.
    """
    with _client(workers, scheduler, processes) as client:
        executors: dict[int, Executor] = {
            gpus: client.get_executor(resources={"GPU": gpus} if gpus else None, pure=False)
            for gpus in (0, 1, processes)
        }

        def submit(stage: Stage) -> "Future[Done]":
            gpus = processes if stage.notebook in TRAINS else int(stage.notebook in USES_GPU)
            log = root / LOGS / f"{stage.name}.txt"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("")
            own = (_share(workers), processes) if workers else ({}, 0)
            return executors[gpus].submit(run_stage, stage.name, root, *own)

        run(root, submit, partial(may_start, sys.maxsize, False), say, str(root / LOGS))


def run_stage(stage: str, root: Path, environ: dict[str, str], gpus: int = 0) -> Done:
    """What a worker does: runs a stage in a process of its own, which ends with the worker. It has
    ``environ`` beside the worker's variables, and so many GPUs; 0: those that the worker sees."""
    from distributed import get_worker

    name, begun = str(get_worker().name), time.monotonic()
    environ = os.environ | environ | (_devices(int(name), gpus) if gpus else {})
    with (root / LOGS / f"{stage}.txt").open("a+b") as log:
        log.seek(0)
        again = log.read().count(_HEAD.encode())
        log.write(f"{_HEAD}{name}\n".encode())
        log.flush()
        command = [sys.executable, "-m", "augkd.study.pipeline.side_by_side", stage]
        # standard input is closed when this process ends, in whatever way
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
        status = subprocess.Popen(command, cwd=root, env=environ, **pipes).wait()
    lost = f", after {again} lost worker{'s' * (again > 1)}" if again else ""
    return Done(status, f"worker {name}{lost}", time.monotonic() - begun)


def _devices(worker: int, gpus: int) -> dict[str, str]:
    """The GPUs of the local worker of this number, where there are any."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    mine = [devices[(worker * gpus + i) % len(devices)] for i in range(gpus) if devices]
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)} if torch.cuda.device_count() else {}


@contextmanager
def _client(workers: int, scheduler: str | None, gpus: int) -> Iterator[Any]:
    """A cluster of this machine, or another's; with a worker that has as many GPUs."""
    from distributed import Client, LocalCluster

    if bool(workers) == bool(scheduler):
        raise UserError("give either --workers N, for this machine, or --scheduler ADDRESS")
    local: dict[str, Any] = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0}
    local |= {"dashboard_address": None, "resources": {"GPU": gpus}}
    with LocalCluster(**local) if workers else nullcontext(scheduler) as place:
        try:
            client = Client(place, timeout=20)
        except (OSError, ValueError) as error:
            raise UserError(f"--scheduler {scheduler}: no answer ({error}): start it") from None
        with client:
            client.wait_for_workers(1)
            found = client.scheduler_info(n_workers=-1)["workers"].values()
            if max(worker.get("resources", {}).get("GPU", 0) for worker in found) < gpus:
                start = f"start them with 'dask worker ADDRESS --nthreads 1 --resources GPU={gpus}'"
                raise UserError(f"no worker offers GPU={gpus}, which trainings ask for: {start}")
            yield client


def guard(stage: str) -> int:
    """Runs a stage by DVC; if standard input ends first, so does all that was started."""
    with FileLock(LOGS / f"{stage}.lock"):  # what a lost worker had started may still be ending
        # where a shell has put workers into the background, what they start would ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child = _start(stage, stdin=subprocess.DEVNULL)

        def end() -> None:
            os.read(0, 1)
            _stop(child)

        threading.Thread(target=end, daemon=True).start()
        return child.wait()


def main(arguments: list[str]) -> int:
    if arguments:
        return guard(arguments[0])
    try:
        jobs = wanted_jobs()
        with FileLock("build/repro.lock", timeout=0):
            if jobs == 1 and stale(Path()):
                return subprocess.call([*_DVC, "repro"])
            if not here(Path(), jobs):
                print("All stages are up to date.")
    except (UserError, OSError) as error:
        if isinstance(error, Timeout):
            error = UserError("another make repro runs in this clone: wait for it to end")
        print(f"augkd: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("augkd: stopped; run this again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
