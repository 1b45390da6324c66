"""FitNet (Romero et al., ICLR 2015), adapted to super-resolution: Tables 2, 3 and 11."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from augkd.data.sampler import Batch
from augkd.distill.features import FeatureMethod, Maps, Taps, of_one_backbone, over_taps
from augkd.distill.teacher import Teacher, Terms
from augkd.options import Weight, options


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps of one shape, in units of the teacher's mean square.

    A relative error: 1 where the student answers zero.
    """
    return mse_loss(student, teacher) / teacher.square().mean()


@options
class FitNet(FeatureMethod):
    """rec * L_rec + kd * L_kd + hint * mean |r(F_S) - F_T|^2 / mean |F_T|^2, r a learned 1 x 1.

    Taps: point 2 (two thirds of the depth), as the classifiers' zoo has its one hint after the
    second of three stages; trained jointly, not in FitNets' two stages.

    Weights: the zoo has hint = 100, here 100 / 255 = 0.392 (see features.py).

    Left open by the paper: tap, regressor, weight and scale. The zoo's regressor ends in batch
    normalisation and ReLU, which cannot meet signed features; plain 1 x 1 here. Features are on
    the scale of [0, 255] images, where a bare MSE of weight 100 would drown the reconstruction,
    hence the division (a likely cause of the paper's -1.5 dB).
    """

    name: ClassVar[str] = "fitnet"
    rec: Weight = 1.0
    kd: Weight = 0.0
    hint: Weight = 100 / 255
    taps: Taps = (2,)

    def compare(self, student: Maps, teacher: Maps) -> Terms:
        return {"hint": self.hint * over_taps(hint_loss, student, teacher)}

    def bind(self, student: nn.Module, teacher: nn.Module) -> nn.Module:
        own, theirs = of_one_backbone(self.name, student, teacher)
        return Regressors(self, own.channels, theirs.channels)


class Regressors(nn.Module):
    """The method, bound: a 1 x 1 convolution a tap, from the student's width to the teacher's.

    At equal widths a regressor starts as the identity.
    """

    def __init__(self, method: FitNet, width: int, teacher_width: int) -> None:
        super().__init__()
        self.method = method
        self.layers = nn.ModuleList(nn.Conv2d(width, teacher_width, 1) for _ in method.taps)
        if width == teacher_width:
            for name, parameter in self.layers.named_parameters():
                (nn.init.dirac_ if name.endswith("weight") else nn.init.zeros_)(parameter)

    def regress(self, maps: Maps) -> Maps:
        return [layer(own) for layer, own in zip(self.layers, maps, strict=True)]

    def forward(self, student: nn.Module, teacher: Teacher, batch: Batch) -> Terms:
        return self.method(student, teacher, batch, adapt=self.regress)
