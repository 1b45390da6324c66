"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017), adapted: Tables 2 and 3."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from augkd.distill.features import FeatureMethod, Maps, Taps, over_taps
from augkd.distill.teacher import Terms
from augkd.options import Weight, options


def attention_map(features: Tensor) -> Tensor:
    """Mean squared channel at each position of (N, C, H, W), as unit vectors (N, H*W)."""
    return normalize(features.square().mean(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two attention maps; widths may differ."""
    return (attention_map(student) - attention_map(teacher)).square().mean()


@options
class AT(FeatureMethod):
    """rec * L_rec + kd * L_kd + attention * sum over taps of mean (a_S - a_T)^2.

    a = mean_c F_c^2, flattened and divided by its norm: free of the features' scale and width.

    Taps: points 1, 2 and 3, FAKD's.

    Weights: authors and zoo have 1000, here 1000 / 255 = 3.92 (see features.py).

    Left open by the paper: taps and weight. The mean over positions makes the term shrink with
    the patch (at most 2 / (H*W)): a weight set on the zoo's maps of 8 to 32 pixels is weaker on
    48 x 48 patches, and no weight carries over between patch sizes.
    """

    name: ClassVar[str] = "at"
    per_image: ClassVar[bool] = True
    rec: Weight = 1.0
    kd: Weight = 0.0
    attention: Weight = 1000 / 255
    taps: Taps = (1, 2, 3)

    def compare(self, student: Maps, teacher: Maps) -> Terms:
        return {"attention": self.attention * over_taps(attention_loss, student, teacher)}
