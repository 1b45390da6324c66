"""docs/situations.md, line by line: each command is run, and says what stands beside it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from stat import S_IMODE

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from augkd.errors import replacing
from augkd.study.params import load_study
from augkd.study.record import Run
from bootstrap import main as make_environment
from bootstrap import works
from tests.study_copy import ROOT, copy_study, environment

ROW = re.compile(r"^\| (.+?) \| `(.+?)` \| `(.+?)` \| (\d+) \|$", re.M)
ROWS = ROW.findall((ROOT / "docs/situations.md").read_text(encoding="utf-8"))
SHELL = 'augkd() { python -m augkd "$@"; }\n'
# root may enter every folder, unless it gives up what lets it
RIGHTS = "-dac_override,-dac_read_search"
PLAIN = ["setpriv", f"--inh-caps={RIGHTS}", f"--bounding-set={RIGHTS}"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = copy_study(tmp_path_factory.mktemp("situations") / "study")
    noise = np.random.default_rng(0).integers(0, 256, (40, 44, 3), np.uint8)
    Image.fromarray(noise).save(study / "photo.png")
    return study


def test_the_table_is_read_whole() -> None:
    lines = (ROOT / "docs/situations.md").read_text(encoding="utf-8").splitlines()
    assert len(ROWS) == sum(line.startswith("| ") for line in lines) - 1 > 20


@pytest.mark.slow
@pytest.mark.parametrize(("command", "says", "code"), [row[1:] for row in ROWS])
def test_it_says(clone: Path, tmp_path: Path, command: str, says: str, code: str) -> None:
    study = shutil.copytree(clone, tmp_path / "study", symlinks=True)
    shell = [*(PLAIN if os.geteuid() == 0 else []), "bash", "-c", SHELL + command]
    own = environment(study, study)
    done = subprocess.run(shell, cwd=study, env=own, capture_output=True, check=False)
    subprocess.run(["chmod", "-R", "u+rwX", study], check=True)  # for pytest, which removes it
    said = " ".join((done.stdout + done.stderr).decode("utf-8", "replace").split())
    wanted = map(re.escape, (" ".join(part.split()) for part in says.split("…")))
    assert re.search(r"\s?.*?\s?".join(wanted), said), said
    assert done.returncode == int(code), said
    assert "Traceback" not in said
    assert not list(study.rglob("*.partial"))


NOTEBOOK = """
import json
from pathlib import Path
from nbformat.v4 import new_code_cell, new_notebook, writes
from augkd.study.pipeline.stage import run_notebook
code = ["%matplotlib inline\\nimport matplotlib.pyplot as plt",
    "from augkd.study.report.style import use_style\\nuse_style()",
    "plt.plot([1, 2], label='a')\\nplt.legend()\\nx = 1", "x\\nx + 1"]
Path("notebooks").mkdir()
made = new_notebook(cells=[*map(new_code_cell, code)])
made.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
Path("notebooks/a.ipynb").write_text(writes(made))
run_notebook("a", "smoke", "")
"""
SETTINGS = {
    "mpl/matplotlibrc": "backend: Agg\nxtick.direction: in\n",
    "profile_default/startup/a.py": "print('here am I')\n",
    "profile_default/ipython_config.py": "get_config().InteractiveShell.show_rewritten_input = 1\n",
}


@pytest.mark.slow
def test_a_readers_settings_reach_no_page(tmp_path: Path) -> None:
    for name, text in SETTINGS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    theirs = dict.fromkeys(("MPLCONFIGDIR", "MATPLOTLIBRC"), str(tmp_path / "mpl"))
    theirs |= {"MPLBACKEND": "Agg", "IPYTHONDIR": str(tmp_path)}
    shown = []
    for name, own in (("clean", {}), ("theirs", theirs)):
        (tmp_path / name).mkdir()
        if own:
            shutil.copy(tmp_path / "mpl/matplotlibrc", tmp_path / name)
        command, env = [sys.executable, "-c", NOTEBOOK], environment(tmp_path / name, ROOT)
        subprocess.run(command, cwd=tmp_path / name, env=env | own, check=True)
        notebook = tmp_path / name / "runs/smoke/pages/a/notebook.ipynb"
        shown.append([cell["outputs"] for cell in json.loads(notebook.read_text())["cells"]])
    assert shown[0] == shown[1]
    assert [len(outputs) for outputs in shown[0]] == [0, 0, 0, 1, 1]  # one is papermill's
    assert "image/svg+xml" in shown[0][3][0]["data"]


def test_the_revision_of_another_users_clone(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    git = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own, for its tests
    assert subprocess.run(git, capture_output=True, check=False).returncode  # it is dubious
    record = Run(load_study("smoke", clone), "teach", "edsr_x2").record
    assert (record["revision"], record["dirty"]) == (head, False)
    params = (clone / "params.yaml").read_text()
    for file, text, dirty in (("dvc.lock", "", False), ("params.yaml", f"{params}\n#\n", True)):
        (clone / file).write_text(text)  # the first is what the pipeline itself writes
        subprocess.run([*git[:3], "-c", "safe.directory=*", "add", "-f", file], check=True)
        assert Run(load_study("smoke", clone), "teach", "edsr_x2").record["dirty"] == dirty
    subprocess.run([*git[:3], "-c", "safe.directory=*", "reset", "-q", "--hard"], check=True)
    assert not capsys.readouterr().err
    # in a repository of something else there is none: not that one's
    shutil.copytree(clone, inner := tmp_path / "inner", ignore=shutil.ignore_patterns(".git"))
    made = "git init -q; git -c safe.directory=* -c user.name=a -c user.email=a@a commit -qm a"
    subprocess.run(f"{made} --allow-empty", shell=True, cwd=tmp_path, check=True)
    record = Run(load_study("smoke", inner), "teach", "edsr_x2").record
    assert (record["revision"], record["dirty"]) == ("", None)
    assert "no revision of the code is recorded: fatal: not a git" in capsys.readouterr().err


FULL = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from augkd.errors import UserError, replacing
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
many = torch.zeros(9999)
writers = [torch.save, lambda a, p: save_file({"a": a}, p), lambda a, p: a.numpy().tofile(p)]
for number, write in enumerate(writers):
    file = Path(str(number))
    file.write_text("earlier")
    try:
        with replacing(file) as partial:
            write(many, partial)
        sys.exit("written")
    except UserError as error:
        assert str(error).startswith(f"{number}: cannot be written ("), error
    assert file.read_text() == "earlier"
assert len([*Path().iterdir()]) == len(writers)
"""


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    """The state to resume from, weights, bytes: whichever library writes them."""
    env = environment(tmp_path, ROOT)
    subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, env=env, check=True)


def test_weights_are_as_readable_as_any_file_of_the_user(tmp_path: Path) -> None:
    """safetensors makes private ones, which others of a lab, or a web server, could not read."""
    new, plain = tmp_path / "new", tmp_path / "plain"
    plain.touch()

    def write() -> int:
        with replacing(new) as partial:
            save_file({"a": torch.zeros(1)}, partial)
        return S_IMODE(new.stat().st_mode)

    assert write() == S_IMODE(plain.stat().st_mode)
    new.chmod(0o640)
    assert write() == 0o640


def test_a_link_leaves_the_other_files_permissions(tmp_path: Path) -> None:
    """Of a mirror that others own and share."""
    (shared := tmp_path / "shared").write_text("")
    shared.chmod(0o444)
    with replacing(tmp_path / "own") as partial:
        os.link(shared, partial)
    assert S_IMODE(shared.stat().st_mode) == 0o444


@pytest.mark.slow
def test_an_environment_that_was_copied_is_made_again(tmp_path: Path) -> None:
    own, copied = tmp_path / "own folder" / ".venv", tmp_path / "copy" / ".venv"
    assert make_environment(own) == 0
    assert works(own)
    shutil.copytree(own, copied, symlinks=True)
    assert not works(copied)  # its pip is that of the other
    assert make_environment(copied) == 0
    assert works(copied)
    own.parent.rename(tmp_path / "moved")
    assert not works(tmp_path / "moved" / ".venv")
