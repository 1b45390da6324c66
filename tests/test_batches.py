"""Stores are mapped, not loaded; batches are what they say, wherever the images are held."""

import io
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from augkd.data.sampler import Batch, PatchSampler, make_batch
from augkd.data.store import Entry, ImageStore, Prepared, write_store
from augkd.degrade.bicubic import bicubic
from augkd.errors import UserError
from tests.study_copy import ROOT
from tests.test_cohort import photographs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder = tmp_path_factory.mktemp("prepared") / "train"
    write_store(folder, [*photographs("DIV2K", 2, 48), *photographs("Flickr2K", 3, 60)])
    return ImageStore(folder)


def sampler(store: ImageStore, **changes: Any) -> PatchSampler:
    return PatchSampler(store, **{"scale": 2, "patch": 12, "batch": 4, "seed": 3} | changes)


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(Batch)]
    pairs += [(one.transform.flags, other.transform.flags)]
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def places(image: Tensor, crop: Tensor) -> int:
    """Where in an image a crop of 12 x 12 pixels is found: at how many places."""
    windows = image.unfold(1, 12, 1).unfold(2, 12, 1)
    return int((windows == crop[:, None, None]).all((0, 3, 4)).sum())


# --- stores ---


@pytest.mark.parametrize(
    "names", [["a", "0007", "NA", "a,b", 'c"d', "x y", "", " é\n", "'#\\"], []], ids=["odd", "none"]
)
def test_an_index_is_what_pandas_writes_and_reads_back(tmp_path: Path, names: list[str]) -> None:
    pixels = torch.arange(3 * 4 * 6).view(3, 4, 6).to(torch.uint8)
    images = [Prepared("set", n, pixels, {2: pixels[:, :2, :3]}, "bicubic") for n in names]
    index = write_store(tmp_path / "s", images)
    expected = pd.DataFrame(index, columns=list(Entry._fields)).to_csv(index=False)
    assert (tmp_path / "s" / "index.csv").read_bytes() == expected.encode()
    store = ImageStore(tmp_path / "s")
    assert store.index == index
    assert store.keys == [("set", name) for name in names]
    assert [entry.lr_source for entry in index] == ["", "bicubic"] * len(names)
    read = pd.read_csv(io.StringIO(expected), dtype={"image": str}, keep_default_na=False)
    assert list(read.itertuples(index=False, name=None)) == index


def test_images_without_hr(tmp_path: Path) -> None:
    lr = torch.arange(3 * 5 * 7).view(3, 5, 7).to(torch.uint8)
    bare = Prepared("OST300", "one", None, {4: lr}, "shipped")
    write_store(tmp_path / "s", [bare, *photographs("RealSR", 1, 48)])
    store = ImageStore(tmp_path / "s")
    assert store.keys == [("OST300", "one"), ("RealSR", "image0")]
    assert not store.has("OST300", "one", 1)
    assert store.has("RealSR", "image0", 1)
    assert torch.equal(store.image("OST300", "one", 4), lr)


LARGE = """
import resource, sys
from pathlib import Path
from augkd.data.store import ImageStore
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1])
limit = 1024 * used + (64 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
store = ImageStore(Path(sys.argv[1]))
last = store.image("large", "last", 1)
print(len(store.pixels), int(last.sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_a_store_larger_than_memory_opens(tmp_path: Path) -> None:
    """Under a limit of 64 MB of memory that may be written to, 2 GB are opened and used."""
    side, offset = 16, 2 << 30
    size = offset + 3 * side * side
    (tmp_path / "index.csv").write_text(
        f"dataset,image,scale,offset,height,width,lr_source\nlarge,last,1,{offset},{side},{side},\n"
    )
    with (tmp_path / "pixels.u8").open("wb") as file:
        file.seek(offset)
        file.write(b"\1" * 3 * side * side)
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [str(size), str(3 * side * side)], done.stderr


# --- a cohort's batches ---


def test_a_batch_is_a_function_of_seed_and_step(store: ImageStore) -> None:
    first, again = sampler(store), sampler(store)
    drawn = [first.draw(step) for step in range(4)]
    for step in (3, 0, 2, 1):  # in any order, by another sampler
        assert same(again.draw(step), drawn[step])
    assert not same(drawn[0], drawn[1])
    assert not same(sampler(store, seed=6).draw(0), drawn[0])
    assert not same(sampler(store, seed=1).draw(3), drawn[1])
    assert not same(first.draw(0, 1), drawn[0])  # a student's seed has its own batches
    assert same(first.draw(0, 1), again.draw(0, 1))


@pytest.mark.parametrize("crops", [1, 3])
def test_pairs_are_pairs_and_crops_are_crops(store: ImageStore, crops: int) -> None:
    """LR is the degraded HR, inside the patch; zooming keeps the shapes that the batch states."""
    batch = sampler(store, crops=crops).draw(0)
    assert batch.lr.shape == (4, 3, 12, 12)
    assert (batch.hr.shape, batch.zoom_out.shape) == ((4, 3, 24, 24), (4, 3, 6, 6))
    assert batch.zoom_in.shape == (4 * crops, 3, 12, 12)
    for hr, lr in zip(batch.hr, batch.lr, strict=True):
        made = bicubic((hr * 255).round().to(torch.uint8), 2).float() / 255
        # rounded to 8 bits between the axes, whose order the transposition changed
        difference = (made - lr)[:, 2:-2, 2:-2].abs() * 255
        assert difference.max() < 2.01
    assert all(places(batch.hr[i % 4], crop) >= 1 for i, crop in enumerate(batch.zoom_in))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ("DF2K",)}, "no training images at x2 of DF2K: correct the budget"),
        ({"patch": 13}, "patch 13 is not divisible by the scale 2"),
        ({"crops": 5}, r"augment\.crops 5 is more than the 4 cells"),
        ({"patch": 36}, r"image0: its x2 LR image \(30 x 24\) is smaller than a patch"),
    ],
)
def test_samplers_refuse(store: ImageStore, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sampler(store, **changes)


# --- batches of one's own ---


def pair(scale: int = 2, patch: int = 6, n: int = 2) -> tuple[Tensor, Tensor]:
    hr = torch.rand(n, 3, scale * patch, scale * patch)
    return bicubic(hr, scale), hr


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("crops", [1, 2])
def test_a_batch_of_ones_own(scale: int, crops: int) -> None:
    lr, hr = pair(scale, 12)
    chosen: dict[str, Any] = {"crops": crops, "probability": 0.6}
    made: Any = make_batch(lr, hr, scale, np.random.default_rng(4), **chosen)
    assert torch.equal(made.lr, lr)
    assert torch.equal(made.hr, hr)
    assert torch.equal(made.zoom_out, bicubic(lr, scale))
    assert torch.equal(made.transform.flags, made.uniform < 0.6)
    assert made.zoom_in.shape == made.zoom_cell.shape == (2 * crops, 3, 12, 12)
    assert all(places(hr[i % 2], crop) == 1 for i, crop in enumerate(made.zoom_in))
    generator = np.random.default_rng(4)
    assert same(make_batch(lr, hr, scale, generator, **chosen), made)
    assert not same(make_batch(lr, hr, scale, generator, **chosen), made)
    moved = made.each(lambda tensor: tensor.to("meta"))
    tensors = [v for v in (*vars(moved).values(), moved.transform.flags) if isinstance(v, Tensor)]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 7
    mirrored = make_batch(lr, hr, scale, generator, edges="symmetric")
    assert torch.equal(mirrored.zoom_out, bicubic(lr, scale, "symmetric"))


def test_a_batch_of_ones_own_is_a_cohorts(store: ImageStore) -> None:
    """From the state in which the sampler has drawn its patches, the rest is the same."""
    drawn = sampler(store).draw(7, 2)
    generator, places = np.random.default_rng([3, 2, 7]), sampler(store)._places[0]
    image = generator.choice(5, 4, p=sampler(store)._share)
    generator.integers(0, places[image, 1:] - 11)
    generator.random((4, 3))
    assert same(make_batch(drawn.lr, drawn.hr, 2, generator), drawn)


LR, HR = pair()


@pytest.mark.parametrize(
    ("lr", "hr", "changes", "message"),
    [
        (LR[0], HR, {}, r"expected lr \(N, 3, p, p\), not \(3, 6, 6\)"),
        (LR[:, :1], HR, {}, r"expected lr \(N, 3, p, p\), not \(2, 1, 6, 6\)"),
        (LR[..., :4], HR, {}, r"expected lr \(N, 3, p, p\), not \(2, 3, 6, 4\)"),
        (LR[:0], HR[:0], {}, r"expected lr \(N, 3, p, p\), not \(0, 3, 6, 6\)"),
        (torch.tensor(0.5), HR, {}, r"expected lr \(N, 3, p, p\), not \(\)"),
        (LR, HR, {"scale": 4}, "p = 6 is not divisible by scale 4"),
        (LR, HR, {"scale": 1}, "p = 6 is not divisible by scale 1 .2 or more"),
        (LR, HR, {"scale": 3}, r"expected hr \(2, 3, 18, 18\), not \(2, 3, 12, 12\)"),
        (LR, HR[:1], {}, r"expected hr \(2, 3, 12, 12\), not \(1, 3, 12, 12\)"),
        ((LR * 255).to(torch.uint8), HR, {}, r"lr as floats in \[0, 1\], not torch\.uint8, "),
        (LR, HR * 255, {}, r"hr as floats in \[0, 1\], not .* to 25"),
        (2 * LR - 1, HR, {}, r"lr as floats in .* not torch\.float32, -"),
        (LR * float("nan"), HR, {}, "lr as floats in .* nan to nan"),
        (LR, HR, {"crops": 0}, "expected 1 to 4 crops, not 0"),
        (LR, HR, {"crops": 5}, "expected 1 to 4 crops, not 5"),
        (LR, HR, {"probability": 1.5}, "expected a probability from 0 to 1, not 1.5"),
        (LR, HR, {"edges": "wrap"}, "edges must be one of"),
    ],
)
def test_pairs_that_are_none_are_refused(
    lr: Tensor, hr: Tensor, changes: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"scale": 2, "generator": np.random.default_rng(0)} | changes
    with pytest.raises(ValueError, match=message):
        make_batch(lr, hr, **arguments)
