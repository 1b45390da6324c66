"""Images on disk: read as (3, H, W) uint8 RGB, written as 8-bit PNG."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from augkd.errors import UserError, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # no other decoder sees the bytes
_PLAIN = ("RGB", "L", "1", "P")  # "PA", "LA" and "RGBA" go by their transparency
_DEEP = re.compile(r"(?<!BGR);16")  # "RGB;16B" and kin; BGR;16 is a bitmap of 5 + 6 + 5 bits


def list_images(folder: Path) -> list[Path]:
    """The images of a folder by name, without those of its subfolders and hidden files.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give the folder that holds the images")
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder}: holds no images: expected files that end in {suffixes()}")
    return files


def suffixes() -> str:
    return ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]


def read_image(path: Path) -> Tensor:
    """Reads (3, H, W) uint8 RGB: grey and palette images become RGB, opaque alpha is dropped.

    A photograph that says in its EXIF how it was held is turned upright. Nothing is guessed:
    what has more than 8 bits, more than one frame or see-through pixels is refused, because each
    way to flatten it gives other scores.

    Raises:
        UserError: the file is missing, does not decode, or is not such an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and odd metadata
            with Image.open(path, formats=_FORMATS) as image:
                return _to_tensor(path, image)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected an image") from None
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: not a readable image: give a file that is {suffixes()} inside as well"
        ) from None
    except PermissionError:
        raise UserError(f"{path}: may not be read: change its permissions") from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path}: larger than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels: cut it into pieces"
        ) from None
    except Exception as error:  # a decoder may raise anything on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: does not decode ({reason}): replace the file by an undamaged copy"
        ) from None


def _to_tensor(path: Path, image: Image.Image) -> Tensor:
    # A phone's MPO is a JPEG with pictures behind it for other purposes: the first is the picture.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UserError(f"{path}: has several frames, expected one: save the frame you mean as PNG")
    # Pillow drops the low byte of 16-bit colour silently; only its decoder's raw mode tells.
    if image.mode[0] in "IF" or _DEEP.search(_raw_modes(image)):
        raise UserError(f"{path}: has more than 8 bits a channel: save it as 8-bit PNG")
    see_through = image.has_transparency_data
    if image.mode not in _PLAIN and not see_through:
        raise UserError(f"{path}: is {image.mode}, expected RGB or grey: save it as RGB PNG")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if see_through:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            raise UserError(
                f"{path}: has see-through pixels, expected an opaque image: flatten it to RGB"
            )
        image = rgba
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _raw_modes(image: Image.Image) -> str:
    tiles: list[Any] = getattr(image, "tile", [])
    return " ".join(str(tile[3]) for tile in tiles)


def write_image(path: Path, image: Tensor) -> None:
    """Writes (3, H, W), uint8 or float in [0, 1] (clamped and rounded), as PNG: all or nothing.

    Raises:
        UserError: the place cannot be written to.
    """
    if image.dtype != torch.uint8:
        image = (image.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")
