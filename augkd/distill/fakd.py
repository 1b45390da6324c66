"""FAKD (He et al., ICIP 2020): spatial feature affinity; and with AugKD. Tables 2, 3, 8, 11."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from augkd.data.sampler import Batch
from augkd.distill.augkd import AugKD
from augkd.distill.features import FeatureMethod, Maps, Taps, over_taps, with_gradient
from augkd.distill.teacher import Teacher, Terms
from augkd.errors import UserError
from augkd.options import Weight, options


def _unit(features: Tensor) -> Tensor:
    """(N, C, H*W), each position's features divided by their norm."""
    flat = features.flatten(2)
    unit: Tensor = flat / (torch.linalg.vector_norm(flat, dim=1, keepdim=True) + 1e-8)
    return unit


def affinity_loss(student: Tensor, teacher: Tensor, rows: int = 192) -> Tensor:
    """Mean absolute difference of two affinities; widths may differ.

    An affinity is the cosine between every two positions, (N, H*W, H*W). That of 48 x 48
    patches takes 20 MiB an image. So many rows are held at a time, from the diagonal on:
    affinities are symmetric. Value and gradient do not depend on it.
    """
    units = _unit(student)
    value, gradient = units.new_zeros(()), torch.zeros_like(units)
    with torch.no_grad():
        for own, target, slope in zip(units, _unit(teacher), gradient, strict=True):
            for start in range(0, own.shape[1], rows):
                left, right = own[:, start : start + rows], own[:, start:]
                apart = left.mT @ right
                apart.addmm_(target[:, start : start + rows].mT, target[:, start:], alpha=-1)
                beside = apart[:, rows:]  # each of these pairs stands for its mirror image too
                value += sum(torch.linalg.vector_norm(some, ord=1) for some in (apart, beside))
                apart.sign_()
                slope[:, start : start + rows].addmm_(right, apart.mT, alpha=2)
                slope[:, start + rows :].addmm_(left, beside, alpha=2)
    entries = len(units) * units.shape[2] ** 2
    return with_gradient(units, value / entries, gradient / entries)


@options
class FAKD(FeatureMethod):
    """rec * L_rec + kd * L_kd + affinity * sum over taps of |A_S - A_T|_1.

    A = U^T U with U the (C, H*W) feature, each position divided by its norm + 1e-8: free of the
    features' scale and width, hence without adapters.

    Taps: points 1, 2 and 3; the released code uses 2 and 3 alone for RCAN x3. The last is after
    the long skip, which the released code adds in place to the tensor that it stored.

    Weights: alpha = 0.5 splits truth and teacher, 0.5 and 0.5; the released scripts have 10 for
    [0, 255] images. For [0, 1] images both L1 terms are 255 times smaller while the affinity
    stays: 10 / 255 = 0.0392.

    Left open by the paper: it follows "the hyperparameter settings specified in the original
    papers", which cover neither this EDSR pair nor SwinIR. ``detach: true`` is a control: in the
    predecessor's released baseline the affinity has no gradient, so that response-based
    distillation is what remains.
    """

    name: ClassVar[str] = "fakd"
    per_image: ClassVar[bool] = True
    rec: Weight = 0.5
    kd: Weight = 0.5
    affinity: Weight = 10 / 255
    taps: Taps = (1, 2, 3)
    detach: bool = False

    def compare(self, student: Maps, teacher: Maps) -> Terms:
        with torch.set_grad_enabled(not self.detach):
            return {"affinity": self.affinity * over_taps(affinity_loss, student, teacher)}


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
        return {"affinity": self.affinity * over_taps(affinity_loss, student, teacher)}

    def base(self, student: nn.Module, teacher: Teacher, batch: Batch, output: Tensor) -> Terms:
        return self.augkd.terms(student, teacher, batch, output)

    def bind(self, student: nn.Module, teacher: nn.Module) -> Any:
        if self.augkd.updates != 1:
            raise UserError("method 'fakd_augkd': augkd.updates is 2, expected 1 (one summed loss)")
        return super().bind(student, teacher)
