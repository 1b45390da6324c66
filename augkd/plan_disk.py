"""The room that a budget takes on the disk: what is fetched, prepared, and written by trainings."""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from augkd.config import Study
from augkd.data.photographs import Photograph, photographs
from augkd.data.prepare import SCALES
from augkd.data.registry import Registry, RemoteFile, load_registry

LARGE = 2040 * 1356  # pixels of an image of DIV2K and Flickr2K, nearly all of which are 2K wide
SMALL = 1024 * 768  # of a test image whose size is not known before it is fetched
WITH_LR = 1 + sum(1 / scale**2 for scale in SCALES)


@dataclass(frozen=True)
class Disk:
    """Bytes.

    Attributes:
        fetched: archives and checkpoints.
        unknown: names of files among them whose size nobody has published; not in ``fetched``.
        prepared: the stores of pixels.
        measured: whether those are there, so that it is their size; else it is an estimate.
    """

    fetched: int
    unknown: tuple[str, ...]
    prepared: int
    measured: bool


def disk(study: Study) -> Disk:
    """Raises UserError where the registry, or a listed photograph, is not as it should be."""
    datasets = study.budget.images.datasets
    stores = [study.folder("prepare") / name for name in ("train", "test", "benchmarks")]
    there = [store / "pixels.u8" for store in stores]
    measured = all(file.is_file() for file in there)
    files: list[RemoteFile] = []
    if datasets or study.budget.checkpoints:
        registry = load_registry(study.root / study.params.data.registry)
        files = _files(study, registry)
    if measured:
        prepared = sum(file.stat().st_size for file in there)
    elif datasets:
        registered = [registry.dataset(name) for name in datasets.names()]
        pixels = sum(d.images * (SMALL if d.role == "test" else LARGE) for d in registered)
        prepared = round(3 * WITH_LR * pixels)
    else:
        images = study.budget.images
        listed = [*photographs("train", images.train), *photographs("test", images.test)]
        prepared = round(3 * WITH_LR * sum(_pixels(listed)))
    sizes = {file.name: file.bytes or file.about_bytes for file in files}
    unknown = tuple(name for name, size in sizes.items() if not size)
    return Disk(sum(size or 0 for size in sizes.values()), unknown, prepared, measured)


def _files(study: Study, registry: Registry) -> list[RemoteFile]:
    """Of the budget's datasets, teachers and VGG19: of several sources, one of known size."""
    budget = study.budget
    names = budget.images.datasets.names() if budget.images.datasets else ()
    whole = [registry.dataset(name) for name in names]
    parts = [registry.dataset(part) for dataset in whole for part in dataset.parts]
    choices = [[source.files for source in d.sources] for d in (*whole, *parts) if d.sources]
    chosen = [registry.checkpoint(name) for name in budget.checkpoints.values()]
    choices += [[source.files for source in checkpoint.sources] for checkpoint in chosen]
    read = [options["vgg"] for options in budget.methods.values() if options.get("vgg")]
    choices += [[(name,)] for path in read if (name := str(path).split("/")[-1]) in registry.files]
    found: dict[str, RemoteFile] = {}
    for sources in choices:
        known = [s for s in sources if all(_known(registry.file(name)) for name in s)]
        found |= {name: registry.file(name) for name in (known or sources)[0]}
    return list(found.values())


def _known(file: RemoteFile) -> bool:
    return bool(file.bytes or file.about_bytes)


def _pixels(listed: Iterable[Photograph]) -> Iterable[float]:
    for photograph in listed:
        with Image.open(photograph.locate()) as image:
            yield image.width * image.height / photograph.shrink**2
