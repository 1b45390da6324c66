"""Images on disk: what is read, what is refused, and that nothing is half written."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from augkd.data.images import list_images, read_colour, read_image, write_image
from augkd.errors import UserError


def photo(height: int = 6, width: int = 9) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def png(depth: int, colour: int, row: bytes, size: tuple[int, int] = (4, 4)) -> bytes:
    """A PNG written by hand, since Pillow writes no 16-bit colour."""

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * size[1])
    written = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        length, check = (struct.pack(">I", n) for n in (len(data), zlib.crc32(kind + data)))
        written += length + kind + data + check
    return written


def test_what_is_written_is_read_and_floats_are_clamped_and_rounded(tmp_path: Path) -> None:
    image = photo()
    write_image(tmp_path / "new" / "a.png", image)
    assert torch.equal(read_image(tmp_path / "new" / "a.png"), image)
    values = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 254.6 / 255, 7.0]).expand(3, 1, 5)
    write_image(tmp_path / "a.png", values)
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_grey_palette_and_opaque_alpha_become_rgb(tmp_path: Path, mode: str) -> None:
    black_and_white = Image.fromarray(np.array([[0, 255, 255], [255, 0, 0]], np.uint8))
    black_and_white.convert("RGB").convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 2, 3)
    assert image.dtype == torch.uint8
    assert image[1].tolist() == [[0, 255, 255], [255, 0, 0]]


def test_a_photograph_held_sideways_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored image's left side is the top: turn clockwise
    stored = np.zeros((2, 5, 3), np.uint8)
    stored[1, 0] = 200
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 5, 2)
    assert image[0, 0].tolist() == [200, 0]


def test_colours_mean_what_they_did(tmp_path: Path) -> None:
    """Profiles of any size and kind of file, and the chunks of a PNG without one."""
    info = PngImagePlugin.PngInfo()
    primaries = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    for chunk in ((b"gAMA", b"\0\0\xb1\x8f"), (b"cHRM", primaries), (b"sRGB", b"\1")):
        info.add(*chunk)
    for name in ("a.png", "b.png", "b.jpg", "b.tif", "b.webp", "grey.png"):
        kind = b"GRAY" if name == "grey.png" else b"RGB "
        said = {"pnginfo": info, "icc_profile": bytes(16) + kind + bytes(2_000_000)}
        del said["icc_profile" if name == "a.png" else "pnginfo"]
        said["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x09"
        Image.new("RGB", (4, 4)).save(tmp_path / name, **said)  # type: ignore[arg-type]
        assert read_image(tmp_path / name).shape == (3, 4, 4)
        if name == "grey.png":
            with pytest.raises(UserError, match="has a GRAY profile, not RGB: convert it to sRGB"):
                read_colour(tmp_path / name)
            continue
        with warnings.catch_warnings(action="error"):  # of an EXIF that is no such thing
            write_image(tmp_path / "out.png", photo(), **read_colour(tmp_path / name))
        with Image.open(tmp_path / "out.png") as out, Image.open(tmp_path / name) as image:
            for key in ("icc_profile", "gamma", "chromaticity", "srgb"):
                assert out.info.get(key) == image.info.get(key)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rgb16.png", png(16, 2, b"\x12\x34" * 12), "more than 8 bits"),
        ("rgba16.png", png(16, 6, b"\xff\xff" * 16), "more than 8 bits"),
        ("grey16.png", png(16, 0, b"\x12\x34" * 4), "more than 8 bits"),
        ("cut.png", png(8, 2, bytes(range(192)), (64, 64))[:-60], "does not decode"),
        ("text.png", b"this is no image", "not a readable image"),
        ("empty.jpg", b"", "not a readable image"),
        ("huge.png", png(8, 0, b"", (60000, 60000)), "cut it into pieces"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path / name)


def test_a_jpeg_cut_anywhere_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(40, 40).permute(1, 2, 0).numpy()).save(buffer, "JPEG")
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[: int(share * buffer.tell())])
        refused(tmp_path / "a.jpg")


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4)).save(tmp_path / "print.jpg")
    Image.new("RGBA", (4, 4), (1, 2, 3, 254)).save(tmp_path / "glass.png")
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    Image.new("RGB", (4, 4)).save(tmp_path / "bomb.png", icc_profile=bytes(100_000_000))
    frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in (1, 2)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    (tmp_path / "folder.png").mkdir()
    said = {"print.jpg": "CMYK", "glass.png": "see-through", "float.tif": "more than 8 bits"}
    said |= {"film.png": "several frames", "absent.png": "no such image", "folder.png": "folder"}
    said["bomb.png"] = "Decompressed data too large"
    for name, problem in said.items():
        assert problem in refused(tmp_path / name)


def test_a_folder_is_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "inner.png").mkdir()
    assert [file.name for file in list_images(tmp_path)] == ["a.jpeg", "b.PNG"]
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path / "inner.png")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = photo()
    write_image(tmp_path / "a.png", old)

    def full(self: Image.Image, file: Path, format: str) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left"):
        write_image(tmp_path / "a.png", photo())
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert torch.equal(read_image(tmp_path / "a.png"), old)
