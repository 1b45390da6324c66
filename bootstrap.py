"""Makes a virtual environment with pip, also where Debian's python3-venv is not installed.

    python3 bootstrap.py FOLDER

Debian's own python3 can make an environment but not put pip in it: then a pinned pip is fetched,
checked by its SHA-256, and installs itself. Runs on the standard library alone.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

PIP = "https://files.pythonhosted.org/packages/07/25/ee8c38ae72d66b844ce8eb9711ba905dba21ca1a8a0c960057c41cd23337/pip-26.3-py3-none-any.whl"
SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


def works(folder: Path) -> bool:
    """Whether its pip puts things there, and not, being a copy or moved, where it was made."""
    try:
        told = subprocess.run([folder / "bin" / "pip", "-V"], capture_output=True, text=True).stdout
    except OSError:
        return False
    place = Path(told.partition(" from ")[2].rpartition(" (")[0])
    return folder.resolve() in place.resolve().parents


def main(folder: Path) -> int:
    python = folder / "bin" / "python"
    if works(folder):
        return 0  # it is brought up to date by pip, not made anew
    # not sys.executable: that may lie in the folder itself
    base = getattr(sys, "_base_executable", sys.executable)
    shutil.rmtree(folder, ignore_errors=True)
    made = subprocess.run([base, "-m", "venv", folder], capture_output=True)
    if made.returncode == 0:
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    try:
        with urllib.request.urlopen(PIP, timeout=60) as answer:
            wheel = answer.read()
    except (urllib.error.URLError, OSError) as error:
        print(f"{PIP}: {error}: install python3-venv, or connect to PyPI", file=sys.stderr)
        return 1
    if hashlib.sha256(wheel).hexdigest() != SHA256:
        print(f"{PIP}: its SHA-256 is not the expected one: try again", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / PIP.rsplit("/", 1)[1]
        path.write_bytes(wheel)
        # a wheel is a zip that Python can import from
        command = [python, "-m", "pip", "install", "-q", "--no-index", path]
        environment = os.environ | {"PYTHONPATH": str(path)}
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 bootstrap.py FOLDER")
    try:
        sys.exit(main(Path(sys.argv[1])))
    except (OSError, subprocess.CalledProcessError) as problem:  # its own words stand above
        sys.exit(f"{sys.argv[1]}: the environment was not made ({problem}): mend that, try again")
