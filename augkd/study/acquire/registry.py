"""The datasets and checkpoints of the paper: what ``registry.yaml`` says of them, validated.

A file is what is fetched and verified. A dataset names one or more sources, each a set of files
and where the images lie inside them. A checkpoint names its files, and for teachers the scores
that the published weights should show.
"""

from functools import lru_cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pandas as pd
import yaml
from pydantic import Field, ValidationError, model_validator

from augkd.errors import UserError
from augkd.study.params import Positive, Scale, Section

FILE = Path(__file__).with_name("registry.yaml")
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
Template = Annotated[str, Field(pattern=r"^[^/{}][^{}]*\{name\}[^{}]*\.png$")]
T = TypeVar("T")


class RemoteFile(Section):
    """A file that is fetched whole. ``bytes`` and hashes are absent where nobody published them."""

    name: Annotated[str, Field(pattern=r"^[^/\\\s.][^/\\\s]*$")]
    urls: tuple[Url, ...] = ()
    by_hand: str | None = None  # the page to get it from, where there is no stable address
    bytes: Positive | None = None
    about_bytes: Positive | None = None  # shown, never checked
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    sha256_begins: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None = None
    hash_from: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> "RemoteFile":
        if not (self.urls or self.by_hand):
            raise ValueError("give urls, or by_hand: the page to get it from")
        if bool(self.known_hash or self.sha256_begins) != bool(self.hash_from):
            raise ValueError("a hash and hash_from, who published it, go together")
        return self

    @property
    def known_hash(self) -> str | None:
        """The whole hash that it is checked against, if one is published: KIND:DIGITS."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}" if self.md5 else None


class Source(Section):
    """Files that hold one dataset, and templates of the paths of its images inside them."""

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    hr: Template | None = None  # absent where the images have no HR beside them
    lr: dict[Annotated[int, Field(ge=2, le=4)], Template] = Field({})

    @model_validator(mode="after")
    def _some_images(self) -> "Source":
        if not (self.hr or self.lr):
            raise ValueError("give hr, lr or both")
        return self


class Weights(Section):
    """A file that is a checkpoint, or an archive and the member of it that is."""

    file: str
    member: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


class Listed(Section):
    licence: str
    citation: str
    page: Url
    note: str | None = None


class Dataset(Listed):
    """Images: of its own sources, or those of other datasets (``parts``) together."""

    role: Literal["train", "validation", "test"]
    about: str
    images: Positive
    sources: tuple[Source, ...] = ()
    parts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> "Dataset":
        if bool(self.sources) == bool(self.parts):
            raise ValueError("give either sources or parts")
        return self


class Checkpoint(Listed):
    """A public network. ``expected`` names the source in ``paper/external.csv`` of its scores."""

    role: Literal["teacher", "real-world teacher", "feature network"]
    network: str
    scale: Scale | None = None
    expected: str | None = None
    sources: Annotated[tuple[Weights, ...], Field(min_length=1)]


class Registry(Section):
    files: dict[str, RemoteFile]
    datasets: dict[str, Dataset]
    checkpoints: dict[str, Checkpoint]

    @model_validator(mode="after")
    def _references(self) -> "Registry":
        entries: dict[str, Dataset | Checkpoint] = {**self.datasets, **self.checkpoints}
        used = {f: name for name, e in entries.items() for s in e.sources for f in s.files}
        for file in used.keys() - self.files.keys():
            raise ValueError(f"{used[file]}: its file {file} is not under files")
        for file in self.files.keys() - used.keys():
            raise ValueError(f"files.{file}: no dataset or checkpoint uses it")
        for name, dataset in self.datasets.items():
            for part in dataset.parts:
                if part not in self.datasets or self.datasets[part].parts:
                    raise ValueError(f"{name}: its part {part} is not a dataset with sources")
        return self

    def file(self, name: str) -> RemoteFile:
        return _entry(self.files, name, "file")

    def dataset(self, name: str) -> Dataset:
        return _entry(self.datasets, name, "dataset")

    def checkpoint(self, name: str) -> Checkpoint:
        return _entry(self.checkpoints, name, "checkpoint")


def _entry(table: dict[str, T], name: str, what: str) -> T:
    if name not in table:
        raise UserError(f"{what} '{name}' is not in the registry: choose one of {', '.join(table)}")
    return table[name]


@lru_cache
def load_registry(path: Path = FILE) -> Registry:
    """Reads the registry, or another file of its form (a rehearsal on miniature archives).

    Raises:
        UserError: no such file, not YAML, an unknown key, a wrong value or a broken reference.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such registry: give a file like {FILE.name}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not YAML ({reason}): mend it there") from None
    listed = values.get("files") if isinstance(values, dict) else None
    for name, value in listed.items() if isinstance(listed, dict) else ():
        if isinstance(value, dict):
            value["name"] = str(name)
    try:
        return Registry.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        where = "".join(f"{part}." for part in detail["loc"])[:-1] or "the file"
        what = detail["msg"].removeprefix("Value error, ")
        raise UserError(f"{path.name}: {where}: {what}: mend it") from None


def expected_scores(checkpoint: Checkpoint) -> pd.DataFrame:
    """What a teacher's weights should score in a single pass: dataset, metric, value, decimals.

    Values are as printed by ``expected``, the source they are taken from; PSNR-Y in dB. Empty
    where nobody published any.
    """
    table = pd.read_csv(str(resources("augkd.study.paper") / "external.csv"))
    rows = table.query(
        "network == @checkpoint.network and scale == @checkpoint.scale and method == 'teacher'"
        " and evaluation == 'single_pass' and source == @checkpoint.expected"
    )
    return rows[["dataset", "metric", "value", "decimals"]].reset_index(drop=True)
