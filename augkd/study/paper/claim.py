"""A claim of the paper as a comparison, and the file that lists them, ``claims.yaml``."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from augkd.errors import UserError

__all__ = ["Claim", "Operand", "load_claims"]

Kind = Literal["greater", "at_most", "sometimes_greater", "gain_of"]
Metric = Literal["psnr_y", "ssim_y", "psnr_y_teacher", "niqe", "seconds_per_step"]


class Operand(BaseModel):
    """One side of a comparison: a method, and where it is if not where the claim says.

    Attributes:
        method: an identifier, as in the paper's tables and in our scores.
        teacher, training_set: further keys of the paper's table (Tables 4 and 9).
        cohort: of our scores, in place of the claim's cohorts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    teacher: str | None = None
    training_set: str | None = None
    cohort: str | None = None

    def __str__(self) -> str:
        marks = [f"teacher {self.teacher}" if self.teacher else "", self.training_set or ""]
        detail = ", ".join(mark for mark in marks if mark)
        return f"{self.method} ({detail})" if detail else self.method


def _operands(value: Any) -> Any:
    """``kd``, ``[kd, at]`` and ``{method: kd}`` all mean a list of operands."""
    listed = value if isinstance(value, list) else [value]
    return [{"method": item} if isinstance(item, str) else item for item in listed]


Operands = Annotated[tuple[Operand, ...], BeforeValidator(_operands), Field(min_length=1)]


class Claim(BaseModel):
    """See the head of ``claims.yaml`` for what the fields mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    topic: str = ""
    title: str = Field(default="", max_length=45)
    section: str
    quote: str = Field(min_length=5, max_length=120)
    tables: tuple[Annotated[int, Field(ge=1, le=12)], ...] = ()
    figure: int | None = None
    networks: tuple[Literal["edsr", "rcan", "swinir"], ...] = Field(min_length=1)
    scales: tuple[Literal[2, 3, 4], ...] = Field(min_length=1)
    datasets: tuple[str, ...] = ()
    split: Literal["train", "test"] = "test"
    metric: Metric
    kind: Kind
    better: Operands
    worse: Operands
    over: Literal["each", "mean"] = "each"
    margin: float = 0.0
    value: float | None = None
    rounding: float | None = None
    cohorts: tuple[str, ...] = Field(default=("{network}_x{scale}",), min_length=1)
    needs: tuple[str, ...] = ()
    stand_in: str = ""
    reading: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        amount = self.value is not None and self.rounding is not None
        if amount != (self.kind == "gain_of"):
            raise ValueError("'value' and 'rounding' belong to kind 'gain_of', and only to it")
        if self.margin and self.kind in ("gain_of", "sometimes_greater"):
            raise ValueError(f"kind '{self.kind}' has no 'margin'")
        return self


def load_claims(path: Path | None = None) -> list[Claim]:
    """The paper's claims, or those of another file of the same form.

    Raises:
        UserError: the file is absent or not YAML, a claim is not of the form, an id is used twice.
    """
    source = path or files(__package__).joinpath("claims.yaml")
    try:
        listed = yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{source}: no such file of claims") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(listed, list):
        raise UserError(f"{source}: expected a list of claims")
    claims: list[Claim] = []
    for number, entry in enumerate(listed, 1):
        name = (
            entry.get("id", f"number {number}") if isinstance(entry, dict) else f"number {number}"
        )
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            key = f", key '{where}'" if where else ""
            raise UserError(f"{source}: claim {name}{key}: {first['msg']}") from None
        if any(claim.id == other.id for other in claims):
            raise UserError(f"{source}: claim id '{claim.id}' is used twice: rename one")
        claims.append(claim)
    return claims
