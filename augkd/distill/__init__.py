"""Distillation methods, one file each, and the table that names them.

A method is a dataclass of its options. Called with (student, teacher, batch) it returns named,
weighted loss terms, whose sum is minimised. It draws nothing, schedules nothing and moves nothing
between devices. A method with trainable parts of its own, or with demands on the networks, has
``bind(student, teacher_network)``, which returns a module to be called in its place.
"""

from augkd.distill.augkd import AugKD
from augkd.distill.kd import KD, DataFreeKD, Scratch
from augkd.distill.teacher import Teacher

__all__ = ["METHODS", "Teacher"]

METHODS = {
    "scratch": Scratch,
    "kd": KD,
    "dfkd": DataFreeKD,
    "augkd": AugKD,
}
