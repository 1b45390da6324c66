"""CrossKD (Fang et al., JVCIR 2023), a reconstruction: Table 3, RCAN."""

from copy import deepcopy
from typing import ClassVar, Literal

from torch import nn
from torch.nn.functional import l1_loss

from augkd.data.sampler import Batch
from augkd.distill.features import of_one_backbone
from augkd.distill.kd import response
from augkd.distill.teacher import Teacher, Terms
from augkd.errors import UserError
from augkd.options import Weight, options


def crossed(first: nn.Module, second: nn.Module) -> nn.Module:
    """Head and first half of the body of one network, then the rest of another, weights shared.

    Both have ``conv_first`` and a sequential ``body``. The long skip carries the first's head.
    """
    shared: list[object] = [*second.children(), *second.buffers(recurse=False)]
    whole = deepcopy(second, {id(part): part for part in shared})  # copies the frame alone
    head, tail = (list(n.get_submodule("body").children()) for n in (first, second))
    stages = head[: len(head) // 2] + tail[len(tail) // 2 :]
    whole.add_module("conv_first", first.get_submodule("conv_first"))
    whole.add_module("body", nn.Sequential(*stages))
    whole.register_buffer("mean_in", first.get_buffer("mean_in"))  # before the head
    return whole


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
            cascades = {
                "student_teacher": crossed(student, teacher.network),
                "teacher_student": crossed(teacher.network, student),
            }
            for name, network in cascades.items():
                terms[name] = self.cross * l1_loss(network(batch.lr), target)
        return terms

    def bind(self, student: nn.Module, teacher: nn.Module) -> "CrossKD":
        own, theirs = of_one_backbone("crosskd", student, teacher)
        if own.name == "swinir" or own.channels != theirs.channels:
            need = "an rcan or edsr teacher and student of one width"
            given = f"{own.name} of {theirs.channels} and {own.channels}: choose another method"
            raise UserError(f"method 'crosskd' connects halves of {need}, not {given}")
        return self
