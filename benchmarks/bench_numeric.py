"""Times the numeric core on one thread: ``python benchmarks/bench_numeric.py``.

Best of several runs, in milliseconds.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch

from augkd.augment import Invertible
from augkd.degrade import Degradation, bicubic
from augkd.metrics import niqe, psnr_y, ssim_y
from augkd.models.quantize import DAQ
from augkd.study.report.stats import paired_gain


def report(name: str, run: Callable[[], object], repeats: int = 5) -> None:
    run()  # fills caches
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    print(f"{name:<52}{1000 * best:>9.2f} ms")


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 1600, 2000), dtype=torch.uint8, generator=generator)
    other = image.roll(1, -1)
    patches = torch.rand(16, 3, 48, 48, generator=generator)
    for scale in (2, 3, 4):
        small = bicubic(image, scale)
        large, many = "a 2000 x 1600 uint8 image", "(16, 3, 48, 48)"
        report(f"bicubic 1/{scale} of {large}", partial(bicubic, image, scale))
        report(f"bicubic x{scale} to {large}", partial(bicubic, small, scale, up=True))
        report(f"bicubic 1/{scale} of {many}", partial(bicubic, patches, scale), 20)
        report(f"bicubic x{scale} of {many}", partial(bicubic, patches, scale, up=True), 20)
    report("PSNR of a 2000 x 1600 image", lambda: psnr_y(image, other, 4))
    report("SSIM of a 2000 x 1600 image", lambda: ssim_y(image, other, 4))
    report("NIQE of a 2000 x 1600 image", lambda: niqe(image), 2)
    transform = Invertible(torch.rand(16, 4, generator=generator) < 0.3)
    report("Invertible.apply of (16, 3, 48, 48)", lambda: transform.apply(patches), 20)
    features = torch.randn(16, 64, 48, 48, generator=generator)
    report("DAQ of activations (16, 64, 48, 48)", lambda: DAQ(2).activations(features, False))
    draws = [Degradation.draw(4, np.random.default_rng(i)) for i in range(16)]
    crop = image[0, :, :192, :192]
    report("BSRGAN of 16 HR patches of 192 x 192", lambda: [d.apply(crop) for d in draws], 2)
    keys = {"dataset": ["a"], "image": range(100), "seed": range(3), "method": ["new", "old"]}
    table = pd.MultiIndex.from_product([*keys.values()], names=[*keys]).to_frame(index=False)
    table = table.assign(metric="psnr_y", value=np.random.default_rng(0).normal(size=len(table)))
    report(
        "an interval over 100 images and 3 seeds",
        lambda: paired_gain(table, "new", "old", "psnr_y"),
    )


if __name__ == "__main__":
    main()
