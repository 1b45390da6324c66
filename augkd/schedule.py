"""How long and how fast networks are trained. Read without torch, which ``augkd.train`` needs."""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar


def _expect(value: Any, *rules: tuple[str, bool, str]) -> None:
    """Raises ValueError for the first (field, whether it is as it should be, what it should be)."""
    for name, holds, wanted in rules:
        if not holds:
            raise ValueError(f"{name}: expected {wanted}, not {getattr(value, name)!r}")


@dataclass(frozen=True)
class Optimiser:
    """Adam and its step decay (Appendix A.1): the rate is lr * decay ** (step // decay_every).

    Raises:
        ValueError: a value out of [0, 1], which betas and decay are in.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    decay: float = 0.1

    def __post_init__(self) -> None:
        _expect(
            self,
            ("betas", all(0 <= beta <= 1 for beta in self.betas), "numbers from 0 to 1"),
            ("decay", 0 <= self.decay <= 1, "a number from 0 to 1"),
        )


@dataclass(frozen=True)
class Training:
    """A schedule: steps of so many patches, in LR pixels.

    Attributes:
        ema: decay of the average of weights; 0 keeps none.
        continued: of the steps, where weights of another training are the start: they have taken
            the rest.

    Raises:
        ValueError: a value out of range: counts and lr > 0, 0 <= ema < 1, 0 < continued <= 1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    steps: int
    batch: int
    patch: int
    lr: float
    decay_every: int
    seeds: int
    ema: float
    validate_every: int
    continued: float = 1.0

    def __post_init__(self) -> None:
        counts = [field.name for field in fields(self) if field.type is int]
        _expect(
            self,
            *((name, getattr(self, name) >= 1, "a whole number, at least 1") for name in counts),
            ("lr", self.lr > 0, "a number above 0"),
            ("ema", 0 <= self.ema < 1, "a number from 0 to less than 1"),
            ("continued", 0 < self.continued <= 1, "a number above 0, at most 1"),
        )

    def longer(self, times: float) -> "Training":
        """The same schedule, stretched."""
        stretched = {k: max(1, round(times * getattr(self, k))) for k in ("steps", "decay_every")}
        return replace(self, **stretched)
