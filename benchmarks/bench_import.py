"""``import augkd`` beside ``import torch``: each is a process of its own.

Names of the package are imported when they are asked for: the last asks for all.
"""

import subprocess
import sys
import time

IMPORTS = {
    "torch": "import torch",
    "augkd": "import augkd",
    "all names": "from augkd import *",
}


def measure(rounds: int = 5) -> dict[str, dict[str, list[float]]]:
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            seconds[name].append(time.perf_counter() - began)
    return {"import": seconds}
