"""How a method declares its options, and what its call and its ``bind`` return."""

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

T = TypeVar("T")

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Factor of a loss term. A term of weight 0 is neither computed nor returned."""

Probability = Annotated[float, Field(ge=0, le=1)]

Terms = dict[str, Tensor]
"""Named, weighted loss terms, each a scalar."""

Updates = Terms | Iterator[Terms]
"""One optimiser step on the sum of the terms, or one step for each group of an iterator."""


@dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass that refuses unknown keys, wrong types and values out of range."""
    return dataclass(cls, frozen=True, config=ConfigDict(extra="forbid"))  # type: ignore[return-value]


class Bound(nn.Module):
    """A method without parameters of its own, once its demands on the networks are met."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method

    def forward(self, *args: Any) -> Updates:
        return self.method(*args)  # type: ignore[no-any-return]
