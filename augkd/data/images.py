"""Images on disk: read as (3, H, W) uint8 RGB, written as 8-bit PNG."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from augkd.errors import UserError, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_ENDINGS = " or ".join((", ".join(SUFFIXES[:-1]), SUFFIXES[-1]))
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # no other decoder sees the bytes
_PLAIN = ("RGB", "L", "1", "P")  # "PA", "LA" and "RGBA" go by their transparency
_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # what Pillow opens at most
_DEEP = re.compile(r"(?<!BGR);16")  # "RGB;16B" and kin; BGR;16 is a bitmap of 5 + 6 + 5 bits
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # sound ones may be over 1 MB


def list_images(folder: Path) -> list[Path]:
    """The images of a folder by name, without those of its subfolders and hidden files.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give the folder that holds the images")
    named = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.name[0] != ".")
    files = sorted(file for file in named if file.is_file())
    if not files:
        raise UserError(f"{folder}: holds no images: expected files that end in {_ENDINGS}")
    return files


def read_image(path: Path) -> Tensor:
    """Reads (3, H, W) uint8 RGB: grey and palette images become RGB, opaque alpha is dropped.

    A photograph that says in its EXIF how it was held is turned upright. Nothing is guessed:
    what has more than 8 bits, more than one frame or see-through pixels is refused, because each
    way to flatten it gives other scores.

    Raises:
        UserError: the file is missing, does not decode, or is not such an image.
    """
    try:
        with _opened(path) as image:
            return _to_tensor(image)
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise UserError(f"{path}: {_reason(error)}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images and odd metadata
        with Image.open(path, formats=_FORMATS) as image:
            yield image


def read_colour(path: Path) -> dict[str, Any]:
    """What ``write_image`` takes to say the same of colours. UserError: a profile not for RGB."""
    with _opened(path) as image:
        info, kept = image.info, PngImagePlugin.PngInfo()
    profile = info.get("icc_profile") or b""
    if (space := profile[16:20]) in (b"GRAY", b"CMYK", b"Lab ", b"XYZ "):
        raise UserError(f"{path}: has a {space.decode()} profile, not RGB: convert it to sRGB")
    for chunk, key in ((b"gAMA", "gamma"), (b"cHRM", "chromaticity")):
        if key in info:
            kept.add(chunk, (np.atleast_1d(info[key]) * 1e5).round().astype(">u4").tobytes())
    if "srgb" in info:
        kept.add(b"sRGB", bytes([info["srgb"]]))
    return {"icc_profile": profile, "pnginfo": kept}


def _to_tensor(image: Image.Image) -> Tensor:
    # A phone's MPO is a JPEG with pictures behind it for other purposes: the first is the picture.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UserError("has several frames, expected one: save the frame you mean as PNG")
    # Pillow drops the low byte of 16-bit colour silently; only its decoder's raw mode tells.
    raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", []))
    if image.mode[0] in "IF" or _DEEP.search(raw_modes):
        raise UserError("has more than 8 bits a channel: save it as 8-bit PNG")
    see_through = image.has_transparency_data
    if image.mode not in _PLAIN and not see_through:
        raise UserError(f"is {image.mode}, expected RGB or grey: save it as RGB PNG")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if see_through:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise UserError("has see-through pixels, expected an opaque image: flatten it to RGB")
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    known = {
        UserError: said,
        FileNotFoundError: "no such image",
        IsADirectoryError: "is a folder, expected an image",
        PermissionError: "may not be read: change its permissions",
        UnidentifiedImageError: f"not a readable image: give a file that is {_ENDINGS} inside too",
        Image.DecompressionBombError: f"larger than {_PIXELS} pixels: cut it into pieces",
        MemoryError: "does not fit into memory: cut it into pieces",
    }
    otherwise = f"does not decode ({said}): replace the file by an undamaged copy"
    return known.get(type(error), otherwise)


def write_image(path: Path, image: Tensor, **colour: Any) -> None:
    """Writes (3, H, W), uint8 or float in [0, 1] (clamped and rounded), as PNG: all or nothing.

    ``colour`` is of ``read_colour``. Raises UserError: the place cannot be written to.
    """
    if image.dtype != torch.uint8:
        image = (image.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG", **colour)
