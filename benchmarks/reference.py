"""How students are trained elsewhere, after BasicSR's practice: what ours is timed against.

One student a run; float32, eager, contiguous memory; a loader of one worker process that decodes
PNG sub-images (by Pillow, which takes about a sixth longer than BasicSR's OpenCV); Adam and the
average of weights parameter by parameter; the teacher beside the student where the method has one.
Nothing of augkd is used, so that this does not become faster when that does. Losses are those of
augkd.distill, written plainly (tests/test_benchmarks.py).
"""

import io
import random
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, mse_loss, normalize, smooth_l1_loss
from torch.utils.data import DataLoader, Dataset, RandomSampler

SCALE, SIDE, STEP = 2, 480, 240  # of sub-images: width and distance, in HR pixels


class Block(nn.Module):
    def __init__(self, channels: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.relu(self.conv1(x)))
        return x + out * self.res_scale


class EDSR(nn.Module):
    """Answers (N, 3, 2h, 2w) to (N, 3, h, w) in [0, 1], and the features at four depths."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        self.conv_first = nn.Conv2d(3, channels, 3, 1, 1)
        self.body = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(channels, channels, 3, 1, 1)
        wide = nn.Conv2d(channels, 4 * channels, 3, 1, 1)
        self.upsample = nn.Sequential(wide, nn.PixelShuffle(SCALE))
        self.conv_last = nn.Conv2d(channels, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = y = self.conv_first((x - self.mean) * 255.0)
        kept = [first]
        for i, block in enumerate(self.body):
            y = block(y)
            if i in (len(self.body) // 3, len(self.body) * 2 // 3):
                kept.append(y)
        y = self.conv_after_body(y) + first
        return self.conv_last(self.upsample(y)) / 255.0 + self.mean, [*kept, y]


Method = Callable[[EDSR, EDSR, Tensor, Tensor], Tensor]
"""The loss of a student, its teacher, LR (N, 3, p, p) and HR (N, 3, 2p, 2p)."""


def scratch(student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor) -> Tensor:
    return l1_loss(student(lr)[0], hr)


def kd(student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor) -> Tensor:
    output = student(lr)[0]
    with torch.no_grad():
        answer = teacher(lr)[0]
    return l1_loss(output, hr) + 0.2 * l1_loss(output, answer)


class FitNet(nn.Module):
    """With a 1 x 1 convolution of its own, which learns beside the student."""

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.regressor = nn.Conv2d(width, teacher_width, 1)

    def forward(self, student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor) -> Tensor:
        output, own = student(lr)
        with torch.no_grad():
            _, theirs = teacher(lr)
        hint = mse_loss(self.regressor(own[2]), theirs[2]) / theirs[2].pow(2).mean()
        loss: Tensor = l1_loss(output, hr) + 100 / 255 * hint
        return loss


def at(student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor) -> Tensor:
    output, own = student(lr)
    with torch.no_grad():
        _, theirs = teacher(lr)
    loss = l1_loss(output, hr)
    for s, t in zip(own[1:], theirs[1:], strict=True):
        difference = _attention(s) - _attention(t)
        loss = loss + 1000 / 255 * difference.pow(2).mean()
    return loss


def _attention(features: Tensor) -> Tensor:
    return normalize(features.pow(2).mean(1).flatten(1))


def rkd(student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor) -> Tensor:
    output, own = student(lr)
    with torch.no_grad():
        _, theirs = teacher(lr)
    s, t = own[3].mean((2, 3)), theirs[3].mean((2, 3))
    loss: Tensor = l1_loss(output, hr) + 25 / 255 * smooth_l1_loss(_distances(s), _distances(t))
    return loss + 50 / 255 * smooth_l1_loss(_angles(s), _angles(t))


def _distances(embedding: Tensor) -> Tensor:
    square = embedding.pow(2).sum(1)
    squares = square[:, None] + square[None, :] - 2 * embedding @ embedding.t()
    distance: Tensor = squares.clamp(min=1e-12).sqrt() * (1 - torch.eye(len(embedding)))
    relative: Tensor = distance / distance[distance > 0].mean()
    return relative


def _angles(embedding: Tensor) -> Tensor:
    direction = normalize(embedding[None] - embedding[:, None], dim=2)
    cosines: Tensor = direction @ direction.transpose(1, 2)
    return cosines


def fakd(student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor) -> Tensor:
    output, own = student(lr)
    with torch.no_grad():
        answer, theirs = teacher(lr)
    loss = 0.5 * l1_loss(output, hr) + 0.5 * l1_loss(output, answer)
    for s, t in zip(own[1:], theirs[1:], strict=True):
        loss = loss + 10 / 255 * l1_loss(_affinity(s), _affinity(t))
    return loss


def _affinity(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    unit: Tensor = flat / (flat.norm(dim=1, keepdim=True) + 1e-8)
    return unit.transpose(1, 2) @ unit


def augkd(student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor) -> Tensor:
    return augkd_loss(student, teacher, lr, hr, *draw_auxiliary(lr, hr))


def draw_auxiliary(lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LR-sized crops of ``hr``, ``lr`` zoomed out, and which operations of F each crop gets."""
    patch = lr.shape[-1]
    crops = []
    for image in hr:
        top, left = (random.randint(0, side - patch) for side in image.shape[-2:])
        crops.append(image[:, top : top + patch, left : left + patch])
    small = interpolate(lr, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
    return torch.stack(crops), small, torch.rand(len(lr), 4) < 0.3


def augkd_loss(
    student: EDSR, teacher: EDSR, lr: Tensor, hr: Tensor, crop: Tensor, small: Tensor, flags: Tensor
) -> Tensor:
    with torch.no_grad():
        answer, answer_crop, answer_small = (teacher(x)[0] for x in (lr, crop, small))
    output = student(lr)[0]
    turned = torch.stack([turn(*pair) for pair in zip(crop, flags, strict=True)])
    back = [turn_back(*pair) for pair in zip(student(turned)[0], flags, strict=True)]
    output_small = student(small)[0]
    loss = l1_loss(output, hr) + 0.2 * l1_loss(output, answer)
    loss = loss + 0.2 * l1_loss(torch.stack(back), answer_crop)
    return loss + 0.2 * l1_loss(output_small, answer_small) + l1_loss(output_small, lr)


def turn(image: Tensor, flags: Tensor) -> Tensor:
    negative, rows, columns, transposed = flags.tolist()
    image = 1 - image if negative else image
    image = image.flip(-2) if rows else image
    image = image.flip(-1) if columns else image
    return image.transpose(-2, -1) if transposed else image


def turn_back(image: Tensor, flags: Tensor) -> Tensor:
    negative, rows, columns, transposed = flags.tolist()
    image = image.transpose(-2, -1) if transposed else image
    image = image.flip(-1) if columns else image
    image = image.flip(-2) if rows else image
    return 1 - image if negative else image


METHODS: dict[str, Method | type[FitNet]] = {
    "scratch": scratch,
    "kd": kd,
    "fitnet": FitNet,
    "at": at,
    "rkd": rkd,
    "fakd": fakd,
    "augkd": augkd,
}


class Run:
    """One training: the student, its average, its optimiser, and the teacher beside it."""

    def __init__(self, name: str, student: EDSR, teacher: EDSR) -> None:
        self.student, self.teacher, self.average = student, teacher.eval(), deepcopy(student)
        trained, method = list(student.parameters()), METHODS[name]
        if isinstance(method, type):
            method = method(student.conv_first.out_channels, teacher.conv_first.out_channels)
            trained += method.parameters()
        self.method: Method = method
        self.optimiser = torch.optim.Adam(trained, 1e-3, (0.9, 0.99))

    def step(self, lr: Tensor, hr: Tensor) -> float:
        self.optimiser.zero_grad()
        loss = self.method(self.student, self.teacher, lr, hr)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        own, averaged = (dict(n.named_parameters()) for n in (self.student, self.average))
        for name, parameter in averaged.items():
            parameter.data.mul_(0.999).add_(own[name].data, alpha=0.001)
        return loss.item()


def write_sub_images(pairs: Iterable[tuple[Tensor, Tensor]], folder: Path) -> int:
    """Cuts uint8 LR and HR images into overlapping PNG, as data sets are prepared; how many."""
    count = 0
    for kind in ("lr", "hr"):
        (folder / kind).mkdir(parents=True)
    for lr, hr in pairs:
        tops, lefts = (range(0, side - SIDE + 1, STEP) for side in hr.shape[-2:])
        for top, left in ((top, left) for top in tops for left in lefts):
            for kind, image, by in (("lr", lr, SCALE), ("hr", hr, 1)):
                y, x, side = top // by, left // by, SIDE // by
                part = image[:, y : y + side, x : x + side].permute(1, 2, 0).contiguous()
                file = folder / kind / f"{count:05}.png"
                Image.fromarray(part.numpy()).save(file, compress_level=3)
            count += 1
    return count


class SubImages(Dataset[tuple[Tensor, Tensor]]):
    """A random patch pair of a sub-image, flipped and turned at random."""

    def __init__(self, folder: Path, patch: int) -> None:
        self.files = [(file, folder / "hr" / file.name) for file in (folder / "lr").iterdir()]
        self.patch = patch

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        lr, hr = (_decode(file.read_bytes()) for file in self.files[index])
        top, left = (random.randint(0, side - self.patch) for side in lr.shape[:2])
        flips = [random.random() < 0.5 for _ in range(3)]
        patches = []
        for image, by in ((lr, 1), (hr, SCALE)):
            y, x, side = top * by, left * by, self.patch * by
            part = image[y : y + side, x : x + side]
            part = part[:, ::-1] if flips[0] else part
            part = part[::-1] if flips[1] else part
            part = part.transpose(1, 0, 2) if flips[2] else part
            patches.append(torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1))))
        return patches[0], patches[1]


def _decode(data: bytes) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(data))).astype(np.float32) / 255.0


def batches(folder: Path, patch: int, batch: int) -> Iterator[list[Tensor]]:
    """LR and HR without end, by one worker process."""
    images = SubImages(folder, patch)
    order = RandomSampler(images, replacement=True, num_samples=10**9)
    return iter(DataLoader(images, batch, sampler=order, num_workers=1, drop_last=True))
