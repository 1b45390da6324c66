"""All that a budget needs of the registry, fetched and looked through: the stage ``fetch``."""

from pathlib import Path

from augkd.config import Study
from augkd.data.fetch import Fetcher
from augkd.data.find import find_images
from augkd.data.registry import Registry, load_registry
from augkd.errors import UserError


def fetch_study(study: Study) -> list[Path]:
    """Has the budget's datasets and checkpoints in the folder that its ``origin`` names.

    Each dataset is opened too: incomplete ones stop here, before anything is trained, and what
    lies in compressed archives is unpacked, so that later stages change nothing in the folder.

    Returns:
        The files, each once.

    Raises:
        UserError: the budget fetches nothing, or something cannot be had or is not complete.
    """
    datasets, data = study.budget.images.datasets, study.params.data
    if datasets is None:
        raise UserError(
            f"budget '{study.budget.name}' fetches nothing: its images are those of the packages"
        )
    folder, registry = study.root / study.budget.origin, load_registry(study.root / data.registry)
    mirror = study.root / data.mirror if data.mirror else None
    fetcher = Fetcher(folder, mirror, registry=registry)
    checkpoints = [*study.budget.checkpoints.values(), *_feature_networks(study, registry)]
    files = [fetcher.checkpoint(name) for name in dict.fromkeys(checkpoints)]
    for name in datasets.names():
        files += fetcher.dataset(name)
        with find_images(name, folder, registry) as pairs:
            print(f"  {name}: {len(pairs)} images", flush=True)
    return list(dict.fromkeys(files))


def _feature_networks(study: Study, registry: Registry) -> list[str]:
    """CSD's VGG19, where the budget gives the method a file of it."""
    given = [options.get("vgg") for options in study.budget.methods.values()]
    wanted = {Path(vgg).name for vgg in given if vgg}
    return [
        name
        for name, checkpoint in registry.checkpoints.items()
        if checkpoint.role == "feature network"
        and any(source.file in wanted for source in checkpoint.sources)
    ]
