"""CSD (Wang et al., IJCAI 2021): a student inside its teacher. Tables 2 and 11, EDSR alone.

Also its control, a student that only starts as a slice of the teacher.
"""

from copy import deepcopy
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import l1_loss

from augkd.data.sampler import Batch
from augkd.degrade.bicubic import bicubic
from augkd.distill.features import Maps, of_one_backbone, points, with_gradient
from augkd.distill.kd import Scratch, response
from augkd.distill.teacher import Teacher, Terms
from augkd.distill.vgg import load_vgg19
from augkd.errors import UserError
from augkd.models import SRNetwork
from augkd.options import Count, Weight, options

# of VGG19's five levels, as released; fewer levels take the last ones
LEVEL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


def contrast(student: Maps, teacher: Maps, negative: Maps) -> Tensor:
    """Sum over levels of weight * |T - S|_1 / (sum over K of |N_k - S|_1 + 1e-7).

    Args:
        student, teacher: features (N, C, H, W) of both outputs, one a level, coarsest last.
        negative: features (K, C, H, W) of the negatives; each is compared with every image.
    """
    total = student[0].new_zeros(())
    weights = LEVEL_WEIGHTS[-len(student) :]
    for weight, own, target, far in zip(weights, student, teacher, negative, strict=True):
        total = total + weight * l1_loss(own, target) / (_repelled(own, far) + 1e-7)
    return total


def _repelled(student: Tensor, negative: Tensor) -> Tensor:
    """Sum over K of the mean |N_k - S|, image by image, since all at once would hold 1.5 GB.

    (Of the first level of ten negatives against sixteen 192 x 192 images.)
    """
    value, slopes = student.new_zeros(()), list[Tensor]()
    with torch.no_grad():
        for own in student:
            apart = own - negative
            value += apart.abs().sum()
            slopes.append(apart.sign_().sum(0))
        gradient = torch.stack(slopes).div_(student.numel())
    return with_gradient(student, value / student.numel(), gradient)


def first_channels(teacher: nn.Module, student: nn.Module) -> dict[str, Tensor]:
    """Views of the teacher's weights cut to the student's shapes, by the student's names.

    The first output and input channels of every convolution; after an upsampling convolution the
    pixel shuffle makes channel c of rows 4c to 4c + 3 (9c to 9c + 8), so that the first rows are
    the first channels.
    """
    whole = teacher.state_dict(keep_vars=True)  # with their gradients
    return {
        name: whole[name][tuple(slice(length) for length in own.shape)]
        for name, own in student.state_dict().items()
    }


def _require_slice(method: str, student: nn.Module, teacher: nn.Module) -> SRNetwork:
    """The teacher; refuses pairs whose student is not a thinner copy of it."""
    own, theirs = of_one_backbone(method, student, teacher)
    alike = (own.name, own.stages, own.scale) == ("edsr", theirs.stages, theirs.scale)
    if not alike or own.channels > theirs.channels:
        made = f"method '{method}' makes the student of the teacher's first channels"
        mend = "an edsr of as many blocks as the teacher, the same scale, and no more channels"
        raise UserError(f"{made}: give it {mend}, or choose another method")
    return theirs


@options
class CSD:
    """rec * |S(x) - y|_1 + teacher * |T(x) - y|_1 + contrast * L_con, T and S trained jointly.

    S has no weights of its own: it is T restricted to its first channels (64 of 256, m = 0.25,
    for Table 1's EDSR), and both terms move the shared weights. T starts as the trained teacher.
    L_con is ``contrast`` with T(x) held constant; its negatives are the first K low-resolution
    images of the batch, enlarged by bicubic interpolation.

    Features: VGG19 (ImageNet) after ReLU 1_1, 2_1, 3_1, 4_1 and 5_1, of images times 255 without
    normalisation, as released. With ``vgg`` null they are those of the unchanged teacher at its
    four points, of the middle of each image at low-resolution size (one teacher pass each): a
    variant, to be named so (csd_features), with the last four level weights.

    Weights: 1, 1 and 200 for [0, 255] images, K = 10, as released. For [0, 1] images both L1
    terms are 255 times smaller while the ratio stays: 200 / 255 = 0.784.

    Left open by the paper: nothing but the training length ("the hyperparameter settings specified
    in the original papers"). The original decays once in 400 epochs, and evaluates with
    self-ensemble.
    """

    rec: Weight = 1.0
    teacher: Weight = 1.0
    contrast: Weight = 200 / 255
    negatives: Count = 10
    vgg: Path | None = None

    def bind(self, student: nn.Module, teacher: nn.Module) -> nn.Module:
        return JointlyTrained(self, _require_slice("csd", student, teacher))


class JointlyTrained(nn.Module):
    """CSD's trainable teacher, whose first channels are the student."""

    trains_student = False

    def __init__(self, method: CSD, teacher: SRNetwork) -> None:
        super().__init__()
        self.method = method
        self.shared = deepcopy(teacher).requires_grad_(True)
        # in a tuple, since it is neither trained nor saved
        self._vgg = (load_vgg19(method.vgg),) if method.vgg else ()

    def forward(self, student: nn.Module, teacher: Teacher, batch: Batch) -> Terms:
        method = self.method
        small = functional_call(student, first_channels(self.shared, student), (batch.lr,))
        terms = response(small, teacher, batch, method.rec, 0)
        large = self.shared(batch.lr)
        if method.teacher:
            terms["teacher"] = method.teacher * l1_loss(large, batch.hr)
        if method.contrast:
            blurred = bicubic(batch.lr[: method.negatives], self.shared.scale, up=True)
            with torch.no_grad():
                target, far = (self._features(image, teacher) for image in (large, blurred))
            own = self._features(small, teacher)
            terms["contrast"] = method.contrast * contrast(own, target, far)
        return terms

    def sync(self, student: nn.Module) -> None:
        """Copies the shared first channels into the student."""
        student.load_state_dict(first_channels(self.shared, student))

    def _features(self, image: Tensor, teacher: Teacher) -> Maps:
        """One map a level of an image (N, 3, s*p, s*p) in [0, 1]."""
        for vgg in self._vgg:
            levels: Maps = vgg.to(image.device)(image * 255)
            return levels
        height, width = (side // self.shared.scale for side in image.shape[-2:])
        top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
        middle = image[..., top : top + height, left : left + width]
        _, network = of_one_backbone("csd", self.shared, teacher.network)
        features = network.body_features(middle, names := points(network))[1]
        return [features[name].float() for name in names]


@options
class SlicedInit:
    """|S(x) - y|_1 alone (Equation 1), S started as the teacher's first channels: CSD's control.

    ``bind`` overwrites the student's weights. A user of the released CSD reports that this alone
    reaches CSD's scores at x4; cut without training the slice gives about 14 dB.
    """

    per_image: ClassVar[bool] = True
    rec: Weight = 1.0

    def bind(self, student: nn.Module, teacher: nn.Module) -> Scratch:
        _require_slice("sliced_init", student, teacher)
        student.load_state_dict(first_channels(teacher, student))
        return Scratch(rec=self.rec)
