"""The datasets and checkpoints of the paper: what ``registry.yaml`` says of them, validated.

A file is what is fetched and verified (``augkd.study.acquire.fetch``). A dataset names one or more sources,
each a set of files and where the images lie inside them (``augkd.study.acquire.archives``). A checkpoint names
its files, and for teachers the scores that the published weights should show.
"""

from functools import lru_cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from augkd.errors import UserError

FILE = Path(__file__).with_name("registry.yaml")
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Prefix = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\\s.][^/\\\s]*$")]
Template = Annotated[str, Field(pattern=r"^[^/{}][^{}]*\{name\}[^{}]*\.png$")]
Scale = Annotated[int, Field(ge=2, le=4)]
T = TypeVar("T")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RemoteFile(_Entry):
    """A file that is fetched whole. ``bytes`` and hashes are absent where nobody published them."""

    name: FileName
    urls: tuple[Url, ...] = ()
    by_hand: str | None = None  # the page to get it from, where there is no stable address
    bytes: Annotated[int, Field(gt=0)] | None = None
    about_bytes: Annotated[int, Field(gt=0)] | None = None  # shown, never checked
    md5: Md5 | None = None
    sha256: Sha256 | None = None
    sha256_begins: Prefix | None = None
    hash_from: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> "RemoteFile":
        if not (self.urls or self.by_hand):
            raise ValueError("give urls, or by_hand: the page to get it from")
        if bool(self.md5 or self.sha256 or self.sha256_begins) != bool(self.hash_from):
            raise ValueError("a hash and hash_from, who published it, go together")
        return self

    @property
    def published(self) -> bool:
        """Whether a whole hash of it is published."""
        return bool(self.md5 or self.sha256)


class Source(_Entry):
    """Files that hold one dataset, and templates of the paths of its images inside them."""

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    hr: Template | None = None  # absent where the images have no HR beside them
    lr: dict[Scale, Template] = {}

    @model_validator(mode="after")
    def _some_images(self) -> "Source":
        if not (self.hr or self.lr):
            raise ValueError("give hr, lr or both")
        return self


class _Listed(_Entry):
    licence: str
    citation: str
    page: Url
    note: str | None = None


class Dataset(_Listed):
    """Images: of its own sources, or those of other datasets (``parts``) together."""

    role: Literal["train", "validation", "test"]
    about: str
    images: Annotated[int, Field(gt=0)]
    sources: tuple[Source, ...] = ()
    parts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> "Dataset":
        if bool(self.sources) == bool(self.parts):
            raise ValueError("give either sources or parts")
        return self


class Weights(_Entry):
    """A file that is a checkpoint, or an archive and the member of it that is."""

    file: str
    member: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


class Checkpoint(_Listed):
    """A public network. ``expected`` names the source in ``paper/external.csv`` of its scores."""

    role: Literal["teacher", "real-world teacher", "feature network"]
    network: str
    scale: Literal[2, 3, 4] | None = None
    expected: str | None = None
    sources: Annotated[tuple[Weights, ...], Field(min_length=1)]


class Registry(_Entry):
    files: dict[str, RemoteFile]
    datasets: dict[str, Dataset]
    checkpoints: dict[str, Checkpoint]

    @model_validator(mode="after")
    def _references(self) -> "Registry":
        entries: dict[str, Dataset | Checkpoint] = {**self.datasets, **self.checkpoints}
        used = set()
        for name, entry in entries.items():
            for source in entry.sources:
                for file in source.files:
                    used.add(file)
                    if file not in self.files:
                        raise ValueError(f"{name}: its file {file} is not under files")
        for name, dataset in self.datasets.items():
            for part in dataset.parts:
                if part not in self.datasets or self.datasets[part].parts:
                    raise ValueError(f"{name}: its part {part} is not a dataset with sources")
        if unused := sorted(self.files.keys() - used):
            raise ValueError(f"files.{unused[0]}: no dataset or checkpoint uses it")
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
        where = ".".join(str(part) for part in detail["loc"])
        what = detail["msg"].removeprefix("Value error, ")
        raise UserError(f"{path.name}: {where + ': ' if where else ''}{what}: mend it") from None


def expected_scores(checkpoint: Checkpoint) -> pd.DataFrame:
    """What a teacher's weights should score in a single pass: dataset, metric, value, decimals.

    Values are as printed by ``expected``, the source they are taken from; PSNR-Y in dB. Empty
    where nobody published any.
    """
    table = pd.read_csv(str(resources("augkd.study.paper") / "external.csv"))
    rows = table[
        (table["network"] == checkpoint.network)
        & (table["scale"] == checkpoint.scale)
        & (table["method"] == "teacher")
        & (table["evaluation"] == "single_pass")
        & (table["source"] == checkpoint.expected)
    ]
    return rows[["dataset", "metric", "value", "decimals"]].reset_index(drop=True)
