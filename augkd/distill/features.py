"""What the feature-based methods share: where they read, and one pass for output and features.

FAKD's released code defines four points for EDSR and RCAN; the others of the paper's tables, which
were made for classifiers, take the same ones so that methods differ by their losses alone.

=====  ==========  ==================  ===================  ===============
index  all         EDSR, SwinIR        RCAN                 all
=====  ==========  ==================  ===================  ===============
0      first_conv
1                  stage n // 3        group n * 2 // 10
2                  stage n * 2 // 3    group n * 6 // 10
3                                                           after_long_skip
=====  ==========  ==================  ===================  ===============

A stage is a block of EDSR (counted from 0: 10 and 21 of 32), a group of RCAN (2 and 6 of 10, as
released) or an RSTB of SwinIR (no released code taps it; its blocks' outputs are this study's
choice). Fractions of the depth are kept where networks are shallower.

FitNet, AT and RKD have the weights of the classifiers' zoo (RepDistiller), where they stand beside
a cross-entropy of order one, and no L_kd. The L1 of [0, 255] images is of that order (1 to 6 grey
levels), ours is 255 times smaller: the weights are divided by 255.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from augkd.data.sampler import Batch
from augkd.distill.kd import response
from augkd.distill.teacher import Teacher, Terms
from augkd.errors import UserError
from augkd.models import SRNetwork
from augkd.models.network import exact
from augkd.options import Rule, Weight

Taps = Annotated[
    tuple[int, ...],
    Rule("one or more of the points 0 to 3", lambda taps: set() < set(taps) <= {0, 1, 2, 3}),
]
"""Indices of the points that a method reads."""


def points(network: SRNetwork) -> tuple[str, str, str, str]:
    """Names of the network's taps at the four points."""
    first, *stages, _, last = network.taps  # the one before the last is the body's convolution
    n = len(stages)
    early, late = (n * 2 // 10, n * 6 // 10) if network.name == "rcan" else (n // 3, n * 2 // 3)
    return first, stages[early], stages[late], last


def of_one_backbone(
    method: str, student: nn.Module, teacher: nn.Module
) -> tuple[SRNetwork, SRNetwork]:
    """Student and teacher, as networks of one backbone whose features can be read.

    Raises:
        UserError: the features of one cannot be read, or the two have different backbones
            ("conventional feature-based KD or self-distillation methods are inapplicable to the
            cross-architecture setting", Section 4.2).
    """
    for role, network in (("teacher", teacher), ("student", student)):
        if not isinstance(network, SRNetwork):
            problem = f"reads the {role}'s feature maps, and {type(network).__name__} offers none"
            mend = "use edsr, rcan or swinir, or choose kd, dfkd or augkd"
            raise UserError(f"method '{method}' {problem}: {mend}")
    own, theirs = cast(SRNetwork, student), cast(SRNetwork, teacher)
    if own.name != theirs.name:
        need = f"needs teacher and student of one backbone, not {theirs.name} and {own.name}"
        raise UserError(f"method '{method}' {need}: choose kd, dfkd or augkd for this pair")
    return own, theirs


Maps = list[Tensor]
"""Feature maps (N, C, H, W), one a tap."""


def over_taps(loss: Callable[[Tensor, Tensor], Tensor], student: Maps, teacher: Maps) -> Tensor:
    """The sum over taps of a loss of the student's and the teacher's maps."""
    pairs = zip(student, teacher, strict=True)
    return torch.stack([loss(own, target) for own, target in pairs]).sum()


def with_gradient(own: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """A scalar loss of one map whose gradient was computed beside its value, part by part.

    So what lies between, such as all pairs of positions, is neither kept nor computed twice.
    """
    return value + (own - own.detach()).mul_(gradient).sum(dtype=value.dtype)  # what is added is 0


class FeatureMethod:
    """A method of base(S(x)) + compare(features of S at x, features of T at x).

    ``taps`` are indices of the points above. ``name`` is for messages.
    """

    name: ClassVar[str]
    rec: Weight
    kd: Weight
    taps: Taps
    compare: Callable[[Maps, Maps], Terms]

    def __call__(
        self,
        student: nn.Module,
        teacher: Teacher,
        batch: Batch,
        adapt: Callable[[Maps], Maps] = list,
    ) -> Terms:
        """All terms; ``adapt`` is what the student's maps go through before they are compared."""
        networks = of_one_backbone(self.name, student, teacher.network)
        own, theirs = ([points(network)[i] for i in self.taps] for network in networks)
        output, features = networks[0].features(batch.lr, own)
        targets = teacher.features("lr", theirs)
        terms = self.base(student, teacher, batch, output)
        maps = [adapt([features[tap] for tap in own]), [targets[tap] for tap in theirs]]
        # in float32: they may differ by less than two numbers of bfloat16
        with exact(output.device):
            return terms | self.compare(*([one.float() for one in some] for some in maps))

    def base(self, student: nn.Module, teacher: Teacher, batch: Batch, output: Tensor) -> Terms:
        """The terms of the output S(x), which was computed with the features."""
        return response(output, teacher, batch, self.rec, self.kd)

    def bind(self, student: nn.Module, teacher: nn.Module) -> Any:
        of_one_backbone(self.name, student, teacher)
        return self
