"""Times opening a store of prepared images: ``python benchmarks/bench_store.py``.

The stores are sparse files (they take no room on the disk) with an index as large as DF2K's.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore

HEIGHT, WIDTH = 1356, 2040  # of a DIV2K image


def sparse(folder: Path, images: int) -> int:
    """A store of black images at all scales; returns its bytes."""
    rows, offset = [], 0
    for image in range(images):
        for scale in (1, 2, 3, 4):
            height, width = HEIGHT // scale, WIDTH // scale
            rows.append(("DF2K", f"{image:06}", scale, offset, height, width, ""))
            offset += 3 * height * width
    columns = ["dataset", "image", "scale", "offset", "height", "width", "lr_source"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "index.csv", index=False)
    with (folder / "pixels.u8").open("wb") as file:
        file.truncate(offset)
    return offset


def main() -> None:
    torch.set_num_threads(1)
    for images in (170, 800, 3450):
        with tempfile.TemporaryDirectory() as name:
            size = sparse(Path(name), images)
            began = time.perf_counter()
            store = ImageStore(Path(name))
            opened = time.perf_counter() - began
            began = time.perf_counter()
            sampler = PatchSampler(store, scale=4, patch=48, batch=16, seed=1)
            made = time.perf_counter() - began
            sampler.draw(0)
            began = time.perf_counter()
            for step in range(1, 6):
                sampler.draw(step)
            drawn = (time.perf_counter() - began) / 5
        print(
            f"{images:>5} images, {size / 2**30:5.1f} GiB: opened in {opened:.3f} s, "
            f"sampler made in {made:.3f} s, a batch of 16 in {1000 * drawn:.0f} ms"
        )
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory used at most: {used / (2**30 if sys.platform == 'darwin' else 2**20):.2f} GiB")


if __name__ == "__main__":
    main()
