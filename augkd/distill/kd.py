"""The plain methods: no teacher, the teacher's response, and the teacher's response alone."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from augkd.data.sampler import Batch
from augkd.distill.teacher import Teacher, Terms, Updates
from augkd.options import Weight, options


def response(output: Tensor, teacher: Teacher, batch: Batch, rec: float, kd: float) -> Terms:
    """rec * |output - y|_1 + kd * |output - T(x)|_1: what most methods start from."""
    terms = {}
    if rec:
        terms["rec"] = rec * l1_loss(output, batch.hr)
    if kd:
        terms["kd"] = kd * l1_loss(output, teacher.output("lr"))
    return terms


@options
class Scratch:
    """Training without distillation: Equation 1, L_rec = |S(x) - y|_1."""

    per_image: ClassVar[bool] = True
    rec: Weight = 1.0

    def __call__(self, student: nn.Module, teacher: Teacher, batch: Batch) -> Terms:
        return response(student(batch.lr), teacher, batch, self.rec, 0)


@options
class KD:
    """Response-based distillation: rec * L_rec + kd * L_kd, Equations 1 and 2.

    The paper gives no weights. 0.2 is that of AugKD's own L_kd here, so that the two methods
    differ by the auxiliary terms alone; the predecessor's released KD option has 1 (a control).

    ``updates: 2`` is the control for AugKD's released update rule: the same terms a second time,
    at the weights of the first step, on top of the first step's gradient.
    """

    per_image: ClassVar[bool] = True
    rec: Weight = 1.0
    kd: Weight = 0.2
    updates: Literal[1, 2] = 1

    def __call__(self, student: nn.Module, teacher: Teacher, batch: Batch) -> Updates:
        groups = (
            response(student(batch.lr), teacher, batch, self.rec, self.kd)
            for _ in range(self.updates)  # each when it is asked for, after the step before
        )
        return groups if self.updates == 2 else next(groups)


@options
class DataFreeKD:
    """The data-free variant of Figure 2: real LR patches, HR discarded, |S(x) - T(x)|_1 alone.

    Named as such because it is not the generator-based method of Zhang et al. (CVPR 2021): the
    paper assumes "an oracle image generator" (Section 3.2).
    """

    per_image: ClassVar[bool] = True
    kd: Weight = 1.0

    def __call__(self, student: nn.Module, teacher: Teacher, batch: Batch) -> Terms:
        return response(student(batch.lr), teacher, batch, 0, self.kd)
