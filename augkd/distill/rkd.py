"""Relational knowledge distillation (Park et al., CVPR 2019), adapted: Tables 2 and 3."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from augkd.distill.features import FeatureMethod, Maps, Taps, over_taps
from augkd.distill.teacher import Terms
from augkd.errors import UserError
from augkd.options import Weight, options


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
class RKD(FeatureMethod):
    """rec * L_rec + kd * L_kd + distance * L_RKD-D + angle * L_RKD-A, between images of a batch.

    Both compare ratios and angles, and so are free of the features' scale and width.

    Taps: point 3, averaged over positions to one embedding (N, C) an image, as the classifiers'
    zoos embed (and 2304 times smaller than the flattened map).

    Weights: the zoo has 25 and 50, here 25 / 255 = 0.098 and 50 / 255 = 0.196 (see features.py).

    Left open by the paper: what is embedded (image, patch or position), tap and weights.
    """

    name: ClassVar[str] = "rkd"
    rec: Weight = 1.0
    kd: Weight = 0.0
    distance: Weight = 25 / 255
    angle: Weight = 50 / 255
    taps: Taps = (3,)

    def compare(self, student: Maps, teacher: Maps) -> Terms:
        if (batch := len(student[0])) < 3:
            problem = f"batch is {batch}, expected at least 3"
            raise UserError(f"method 'rkd' compares triples of images within a batch: {problem}")
        own, theirs = ([each.mean((2, 3)) for each in maps] for maps in (student, teacher))
        distance, angle = (over_taps(loss, own, theirs) for loss in (rkd_distance, rkd_angle))
        return {"distance": self.distance * distance, "angle": self.angle * angle}
