"""Small archives of the layouts that the paper's datasets are published in, and their registry.

``make_archives(folder)`` writes them all into a folder, which then is a mirror. ``registry`` is the
real registry with their sizes and hashes and two or three images a dataset; ``write_registry``
makes a file of it, for a rehearsal of the whole study.
"""

import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from augkd.degrade.bicubic import bicubic
from augkd.study.acquire.registry import Dataset, Registry, Source, load_registry

NAMES = {
    "DIV2K": ["0001", "0002", "0800"],
    "DIV2K-valid": ["0801", "0900"],
    "Flickr2K": ["000001", "002650"],
    "Set5": ["baby", "woman"],
    "Set14": ["baboon", "zebra"],
    "B100": ["101085", "86000"],
    "Urban100": ["img_001", "img_100"],
    "RealSR": ["Canon_001", "Nikon_050"],
    "DRealSR": ["Canon_10", "sony_161"],
    "OST300": ["OST_001", "OST_300"],
}
JUNK = {  # what lies beside the images in the real ones, or in copies of them
    "benchmark.tar": ["benchmark/Set5/HR/baby.txt", "benchmark/Set5/LR_bicubic/X8/babyx8.png"],
    "Test_x4.zip": ["__MACOSX/Test_x4/test_HR/._Canon_10_x4.png"],
    "OST300_img.zip": ["__MACOSX/OutdoorSceneTest300/._OST_001.png"],
    "RealSR(V3).tar.gz": ["RealSR(V3)/Canon/Train/4/Canon_001_HR.png", "RealSR(V3)/readme.txt"],
}


def photograph(name: str, side: int = 144) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, another for each name; smooth enough to be enlarged."""
    phase = int(hashlib.sha256(name.encode()).hexdigest()[:4], 16) / 65536
    y, x = np.mgrid[0:side, 0 : side + 12] / side
    waves = [np.sin(9 * (k + 1) * (x * phase + y * (1 - phase)) + 7 * k) for k in range(3)]
    return np.round(127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def shrink(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    image = bicubic(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), scale)
    shrunk: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return shrunk


def contents(dataset: str, source: Source, side: int = 144) -> dict[str, bytes]:
    """Member names to bytes, of all the images of a dataset."""
    members = {}
    for name in NAMES[dataset]:
        pixels = photograph(name, side)
        camera = name.partition("_")[0]
        templates = {**({1: source.hr} if source.hr else {}), **source.lr}
        for scale, template in templates.items():
            path = template.replace("*", camera).replace("{name}", name)
            members[path] = png(pixels if scale == 1 else shrink(pixels, scale))
    return members


def file_of(member: str, files: tuple[str, ...]) -> str:
    """Which of a source's files holds a member: DIV2K's LR images lie in a file for each scale."""
    scale = re.search(r"/(X[234])/", member)
    fitting = [f for f in files if bool(scale) and scale is not None and scale[1] in f]
    return (fitting or [f for f in files if not re.search(r"_X[234]\.", f)])[0]


def make_archives(folder: Path, side: int = 144) -> None:
    """Every dataset's archives under their real names; ``side``: of the HR images, pixels."""
    members: dict[str, dict[str, bytes]] = {}
    for name, dataset in load_registry().datasets.items():
        for source in dataset.sources:
            for member, data in contents(name, source, side).items():
                members.setdefault(file_of(member, source.files), {})[member] = data
    folder.mkdir(parents=True, exist_ok=True)
    for file, inside in members.items():
        junk = dict.fromkeys(JUNK.get(file, []), b"not an image")
        write_archive(folder / file, {**inside, **junk})


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def registry(folder: Path, base: str | None = None) -> Registry:
    """The real registry with the sizes and hashes of the files in ``folder``.

    With ``base`` (of a server), that is each file's only address; without, the real ones stay.
    """
    real = load_registry()
    files = {}
    for name, file in real.files.items():
        changes: dict[str, object] = {"urls": (f"{base}/{name}",) if base else file.urls}
        if (made := folder / name).is_file():
            data = made.read_bytes()
            changes["bytes"] = len(data) if file.bytes else None
            changes["md5"] = hashlib.md5(data).hexdigest() if file.md5 else None
            changes["sha256"] = hashlib.sha256(data).hexdigest() if file.sha256 else None
        files[name] = file.model_copy(update=changes)

    def count(name: str, dataset: Dataset) -> int:
        return sum(len(NAMES[part]) for part in dataset.parts or (name,))

    datasets = {
        name: dataset.model_copy(update={"images": count(name, dataset)})
        for name, dataset in real.datasets.items()
    }
    return real.model_copy(update={"files": files, "datasets": datasets})


def write_registry(path: Path, made: Registry) -> None:
    values = made.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
