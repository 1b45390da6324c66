"""How methods and schedules declare their options, and the schedule. Needs no torch."""

import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

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


@options
class Optimiser:
    """Adam and its step decay (Appendix A.1): the rate is lr * decay ** (step // decay_every)."""

    betas: tuple[Share, Share] = (0.9, 0.99)
    eps: float = 1e-8
    decay: Share = 0.1


@options
class Training:
    """How long and how fast: the schedule of a cohort or of a teacher."""

    steps: Count
    batch: Count
    patch: Count  # LR pixels
    lr: Annotated[float, Rule("a number above 0", lambda lr: lr > 0)]
    decay_every: Count
    seeds: Count
    # decay of the average of weights, at step t at most (1 + t) / (10 + t); 0 keeps none
    ema: Annotated[float, Rule("a number from 0 to less than 1", lambda ema: 0 <= ema < 1)]
    validate_every: Count
    # of activations: weights and their updates are float32. auto: bfloat16 on devices made for it
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # of the steps, where weights of another training are the start: they have taken the rest
    continued: Annotated[float, Rule("a number above 0, at most 1", lambda c: 0 < c <= 1)] = 1.0

    def longer(self, times: float) -> "Training":
        """The same schedule, stretched."""
        steps, every = (max(1, round(times * n)) for n in (self.steps, self.decay_every))
        return replace(self, steps=steps, decay_every=every)
