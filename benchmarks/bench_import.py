"""Times ``import augkd`` beside ``import torch``: ``python benchmarks/bench_import.py``.

Each import is a process of its own, one after the other in turn, so that what else runs meets all
alike. Names of the package are imported when they are asked for: the last line asks for all.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 9
IMPORTS = {
    "torch": "import torch",
    "augkd": "import augkd",
    "all names": "from augkd import *",
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(ROUNDS):
        for name, statement in IMPORTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, median in medians.items():
        print(f"{name:>9}: {median:.2f} s, {median / medians['torch']:.2f} x import torch")


if __name__ == "__main__":
    main()
