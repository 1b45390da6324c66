"""Loads the libraries once for a whole `make repro`, where each stage is a process of its own.

    python -m augkd.study.pipeline.warm dvc repro

A stage and its kernel take four seconds to import PyTorch, pandas, Matplotlib and Jupyter, more
than most of them compute. Here a server imports them, runs the command, and forks itself for
each process that the command's stages ask for. What is forked is as fresh as what is started:
of this package the server holds this module alone, so that edits count at once, and torch's
threads and CUDA have not been touched. Without the server everything runs as ever, only slower.

Kernels are forked through augkd/study/pipeline/kernel.py.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

ADDRESS = "AUGKD_WARM"  # variable that names the server's socket
# not matplotlib_inline's backend, which enters itself at the shell that first imports it
LIBRARIES: tuple[str, ...] = (
    *("torch", "torch._dynamo", "torch.utils.checkpoint", "safetensors.torch", "scipy.stats"),
    *("matplotlib", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg"),
    *("papermill", "ipykernel.ipkernel", "ipykernel.kernelapp", "ipykernel.zmqshell"),
    *(
        "pydantic.type_adapter",
        "tqdm",
        "PIL.Image",
        "jinja2",
        "nbconvert.exporters.html",
        "debugpy",
    ),
    *("pandas", "pandas.io.formats.style", "matplotlib.pyplot"),
)


def fork(module: str, arguments: list[str]) -> "Forked":
    """Asks the server for a process that calls ``module.main(arguments)``.

    It has this process' standard streams, folder and environment, and ends when this one does.

    Raises:
        OSError: the server is not there.
    """
    link = socket.socket(socket.AF_UNIX)
    link.connect(os.environ[ADDRESS])
    request: dict[str, Any] = {"module": module, "arguments": arguments, "cwd": os.getcwd()}
    request["environ"] = dict(os.environ)
    message = json.dumps(request).encode()
    socket.send_fds(link, [len(message).to_bytes(8, "big")], [0, 1, 2])
    link.sendall(message)
    return Forked(link, int.from_bytes(_receive(link, 8), "big"))


class Forked:
    """What the server forked, as far as jupyter_client needs a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, link: socket.socket, pid: int) -> None:
        self.link, self.pid = link, pid
        self.returncode: int | None = None

    def wait(self) -> int:
        """Its exit status; 1 if it was killed."""
        if self.returncode is None:
            self.link.setblocking(True)
            self.returncode = int((_receive(self.link, 1) or b"\1")[0])
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None:
            self.link.setblocking(False)
            try:
                self.returncode = int((self.link.recv(1) or b"\1")[0])
            except BlockingIOError:
                return None
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Runs a command beside a server, and returns its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder) / "socket")
        environ = os.environ | {ADDRESS: address, "JUPYTER_DEFAULT_PROVISIONER_NAME": "augkd-fork"}
        keep_memory(environ)
        command = [sys.executable, "-m", "augkd.study.pipeline.warm", "--serve", address]
        server = subprocess.Popen(command, env=environ)
        # Ctrl-C is for the command, which has heard it too and may have something to put in order
        signal.signal(signal.SIGINT, lambda *_: None)
        try:
            if arguments[0] == "dvc":
                arguments = [sys.executable, "-m", "augkd.study.pipeline.swift", *arguments[1:]]
            return subprocess.run(arguments, env=environ).returncode
        finally:
            server.kill()


def keep_memory(environ: MutableMapping[str, str]) -> None:
    """Keeps glibc from giving every large tensor's memory back to the system after each step, only
    to fault it in again. It reads these when a process starts."""
    for variable in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        environ.setdefault(variable, str(2**30))


def serve(address: str) -> None:
    """Forks whatever is asked for at the socket; ends only by being killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the forked ones decide
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as kernels have it
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # see augkd.study.pipeline.stage
    for name in LIBRARIES:
        importlib.import_module(name)
    while True:
        link, _ = listener.accept()
        length, streams, _, _ = socket.recv_fds(link, 8, 3)
        request = json.loads(_receive(link, int.from_bytes(length, "big")))
        child = os.fork()
        if not child:
            listener.close()
            _become(link, streams, request)
        link.sendall(child.to_bytes(8, "big"))
        link.close()
        for stream in streams:
            os.close(stream)


def _become(link: socket.socket, streams: list[int], request: dict[str, Any]) -> None:
    """Turns a fresh fork into the process that was asked for; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environ"])
        # torch read the server's when it was loaded
        if threads := os.environ.get("OMP_NUM_THREADS"):
            sys.modules["torch"].set_num_threads(int(threads))
        sys.path[0] = request["cwd"]
        sys.argv = [request["module"], *request["arguments"]]
        threading.Thread(target=_end_with, args=(link,), daemon=True).start()
        run: Callable[[list[str]], int] = importlib.import_module(request["module"]).main
        status = run(request["arguments"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        link.sendall(bytes([status & 255]))
        os._exit(status & 255)


def _end_with(link: socket.socket) -> None:
    """Ends this process once the one that asked for it is gone."""
    if not link.recv(1):
        os.kill(os.getpid(), signal.SIGTERM)


def _receive(link: socket.socket, count: int) -> bytes:
    """Exactly so many bytes, or none once the other side is gone."""
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            return b""
        data += more
    return data


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    if len(sys.argv) < 2:
        sys.exit("usage: python -m augkd.study.pipeline.warm COMMAND...")
    sys.exit(main(sys.argv[1:]))
