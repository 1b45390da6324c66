"""Which image of one folder belongs to which of another, and whether their sizes fit."""

from pathlib import Path

from torch import Tensor

from augkd.data.images import SUFFIXES, list_images
from augkd.errors import UserError


def by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by name without suffix.

    Raises:
        UserError: no images, or two that differ in their suffix alone.
    """
    found: dict[str, Path] = {}
    for file in list_images(folder):
        if file.stem in found:
            raise UserError(
                f"{file}: has the same name as {found[file.stem].name}: keep one of the two"
            )
        found[file.stem] = file
    return found


def match(hr: Path, other: Path, scale: int) -> list[tuple[Path, Path]]:
    """Pairs each HR image with the other folder's image of its name: baby.png or babyx2.png.

    The other folder may hold more images than that.

    Raises:
        UserError: an HR image has no partner.
    """
    partners = by_stem(other)
    pairs = []
    for stem, file in by_stem(hr).items():
        partner = partners.get(stem) or partners.get(f"{stem}x{scale}")
        if partner is None:
            raise UserError(
                f"{other}: has no image for {file.name}: expected {stem} or {stem}x{scale} there"
            )
        pairs.append((file, partner))
    return pairs


def crop_to(hr: Tensor, size: tuple[int, int], scale: int, hr_file: Path, other: Path) -> Tensor:
    """Cuts HR (3, H, W) at the bottom and right to ``size``, by less than ``scale`` pixels.

    Args:
        size: height and width of the super-resolved image, or ``scale`` times those of LR.
        other: the file that this size comes from.

    Raises:
        UserError: the sizes are of another scale or another image.
    """
    cut = [have - want for have, want in zip(hr.shape[1:], size, strict=True)]
    if not all(0 <= side < scale for side in cut):
        raise UserError(
            f"{other}: at x{scale} gives {size[1]} x {size[0]} pixels, but {hr_file.name} has "
            f"{hr.shape[2]} x {hr.shape[1]}: give the scale and the folder that belong to it"
        )
    return hr[:, : size[0], : size[1]]


def destinations(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Where the enlarged form of each input goes: (image, PNG to write), folders listed.

    ``output`` is a folder, or a .png file where there is one image that is named itself.

    Raises:
        UserError: an input is missing, two would be written to one file, or one to an input.
    """
    sources: list[Path] = []
    for given in inputs:
        if not given.exists():
            raise UserError(f"{given}: no such image or folder")
        sources += list_images(given) if given.is_dir() else [given]
    single = len(inputs) == 1 and not inputs[0].is_dir()
    if single and output.suffix.lower() == ".png" and not output.is_dir():
        jobs = [(sources[0], output)]
    elif output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file, expected a folder, or a .png file for one image")
    elif output.suffix.lower() in SUFFIXES and not output.is_dir():
        raise UserError(
            f"{output}: expected a folder, or a .png file for one image: PNG is written"
        )
    else:
        jobs = [(source, output / f"{source.stem}.png") for source in sources]
    taken = {source.resolve(): source for source in sources}
    written: dict[Path, Path] = {}
    for source, target in jobs:
        place = target.resolve()
        if place in taken:
            raise UserError(f"{target}: would overwrite an input: choose another --output")
        if place in written:
            raise UserError(
                f"{target}: {written[place]} and {source} would both be written there: "
                "enlarge them into separate folders"
            )
        written[place] = source
    return jobs
