"""How a method declares its options, and what its call and its ``bind`` return."""

import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """What a value has to be beside its type: in words, and as a test of it."""

    words: str
    holds: Callable[[Any], bool]


Weight = Annotated[float, Rule("a finite number, at least 0", lambda w: 0 <= w < float("inf"))]
"""Factor of a loss term. A term of weight 0 is neither computed nor returned."""

Share = Annotated[float, Rule("a number from 0 to 1", lambda p: 0 <= p <= 1)]
Count = Annotated[int, Rule("a whole number, at least 1", lambda n: n >= 1 and n == int(n))]

Terms = dict[str, Tensor]
"""Named, weighted loss terms, each a scalar."""

Updates = Terms | Iterator[Terms]
"""One optimiser step on the sum of the terms, or one step for each group of an iterator."""


@typing.dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass that refuses values that break a rule of their field, by ValueError.

    Types and unknown keys are for pydantic to check, of values that come from a file.
    """
    hints = typing.get_type_hints(cls, include_extras=True)

    def check(self: T) -> None:
        for name, value in vars(self).items():
            if wanted := _unmet(hints[name], value):
                raise ValueError(f"{name}: expected {wanted}, not {value!r}")

    cls.__post_init__ = check  # type: ignore[attr-defined]
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclass(cls, frozen=True)


def _unmet(hint: Any, value: Any) -> str:
    """What ``value`` should be and is not; "" if it is all that its field's hint asks."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        return _unmet(parts[0], value) if parts[1].holds(value) else parts[1].words
    if kind is Literal and value not in parts:
        return "one of " + ", ".join(map(str, parts))
    if type(None) in parts:
        return "" if value is None else _unmet(parts[0], value)
    if kind is tuple:
        return next((words for item in value if (words := _unmet(parts[0], item))), "")
    return ""
