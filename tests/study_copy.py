"""Copies of the repository in which pipelines run without touching this one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def tracked_files() -> list[str]:
    """Files that are in git or will be: neither ignored nor deleted."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if name and (ROOT / name).is_file()]


def copy_study(target: Path, budget: str = "smoke") -> Path:
    """A clone as a newcomer has it, but for the chosen budget; no stage has run in it."""
    for name in tracked_files():
        kept = name.endswith((".json", "twice.csv"))  # stages rest on them
        if name == "dvc.lock" or (name.startswith("reports/") and not kept):
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    params = target / "params.yaml"
    text, count = re.subn(r"(?m)^budget: \*\w+", f"budget: *{budget}", params.read_text())
    assert count == 1
    params.write_text(text)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(target)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "copy"], check=True)
    return target


def edit(root: Path, old: str, new: str) -> None:
    """Replaces the first ``old`` in params.yaml, which must be there."""
    text = (root / "params.yaml").read_text()
    assert old in text, old
    (root / "params.yaml").write_text(text.replace(old, new, 1))


def environment(study: Path, code: Path) -> dict[str, str]:
    """For commands in a copy: this interpreter, no files outside it."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DVC_SITE_CACHE_DIR": str(study / ".dvc" / "tmp" / "site"),
    }


def run(
    study: Path, *arguments: str, code: Path | None = None, apart: bool = False
) -> subprocess.CompletedProcess[str]:
    """``python -m ARGUMENTS`` in a copy, with the copy's code or that of another folder; without a
    network, where a user may take one away."""
    off = ["unshare", "--map-root-user", "--net"] if apart and shutil.which("unshare") else []
    allowed = off and subprocess.run([*off, "true"], stderr=subprocess.DEVNULL).returncode == 0
    return subprocess.run(
        [*(off if allowed else []), sys.executable, "-m", *arguments],
        cwd=study,
        env=environment(study, code or study),
        capture_output=True,
        text=True,
    )
