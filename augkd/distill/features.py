"""What the feature-based methods share: one pass for output and features, then two comparisons."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from augkd.data.batch import Batch
from augkd.distill.kd import response
from augkd.distill.options import Terms
from augkd.distill.taps import named, of_one_backbone
from augkd.distill.teacher import Teacher
from augkd.models import SRNetwork

Compare = Callable[[list[Tensor], list[Tensor]], Terms]
"""Student's and teacher's feature maps, (N, C, H, W) each, to weighted terms."""

Base = Callable[[SRNetwork, Teacher, Batch, Tensor], Terms]
"""Student, teacher, batch and S(x) to weighted terms."""


class FeatureMatching(nn.Module):
    """base(S(x)) + compare(features of S at x, features of T at x).

    Args:
        method: its name, for messages.
        student, teacher: the networks that will meet.
        taps: indices of the points of ``augkd.distill.taps``.
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
