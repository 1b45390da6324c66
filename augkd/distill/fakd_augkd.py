"""FAKD and AugKD together (Table 8)."""

from typing import Any, ClassVar

from torch import Tensor, nn

from augkd.data.sampler import Batch
from augkd.distill.augkd import AugKD
from augkd.distill.fakd import affinity_term
from augkd.distill.features import FeatureMethod, Maps, Taps
from augkd.distill.teacher import Teacher, Terms
from augkd.errors import UserError
from augkd.options import Weight, options


@options
class FAKDAugKD(FeatureMethod):
    """AugKD's loss (Equation 4) + affinity * FAKD's sum over taps of |A_S - A_T|_1.

    Both methods contain rec and kd; they are counted once, with AugKD's weights, because the
    affinity is all that FAKD adds to them. Affinities are those of the plain input x.

    Taps and weight: FAKD's (points 1, 2 and 3; 10 / 255 = 0.0392, beside a reconstruction and
    response of total weight 1 there and 1.2 here).

    Left open by the paper: how the two are combined ("we also integrate AugKD with the FAKD
    method"), and every weight.
    """

    name: ClassVar[str] = "fakd_augkd"
    per_image: ClassVar[bool] = True
    augkd: AugKD = AugKD()
    affinity: Weight = 10 / 255
    taps: Taps = (1, 2, 3)

    def compare(self, student: Maps, teacher: Maps) -> Terms:
        return affinity_term(self.affinity, student, teacher)

    def base(self, student: nn.Module, teacher: Teacher, batch: Batch, output: Tensor) -> Terms:
        return self.augkd.terms(student, teacher, batch, output)

    def bind(self, student: nn.Module, teacher: nn.Module) -> Any:
        if self.augkd.updates != 1:
            raise UserError("method 'fakd_augkd': augkd.updates is 2, expected 1 (one summed loss)")
        return super().bind(student, teacher)
