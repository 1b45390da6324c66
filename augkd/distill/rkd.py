"""Relational knowledge distillation (Park et al., CVPR 2019), adapted: Tables 2 and 3."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, smooth_l1_loss

from augkd.distill.features import FeatureMatching, Taps, response_base
from augkd.distill.options import Terms, Weight, options
from augkd.errors import UserError


def _relative_distances(embedding: Tensor) -> Tensor:
    """Euclidean distances (N, N) in units of their mean over distinct pairs."""
    # differences, not a Gram matrix: exact zeros on the diagonal, with a gradient of zero
    distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    distinct = distance > 0
    mean = distance.sum() / distinct.sum().clamp(min=1)
    return distance / mean.clamp(min=1e-12)


def _cosines(embedding: Tensor) -> Tensor:
    """(N, N, N): at [i, j, k] the cosine of the angle at i between j and k."""
    direction = normalize(embedding[None, :] - embedding[:, None], dim=2)
    return direction @ direction.mT


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the relative distances within two sets of embeddings (N, D)."""
    return smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the angles of all triples of two sets of embeddings (N, D)."""
    return smooth_l1_loss(_cosines(student), _cosines(teacher))


@options
class RKD:
    """rec * L_rec + kd * L_kd + distance * L_RKD-D + angle * L_RKD-A, between images of a batch.

    Both compare ratios and angles, and so are free of the features' scale and width.

    Taps: point 3, averaged over positions to one embedding (N, C) an image, as the classifiers'
    zoos embed (and 2304 times smaller than the flattened map).

    Weights: the zoo (RepDistiller) has 25 and 50 beside a cross-entropy of order one, and no
    L_kd. The L1 of [0, 255] images is of that order, ours is 255 times smaller:
    25 / 255 = 0.098 and 50 / 255 = 0.196.

    Left open by the paper: what is embedded (image, patch or position), tap and weights.
    """

    rec: Weight = 1.0
    kd: Weight = 0.0
    distance: Weight = 25 / 255
    angle: Weight = 50 / 255
    taps: Taps = (3,)

    def compare(self, student: list[Tensor], teacher: list[Tensor]) -> Terms:
        if len(student[0]) < 3:
            raise UserError(
                "method 'rkd' compares triples of images within a batch: batch is "
                f"{len(student[0])}, expected at least 3"
            )
        pairs = [
            (own.mean((2, 3)), target.mean((2, 3)))
            for own, target in zip(student, teacher, strict=True)
        ]
        distances = [rkd_distance(*pair) for pair in pairs]
        angles = [rkd_angle(*pair) for pair in pairs]
        return {
            "distance": self.distance * torch.stack(distances).sum(),
            "angle": self.angle * torch.stack(angles).sum(),
        }

    def bind(self, student: nn.Module, teacher: nn.Module) -> nn.Module:
        base = response_base(self.rec, self.kd)
        return FeatureMatching("rkd", student, teacher, self.taps, self.compare, base)
