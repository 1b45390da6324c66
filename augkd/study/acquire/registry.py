"""The datasets and checkpoints of the paper: what ``registry.yaml`` says of them, validated.

A file is what is fetched and verified. A dataset or a checkpoint names one or more sources, each a
set of files that holds it; for teachers also the scores that the published weights should show.
"""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from augkd.study.paper import external
from augkd.study.params import Positive, Scale, Section, lookup, read_params, valid

FILE = Path(__file__).with_name("registry.yaml")
Template = Annotated[str, Field(pattern=r"^[^/{}][^{}]*\{name\}[^{}]*\.png$")]


class RemoteFile(Section):
    """A file that is fetched whole. ``bytes`` and hashes are absent where nobody published them."""

    urls: tuple[str, ...] = ()
    by_hand: str | None = None  # the page to get it from, where there is no stable address
    bytes: Positive | None = None
    about_bytes: Positive | None = None  # shown, never checked
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    sha256_begins: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None = None
    hash_from: str | None = None  # who published it


class Source(Section):
    """Files that hold a dataset, and templates of its images' paths inside; or a checkpoint."""

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    hr: Template | None = None  # absent where the images have no HR beside them
    lr: dict[Annotated[int, Field(ge=2, le=4)], Template] = Field({})
    member: str | None = None  # the path of the checkpoint, if the file is an archive


class Listed(Section):
    licence: str
    citation: str
    page: str
    note: str | None = None
    sources: tuple[Source, ...] = ()


class Dataset(Listed):
    """Images: of its own sources, or those of other datasets (``parts``) together."""

    role: Literal["train", "validation", "test"]
    about: str
    images: Positive
    parts: tuple[str, ...] = ()


class Checkpoint(Listed):
    """A public network. ``expected`` names the source in ``paper/external.csv`` of its scores."""

    role: Literal["teacher", "real-world teacher", "feature network"]
    network: str
    scale: Scale | None = None
    expected: str | None = None
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]


class Registry(Section):
    files: dict[str, RemoteFile]
    datasets: dict[str, Dataset]
    checkpoints: dict[str, Checkpoint]

    @model_validator(mode="after")
    def _references(self) -> Self:
        entries: dict[str, Listed] = {**self.datasets, **self.checkpoints}
        for name, entry in entries.items():
            for source in entry.sources:
                if unknown := set(source.files) - self.files.keys():
                    raise ValueError(f"{name}: its file {min(unknown)} is not under files")
        return self

    def dataset(self, name: str) -> Dataset:
        return lookup(self.datasets, name, "dataset", FILE.name)

    def checkpoint(self, name: str) -> Checkpoint:
        return lookup(self.checkpoints, name, "checkpoint", FILE.name)


@lru_cache
def load_registry(path: Path = FILE) -> Registry:
    """Reads the registry, or another file of its form. UserError: it is none, or has a mistake."""
    return valid(Registry, read_params(path)[1], file=path)


def expected_scores(checkpoint: Checkpoint) -> pd.DataFrame:
    """A teacher's published scores in a single pass: dataset, metric, value (dB), decimals."""
    rows = external().query(
        "network == @checkpoint.network and scale == @checkpoint.scale and method == 'teacher'"
        " and evaluation == 'single_pass' and source == @checkpoint.expected"
    )
    return rows[["dataset", "metric", "value", "decimals"]].reset_index(drop=True)
