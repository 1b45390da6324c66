"""The plain methods: no teacher, the teacher's response, and the teacher's response alone."""

from torch import Tensor
from torch.nn.functional import l1_loss

from augkd.data.batch import Batch
from augkd.distill.options import options
from augkd.distill.teacher import Teacher
from augkd.models import SRNetwork


@options
class Scratch:
    """Training without distillation: Equation 1, L_rec = |S(x) - y|_1."""

    rec: float = 1.0

    def __call__(self, student: SRNetwork, teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
        return {"rec": self.rec * l1_loss(student(batch.lr), batch.hr)}


@options
class KD:
    """Response-based distillation: L_rec + kd * L_kd, Equations 1 and 2.

    The paper gives no weight. 0.2 is that of AugKD's own L_kd here, so that the two methods
    differ by the auxiliary terms alone; the predecessor's released KD option has 1 (a control).
    """

    rec: float = 1.0
    kd: float = 0.2

    def __call__(self, student: SRNetwork, teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
        output = student(batch.lr)
        return {
            "rec": self.rec * l1_loss(output, batch.hr),
            "kd": self.kd * l1_loss(output, teacher.output("lr")),
        }


@options
class DataFreeKD:
    """The data-free variant of Figure 2: real LR patches, HR discarded, |S(x) - T(x)|_1 alone.

    Named as such because it is not the generator-based method of Zhang et al. (CVPR 2021): the
    paper assumes "an oracle image generator" (Section 3.2).
    """

    kd: float = 1.0

    def __call__(self, student: SRNetwork, teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
        return {"kd": self.kd * l1_loss(student(batch.lr), teacher.output("lr"))}
