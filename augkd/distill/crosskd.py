"""CrossKD (Fang et al., JVCIR 2023), a reconstruction: Table 3, RCAN."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from augkd.data.sampler import Batch
from augkd.distill.features import of_one_backbone
from augkd.distill.kd import response
from augkd.distill.teacher import Teacher, Terms
from augkd.errors import UserError
from augkd.models.network import RANGE, ResidualNetwork
from augkd.options import Weight, options


def crossed(first: ResidualNetwork, second: ResidualNetwork, x: Tensor) -> Tensor:
    """The output for x of head and first half of the body of one network, then the rest of another.

    The long skip carries the first's head.
    """
    y = head = first.conv_first((x - first.mean_in) * RANGE)
    for stage in list(first.body)[: len(first.body) // 2]:
        y = stage(y)
    for stage in list(second.body)[len(second.body) // 2 :]:
        y = stage(y)
    return second.enlarge(second.conv_after_body(y) + head, *x.shape[2:])


@options
class CrossKD:
    """rec * L_rec + kd * L_kd + cross * (|T2(S1(x)) - t|_1 + |S2(T1(x)) - t|_1): a reconstruction.

    S = S2(S1) and T = T2(T1), each cut after half of its body (RCAN: group 5 of 10); T is frozen,
    and gradients pass through T2 to S1. t is the truth, or T(x) with ``target: teacher``. No
    features are compared: segments meet at the cut, and hence need one width.

    Only the method's outline is public: the student is cascaded into the teacher, whose trained
    weights then supervise it; the paper adds that both networks are cut into two segments,
    exchanged and connected (Section 2.2). No code is. Left open, and chosen here: the cut, the
    targets, the weights (every image that should be y counts as much as the student's own), and
    that the teacher is frozen. Results are to be labelled "reconstruction". It is not the CrossKD
    of object detection (CVPR 2024).
    """

    per_image: ClassVar[bool] = True
    rec: Weight = 1.0
    kd: Weight = 0.0
    cross: Weight = 1.0
    target: Literal["hr", "teacher"] = "hr"

    def __call__(self, student: nn.Module, teacher: Teacher, batch: Batch) -> Terms:
        terms = response(student(batch.lr), teacher, batch, self.rec, self.kd)
        if self.cross:
            target = batch.hr if self.target == "hr" else teacher.output("lr")
            pairs: dict[str, tuple[Any, Any]] = {
                "student_teacher": (student, teacher.network),
                "teacher_student": (teacher.network, student),
            }
            for name, pair in pairs.items():
                terms[name] = self.cross * l1_loss(crossed(*pair, batch.lr), target)
        return terms

    def bind(self, student: nn.Module, teacher: nn.Module) -> "CrossKD":
        own, theirs = of_one_backbone("crosskd", student, teacher)
        if own.name == "swinir" or own.channels != theirs.channels:
            need = "an rcan or edsr teacher and student of one width"
            given = f"{own.name} of {theirs.channels} and {own.channels}: choose another method"
            raise UserError(f"method 'crosskd' connects halves of {need}, not {given}")
        return self
