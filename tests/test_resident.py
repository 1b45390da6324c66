"""Stores are mapped, not loaded; on a device that has room, the same batches are cut there."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from augkd.data import resident
from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.errors import UserError
from augkd.study.prepare import degrade
from tests.study_copy import ROOT


def image(dataset: str, name: str, side: int) -> Prepared:
    shape = (3, side, side + 12)
    hr = torch.from_numpy(np.random.default_rng(side).integers(0, 256, shape, np.uint8))
    lr = {scale: degrade(hr, scale, "replicate") for scale in (2, 3, 4)}
    return Prepared(dataset, name, hr, lr, "bicubic")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder = tmp_path_factory.mktemp("prepared") / "train"
    sides = {"DIV2K": (48, 72), "Flickr2K": (60, 96)}
    write_store(folder, (image(d, f"{s}", s) for d, both in sides.items() for s in both))
    return ImageStore(folder)


def sampler(store: ImageStore, datasets: tuple[str, ...] | None = None) -> PatchSampler:
    return PatchSampler(store, scale=2, patch=12, batch=4, seed=3, datasets=datasets)


@pytest.mark.parametrize("datasets", [None, ("DIV2K",), ("Flickr2K",)])
def test_packed_images_give_the_same_batches(
    store: ImageStore, datasets: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = sampler(store, datasets)
    assert mapped.pixels.data_ptr() == store.pixels.data_ptr()

    def packed(pixels: Tensor, lr: resident.Places, hr: resident.Places, *_: object) -> object:
        return resident.pack(pixels, lr, hr, torch.device("cpu"))

    monkeypatch.setattr("augkd.data.sampler.place", packed)
    on_device = sampler(store, datasets)
    assert on_device.pixels.data_ptr() != store.pixels.data_ptr()
    share = 4 if datasets is None else 2
    assert len(on_device._lr) == len(on_device._hr) == share
    # LR of other scales, and other datasets, are left behind
    assert len(on_device.pixels) == resident.size(mapped._lr, mapped._hr) < len(store.pixels)
    for step in range(20):
        one, other = mapped.draw(step), on_device.draw(step)
        for field in fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            if isinstance(a, Tensor):
                assert torch.equal(a, b), field.name


def test_where_images_are_placed(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sampler(store)
    need = resident.size(plain._lr, plain._hr)
    moved: list[torch.device] = []

    def pack(
        pixels: Tensor, lr: resident.Places, hr: resident.Places, device: torch.device
    ) -> resident.Pixels:
        moved.append(device)
        return resident.Pixels(pixels, lr, hr)

    monkeypatch.setattr(resident, "pack", pack)
    gpu = torch.device("cuda")

    def placed(device: torch.device, where: str, free: int) -> bool:
        monkeypatch.setattr(resident, "_free", lambda _: free)
        moved.clear()
        resident.place(plain.pixels, plain._lr, plain._hr, device, where)
        return bool(moved)

    assert placed(gpu, "auto", 2 * need)
    assert not placed(gpu, "auto", 2 * need - 1)
    assert not placed(gpu, "never", 100 * need)
    assert not placed(torch.device("cpu"), "auto", 100 * need)


def test_datasets_that_are_not_there(store: ImageStore) -> None:
    with pytest.raises(UserError, match="no training images at x2 of DF2K: correct the budget"):
        sampler(store, ("DF2K",))


def test_images_without_hr(tmp_path: Path) -> None:
    lr = torch.arange(3 * 5 * 7).view(3, 5, 7).to(torch.uint8)
    bare = Prepared("OST300", "one", None, {4: lr}, "shipped")
    write_store(tmp_path / "s", [bare, image("RealSR", "two", 48)])
    store = ImageStore(tmp_path / "s")
    assert store.keys == [("OST300", "one"), ("RealSR", "two")]
    assert not store.has("OST300", "one", 1)
    assert store.has("RealSR", "two", 1)
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
        file.truncate(size)
        file.seek(offset)
        file.write(b"\1" * 3 * side * side)
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(size), str(3 * side * side)], done.stderr
