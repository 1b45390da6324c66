"""Is this machine ready? Each check is a line: what was found, or what is missing and its mend."""

import os
import shutil
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import distribution, version
from pathlib import Path
from tempfile import gettempdir
from urllib.parse import urlsplit
from urllib.request import getproxies

import augkd
from augkd.errors import UserError, one_line

CHECKS = ("python", "torch", "code", "device", "disk", "photographs", "benchmarks", "dvc", "git")
FREE_GB = 5  # the environment and the default budget's outputs
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
AGAIN = "run make repro, which makes the environment again (or pip install 'augkd[study]')"


def examine(say: Callable[[str], None]) -> bool:
    """Says a line a check: ok, MISSING, or - for what one can do without. True if all is there."""
    missing, root = [], None
    with suppress(UserError, ImportError):  # outside a clone the machine alone is looked at
        from augkd.study.params import find_root

        root = find_root()
    for name in (*CHECKS, "network"):
        try:
            text = _find(name, root)
            mark = "-" if text.startswith("no ") else "ok"
        except (ImportError, RuntimeError, UserError, OSError) as error:
            mark, text = "MISSING", one_line(error)
            text += f": {AGAIN}" * isinstance(error, ImportError | RuntimeError)
            missing.append(name)
        say(f"{mark:8}{name:12}{text}")
    say(f"not ready: {', '.join(missing)}" if missing else "ready")
    return not missing


def _find(name: str, root: Path | None) -> str:
    """What there is of it. UserError, or what a library raises: it is missing."""
    if name == "python":
        return sys.version.split()[0]  # an older one cannot install this
    if name == "code":
        return _code(root) if root else "no clone of the study here: run this in one"
    if name == "device":
        import torch

        if not torch.cuda.is_available():
            return f"CPU, {torch.get_num_threads()} threads (no CUDA)"
        torch.ones(8, device="cuda").sum().item()  # fails where driver and library do not agree
        gpu, count = torch.cuda.get_device_properties(0), torch.cuda.device_count()
        return f"{count} CUDA: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB each"
    if name == "disk":
        for folder, needed in ((gettempdir(), 0.1), (str(root or Path.cwd()), FREE_GB)):
            free = shutil.disk_usage(folder).free / 1e9
            if free < needed:
                raise UserError(f"{free:.1f} GB free in {folder}: make room for {needed} GB")
        return f"{free:.0f} GB free"
    if name == "photographs":
        from augkd.study.prepare import photographs

        train, test = photographs("train"), photographs("test")
        for photograph in train + test:
            photograph.locate()  # names the one that is missing or changed
        return f"{len(train)} to train on, {len(test)} to test on"
    if name == "benchmarks":
        here = root or Path.cwd()
        place = Path(os.environ.get("AUGKD_BENCHMARKS") or here / "data" / "benchmarks")
        sets = ", ".join(sorted(hr.parent.name for hr in place.glob("*/HR"))) or "no sets"
        return f"{sets} in {place}" + ": put Set5/HR there if you have it" * (sets == "no sets")
    if name == "git":
        if shutil.which("git") is None:
            raise UserError("not found: install git (apt install git)")
        return "found"
    if name == "network":
        return _network()
    if name == "dvc" and root:
        from augkd.study.pipeline.side_by_side import stale

        stale(root, "sources")
    return version(name)


def _code(root: Path) -> str:
    """Whose code runs here, and by which Python in stages."""
    ours, prefix, made = Path(augkd.__file__).parents[1], Path(sys.prefix), f'{root.as_uri()}"'
    if root in prefix.parents:  # which a copy or a move leaves with the address of the old clone
        made = distribution("augkd").read_text("direct_url.json") or ""
    if not ours.samefile(root) or f'{root.as_uri()}"' not in made:
        raise UserError(f"{ours} or {prefix} is another clone's: {AGAIN}")
    here, python = Path(sys.executable).parent, shutil.which("python")
    if not (python and here.samefile(Path(python).parent)):
        raise UserError(f"'python' is {python or 'not found'}: put {here} first in PATH")
    return str(root)


def _network() -> str:
    """Whether there is what variables name."""
    for key in BUNDLES:
        try:
            if (file := os.environ.get(key)) and not Path(file).is_dir():
                ssl.create_default_context(cafile=file)
        except OSError:
            raise UserError(f"{key}={file}: holds no certificates: mend or unset it") from None
    for kind, proxy in getproxies().items():
        at = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        try:
            if kind in ("http", "https", "all"):
                socket.create_connection((at.hostname or "", at.port or 80), 5).close()
        except (OSError, ValueError):
            raise UserError(f"{kind}_proxy: {at.hostname} does not answer: mend it") from None
    return "what is named of certificates and proxies is there"
