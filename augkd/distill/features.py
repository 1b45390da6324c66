"""What the feature-based methods share: one pass for output and features, then two comparisons.

Where feature-based methods read: four points of each backbone, the same for every method.

FAKD's released code defines them for EDSR and RCAN; the others of the paper's tables, which were
made for classifiers, take the same ones here so that methods differ by their losses alone.

=====  ==========  ==================  ===================  ===============
index  all         EDSR, SwinIR        RCAN                 all
=====  ==========  ==================  ===================  ===============
0      first_conv
1                  stage n // 3        group n * 2 // 10
2                  stage n * 2 // 3    group n * 6 // 10
3                                                           after_long_skip
=====  ==========  ==================  ===================  ===============

A stage is a block of EDSR (counted from 0: 10 and 21 of 32), a group of RCAN (2 and 6 of 10, as
released) or an RSTB of SwinIR (no released code taps it; its blocks' outputs are this study's
choice). Fractions of the depth are kept where networks are shallower.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from augkd.data.sampler import Batch
from augkd.distill.kd import response
from augkd.distill.options import Terms
from augkd.distill.teacher import Teacher
from augkd.errors import UserError
from augkd.models import SRNetwork

Point = Annotated[int, Field(ge=0, le=3)]
Taps = Annotated[tuple[Point, ...], Field(min_length=1)]
"""Indices of the points that a method reads."""

BACKBONES = {"block": "edsr", "group": "rcan", "rstb": "swinir"}


def _stages(network: SRNetwork) -> list[str]:
    return [tap for tap in network.taps if tap.rstrip("0123456789") in BACKBONES]


def backbone(network: SRNetwork) -> str:
    """One of edsr, rcan and swinir, by what the network calls its stages."""
    return BACKBONES[_stages(network)[0].rstrip("0123456789")]


def points(network: SRNetwork) -> tuple[str, str, str, str]:
    """Names of the network's taps at the four points."""
    stages = _stages(network)
    n = len(stages)
    early, late = (
        (n * 2 // 10, n * 6 // 10) if backbone(network) == "rcan" else (n // 3, n * 2 // 3)
    )
    return ("first_conv", stages[early], stages[late], "after_long_skip")


def of_one_backbone(method: str, student: nn.Module, teacher: nn.Module) -> str:
    """The backbone that both networks have.

    Raises:
        UserError: the teacher's features cannot be read, or the two have different backbones
            ("conventional feature-based KD or self-distillation methods are inapplicable to the
            cross-architecture setting", Section 4.2).
    """
    for role, network in (("teacher", teacher), ("student", student)):
        if not isinstance(network, SRNetwork):
            raise UserError(
                f"method '{method}' reads the {role}'s feature maps, and {type(network).__name__} "
                "offers none: use edsr, rcan or swinir, or choose kd, dfkd or augkd"
            )
    assert isinstance(student, SRNetwork)
    assert isinstance(teacher, SRNetwork)
    own, theirs = backbone(student), backbone(teacher)
    if own != theirs:
        raise UserError(
            f"method '{method}' needs teacher and student of one backbone, not {theirs} and {own}: "
            "choose kd, dfkd or augkd for this pair"
        )
    return own


def named(network: SRNetwork, chosen: Sequence[int]) -> list[str]:
    """The network's own names of the chosen points."""
    names = points(network)
    return [names[index] for index in chosen]


Compare = Callable[[list[Tensor], list[Tensor]], Terms]
"""Student's and teacher's feature maps, (N, C, H, W) each, to weighted terms."""

Base = Callable[[SRNetwork, Teacher, Batch, Tensor], Terms]
"""Student, teacher, batch and S(x) to weighted terms."""


class FeatureMatching(nn.Module):
    """base(S(x)) + compare(features of S at x, features of T at x).

    Args:
        method: its name, for messages.
        student, teacher: the networks that will meet.
        taps: indices of the points of ``augkd.distill.features``.
        compare: the features' terms; a module's parameters are trained along.
        base: the output's terms.

    Raises:
        UserError: a network without features, or two backbones.
    """

    def __init__(
        self,
        method: str,
        student: SRNetwork,
        teacher: nn.Module,
        taps: Sequence[int],
        compare: Compare,
        base: Base,
    ) -> None:
        super().__init__()
        of_one_backbone(method, student, teacher)
        assert isinstance(teacher, SRNetwork)
        self.student_taps = named(student, taps)
        self.teacher_taps = named(teacher, taps)
        self.compare = compare
        self.base = base

    def forward(self, student: SRNetwork, teacher: Teacher, batch: Batch) -> Terms:
        output, features = student.features(batch.lr, self.student_taps)
        targets = teacher.features("lr", self.teacher_taps)
        own = [features[tap] for tap in self.student_taps]
        theirs = [targets[tap] for tap in self.teacher_taps]
        return self.base(student, teacher, batch, output) | self.compare(own, theirs)


def response_base(rec: float, kd: float) -> Base:
    """rec * L_rec + kd * L_kd on the output that was computed with the features."""

    def base(student: SRNetwork, teacher: Teacher, batch: Batch, output: Tensor) -> Terms:
        return response(output, teacher, batch, rec, kd)

    return base
