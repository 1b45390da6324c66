"""Stages of the pipeline side by side, where DVC runs them one after the other.

Every step of DVC's own (what has changed, hashes, dvc.lock) stays DVC's, and is taken by one
thread at a time. Only the commands of stages that do not wait for one another overlap. They share
the cores out evenly. A stage that measures seconds runs alone, with all cores; on a machine with a
GPU, one at a time uses it.

The variable AUGKD_JOBS says how many stages run at once (`make repro JOBS=1`: one). Unless it is
set: as many as cores, but four at most, and no more than there are two gigabytes of memory for.
"""

import codecs
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import IO, Any

import dvc.stage.run as dvc_run
from dvc.repo import reproduce as dvc_reproduce
from dvc.stage.exceptions import StageCmdFailedError
from tqdm import tqdm

from augkd.errors import UserError
from augkd.study.pipeline.stage import TIMED, USES_GPU, notebook_of

JOBS = "AUGKD_JOBS"
PAUSE = 10.0  # seconds between two lines of a bar, where the output is not a terminal


def cores() -> int:
    return len(os.sched_getaffinity(0))


def wanted_jobs() -> int:
    """How many stages run at once.

    Raises:
        UserError: AUGKD_JOBS is not a number from 1 on.
    """
    text = os.environ.get(JOBS, "")
    if text:
        if not text.isdigit() or not int(text):
            raise UserError(f"{JOBS}={text}: give a number of stages from 1 on (make repro JOBS=2)")
        return int(text)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**31
    return max(1, min(cores(), 4, memory))


def heights(stages: Sequence[Any], graph: Any) -> dict[Any, int]:
    """How many stages wait for each in a row, itself included; ``stages`` has what is first first.

    Args:
        graph: DVC's, from a stage to what it rests on.
    """
    found = dict.fromkeys(stages, 1)
    for stage in reversed(stages):
        for upstream in graph.successors(stage):
            if upstream in found:
                found[upstream] = max(found[upstream], found[stage] + 1)
    return found


class Abreast:
    """One run of the pipeline.

    Attributes:
        turn: the lock of whoever is in DVC's code; the repository's own lock goes with it.
    """

    def __init__(self, repo: Any, jobs: int, one: Callable[..., Any]) -> None:
        self.repo, self.jobs, self.one = repo, jobs, one
        self.turn = threading.Lock()
        self.stopped = False
        self.one_gpu = bool(shutil.which("nvidia-smi"))

    def reproduce(self, stages: Sequence[Any], graph: Any, **options: Any) -> list[Any]:
        """What DVC's ``_reproduce`` does; the repository is locked before and after."""
        first = heights(stages, graph)
        waiting = sorted(stages, key=lambda stage: -first[stage])  # stable: else DVC's order
        running: dict[Future[Any], Any] = {}
        result, failed = [], None
        self.repo.lock.unlock()
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                while True:
                    while not (failed or self.stopped) and (
                        stage := self.next(waiting, list(running.values()), graph)
                    ):
                        waiting.remove(stage)
                        upstream = list(graph.successors(stage))
                        future = pool.submit(self.work, stage, upstream=upstream, **options)
                        running[future] = stage
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        stage = running.pop(future)
                        if error := future.exception():
                            failed = failed or (stage, error)
                            names = ", ".join(s.addressing for s in running.values())
                            if names and not self.stopped:
                                tqdm.write(f"{stage.addressing} failed; {names} ends first")
                        elif future.result():
                            result.append(stage)
        finally:
            self.repo.lock.lock()
        if self.stopped:
            raise KeyboardInterrupt
        if failed:
            dvc_reproduce._raise_error(failed[1], failed[0])
        return result

    def next(self, waiting: list[Any], running: list[Any], graph: Any) -> Any:
        """The first stage that may start beside those that run, or None."""
        if len(running) == self.jobs or any(notebook_of(s.cmd) in TIMED for s in running):
            return None
        gpu = self.one_gpu and any(notebook_of(s.cmd) in USES_GPU for s in running)
        open_ = set(waiting) | set(running)
        for stage in waiting:
            notebook = notebook_of(stage.cmd)
            if open_.isdisjoint(graph.successors(stage)) and not (
                (notebook in TIMED and running) or (notebook in USES_GPU and gpu)
            ):
                return stage
        return None

    def work(self, stage: Any, **options: Any) -> Any:
        """A stage, in a thread of its own."""
        if notebook_of(stage.cmd) not in TIMED:
            share = str(max(1, cores() // self.jobs))
            options["run_env"] = (options.get("run_env") or {}) | {"OMP_NUM_THREADS": share}
        with self.turn:
            self.repo.lock.lock()
            try:
                return self.one(stage, **options)
            finally:
                if self.repo.lock.is_locked:
                    self.repo.lock.unlock()

    def run(self, executable: str | None, cmd: str, **options: Any) -> None:
        """In place of ``dvc.stage.run._run``: here others have their turn."""
        if self.stopped:
            raise StageCmdFailedError(cmd, 128 + signal.SIGINT)
        self.turn.release()
        try:
            with subprocess.Popen(
                dvc_run._make_cmd(executable, cmd),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **options,
            ) as process:
                assert process.stdout
                show(process.stdout)
        finally:
            self.turn.acquire()
        if process.returncode:
            raise StageCmdFailedError(cmd, process.returncode)

    def stop(self, *_: Any) -> None:
        """On Ctrl-C, which what runs has heard too."""
        self.stopped = True


def show(stream: IO[bytes]) -> None:
    """Passes on what a stage prints, line by line; a line that it goes on rewriting, a bar, stays
    below all others until it is whole, or appears now and then where there is no terminal."""
    bar = None
    said, text = time.monotonic(), ""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        while chunk := os.read(stream.fileno(), 2**16):
            *lines, text = (text + decoder.decode(chunk)).split("\n")
            for line in lines:
                tqdm.write(line.rstrip("\r").rpartition("\r")[2])
            if "\r" not in text:
                continue
            now, ended = text.rstrip("\r").rpartition("\r")[2], text.endswith("\r")
            text = f"\r{now}\r" if ended else f"\r{now}"
            if sys.stderr.isatty():
                if bar is None:  # which, without a length, is neither true nor false
                    bar = tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True)
                bar.set_description_str(now)
            elif now and time.monotonic() - said > PAUSE:
                tqdm.write(now)
                said = time.monotonic()
        if text.strip():
            tqdm.write(text.rpartition("\r")[2])
    finally:
        if bar is not None:
            bar.close()


def reproduce(
    stages: Sequence[Any],
    graph: Any = None,
    force_downstream: bool = False,
    on_error: str = "fail",
    force: bool = False,
    repro_fn: Callable[..., Any] = dvc_reproduce._reproduce_stage,
    **options: Any,
) -> list[Any]:
    """In place of ``dvc.repo.reproduce._reproduce``, which runs what this one does not know."""
    jobs = wanted_jobs()
    others = force_downstream or on_error != "fail" or options.get("dry")
    if jobs < 2 or not stages or graph is None or others or options.get("interactive"):
        done: list[Any] = _one_by_one(
            stages, graph, force_downstream, on_error, force, repro_fn, **options
        )
        return done
    run = Abreast(stages[0].repo, jobs, repro_fn)
    handler = signal.signal(signal.SIGINT, run.stop)
    plain, dvc_run._run = dvc_run._run, run.run
    try:
        return run.reproduce(stages, graph, force=force, **options)
    finally:
        dvc_run._run = plain
        signal.signal(signal.SIGINT, handler)


_one_by_one = dvc_reproduce._reproduce
