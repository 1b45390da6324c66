"""How a method declares its options: a frozen dataclass that refuses unknown keys and types."""

from typing import TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    return dataclass(cls, frozen=True, config=ConfigDict(extra="forbid"))  # type: ignore[return-value]
