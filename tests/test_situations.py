"""docs/situations.md, line by line: each command is run, and says what stands beside it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
