"""Distillation methods, one file each, and the table that names them.

A method is a dataclass of its options. Called with (student, teacher, batch) it returns named,
weighted loss terms, whose sum is minimised in one optimiser step, or an iterator of such groups:
one step each, each group computed after the step before, gradients adding up over the groups. It
draws nothing, schedules nothing and moves nothing between devices. Which methods a cohort compares,
and how what they reach is judged, is the study's.

A method with trainable parts of its own, or with demands on the networks, has
``bind(student, teacher_network)``, which refuses networks that it cannot serve and returns what is
to be called in the method's place. If that is a module, its parameters are trained along with the
student's, or in their place where it says ``trains_student = False``; its ``sync(student)``, where
it has one, then copies out the student to be scored.
"""

from augkd.distill.at import AT
from augkd.distill.augkd import AugKD
from augkd.distill.crosskd import CrossKD
from augkd.distill.csd import CSD, SlicedInit
from augkd.distill.fakd import FAKD, FAKDAugKD
from augkd.distill.fitnet import FitNet
from augkd.distill.kd import KD, DataFreeKD, Scratch
from augkd.distill.rkd import RKD
from augkd.distill.teacher import Teacher

__all__ = ["METHODS", "AugKD", "Teacher"]

METHODS = {
    "scratch": Scratch,
    "kd": KD,
    "dfkd": DataFreeKD,
    "fitnet": FitNet,
    "at": AT,
    "rkd": RKD,
    "fakd": FAKD,
    "csd": CSD,
    "sliced_init": SlicedInit,
    "crosskd": CrossKD,
    "augkd": AugKD,
    "fakd_augkd": FAKDAugKD,
}
