"""Every method: its value by hand, where its gradients go, what it serves and what it refuses."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import FrozenInstanceError, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, l1_loss

from augkd.augment import Invertible, zoom_in, zoom_out
from augkd.data.sampler import Batch
from augkd.degrade import bicubic
from augkd.distill import METHODS, Teacher
from augkd.distill.augkd import AugKD
from augkd.distill.crosskd import crossed
from augkd.distill.csd import CSD, contrast
from augkd.distill.features import points
from augkd.distill.vgg import VGG19, load_vgg19
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model
from tests.imdn import IMDN

WINDOWS = {"window_size": 4, "mlp_ratio": 2.0}
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "edsr": {
        "teacher": {"channels": 8, "blocks": 3, "res_scale": 0.1},
        "student": {"channels": 4, "blocks": 3, "res_scale": 0.1},
    },
    "rcan": {
        "teacher": {"channels": 8, "groups": 3, "blocks": 2, "reduction": 4},
        "student": {"channels": 8, "groups": 3, "blocks": 1, "reduction": 4},
    },
    "swinir": {
        "teacher": {"embed_dim": 12, "depths": (2, 2, 2), "num_heads": (2, 2, 2), **WINDOWS},
        "student": {"embed_dim": 6, "depths": (2, 2), "num_heads": (2, 2), **WINDOWS},
    },
}

# Tables 2, 3 and 10 and Section 4.2; FitNet, AT, RKD and FAKD on SwinIR are this study's addition
EVERYWHERE = {"edsr", "rcan", "swinir"}
APPLIES = dict.fromkeys(METHODS, EVERYWHERE) | {
    "csd": {"edsr"},
    "sliced_init": {"edsr"},
    "crosskd": {"rcan"},  # on edsr the widths differ
}
NEEDS_FEATURES = ["fitnet", "at", "rkd", "fakd", "fakd_augkd", "csd", "sliced_init", "crosskd"]


def network(backbone: str, role: str, **changes: Any) -> SRNetwork:
    torch.manual_seed(("teacher", "student").index(role))
    return create_model(backbone, **{"scale": 2, **SIZES[backbone][role], **changes})


def random_batch(n: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(7)
    hr = torch.rand(n, 3, 16, 16, generator=generator)
    lr = zoom_out(hr, 2)
    crops = zoom_in(hr, 8, torch.randint(0, 9, (n, 2), generator=generator))
    flags = torch.rand(n, 4, generator=generator) < 0.5
    return Batch(lr, hr, crops, zoom_out(lr, 2), Invertible(flags), seed=0)


def trio(backbone: str = "edsr") -> tuple[SRNetwork, SRNetwork, Batch]:
    """Student, teacher and batch."""
    return network(backbone, "student"), network(backbone, "teacher"), random_batch()


def flat_batch(flags: Sequence[bool] = (False,) * 4, n: int = 3) -> Batch:
    """x = 0.5, y = z_i = 0.75, z_o = 0.25 everywhere; F the same for all images."""

    def flat(value: float, side: int) -> Tensor:
        return torch.full((n, 3, side, side), value)

    transform = Invertible(torch.tensor([list(flags)] * n))
    return Batch(flat(0.5, 4), flat(0.75, 8), flat(0.75, 4), flat(0.25, 2), transform, seed=0)


class Gain(SRNetwork):
    """Repeats every pixel and multiplies it: S(x) = gain * x. Its features are given."""

    name, stage, stages, scale = "edsr", "block", 1, 2

    def __init__(self, gain: float, features: Tensor = torch.zeros(1, 1, 1, 1)) -> None:  # noqa: B008
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.given, self.channels = features, features.shape[1]

    def body_features(self, x: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return x, dict.fromkeys(taps, self.given)

    def enlarge(self, y: Tensor, height: int, width: int) -> Tensor:
        return self.gain * interpolate(y, scale_factor=2)


def bound(name: str, student: SRNetwork, teacher: nn.Module, **chosen: Any) -> Any:
    method: Any = TypeAdapter(METHODS[name]).validate_python(chosen)  # as params.yaml is read
    return method.bind(student, teacher) if hasattr(method, "bind") else method


def values(method: Any, student: SRNetwork, teacher: SRNetwork, batch: Batch) -> dict[str, float]:
    terms = method(student, Teacher(teacher).see(batch), batch)
    return {name: term.item() for name, term in terms.items()}


def train(
    method: Any, student: SRNetwork, teacher: Teacher, batch: Batch, rate: float, steps: int = 1
) -> None:
    """The training loop's contract in a few lines, with plain gradient descent."""
    modules: list[nn.Module] = [student] if getattr(method, "trains_student", True) else []
    modules += [method] if isinstance(method, nn.Module) else []
    parameters = [p for module in modules for p in module.parameters()]
    for _ in range(steps):
        optimiser = torch.optim.SGD(parameters, rate)
        optimiser.zero_grad()
        result = method(student, teacher.see(batch), batch)
        for terms in [result] if isinstance(result, dict) else result:
            torch.autograd.backward(list(terms.values()))
            optimiser.step()


# --- values by hand: S(x) = 0.8 x and T(x) = 1.2 x on flat images ---------------------------------

BASE = {"rec": 0.35, "kd": 0.2 * 0.2}


@pytest.mark.parametrize(
    ("name", "chosen", "expected"),
    [
        # |0.4 - 0.75| and |0.4 - 0.6|
        ("scratch", {}, {"rec": 0.35}),
        ("scratch", {"rec": 2}, {"rec": 0.7}),
        ("kd", {}, BASE),
        ("kd", {"kd": 1}, {"rec": 0.35, "kd": 0.2}),
        ("dfkd", {}, {"kd": 0.2}),
        # zoom-in |0.6 - 0.9|; zoom-out |0.2 - 0.3| against T and |0.2 - 0.5| against x
        ("augkd", {}, BASE | {"zoom_in": 0.06, "zoom_out": 0.02, "zoom_rec": 0.3}),
        ("augkd", {"zoom_in": False, "zoom_rec": 0}, BASE | {"zoom_out": 0.02}),
        ("augkd", {"zoom_out": False, "aug": 1}, BASE | {"zoom_in": 0.3}),
        ("augkd", {"kd": 0, "aug": 0, "zoom_in": False}, {"rec": 0.35, "zoom_rec": 0.3}),
    ],
)
def test_plain_values(name: str, chosen: dict[str, Any], expected: dict[str, float]) -> None:
    method = bound(name, Gain(0.8), Gain(1.2), **chosen)
    assert values(method, Gain(0.8), Gain(1.2), flat_batch()) == pytest.approx(expected)


def test_colours_are_inverted_where_consistency_says_so() -> None:
    inverted = flat_batch((True, False, False, False))
    # 1 - 0.8 (1 - v): zoom-in 0.8 against 0.9; x 0.6 against 0.6; zoom-out 0.4 against 0.3
    on_zoom_in = values(AugKD(), Gain(0.8), Gain(1.2), inverted)
    assert on_zoom_in["zoom_in"] == pytest.approx(0.2 * 0.1)
    assert on_zoom_in["kd"] == pytest.approx(0.04)
    everywhere = AugKD(consistency=("lr", "zoom_in", "zoom_out"))
    expected = {"rec": 0.35, "kd": 0, "zoom_in": 0.02, "zoom_out": 0.02, "zoom_rec": 0.1}
    found = values(everywhere, Gain(0.8), Gain(1.2), inverted)
    assert found == pytest.approx(expected, abs=1e-7)
    off = values(AugKD(consistency=()), Gain(0.8), Gain(1.2), inverted)
    assert off["zoom_in"] == pytest.approx(0.06)


# three images, two channels, two positions: (3, 4) and (0, 1), of mean squares 12.5 and 0.5
PAIR = torch.tensor([[[[3.0, 0.0]], [[4.0, 1.0]]]]).expand(3, -1, -1, -1)
FIRST = torch.tensor([1.0, 0.0]).expand(3, 1, 1, 2)
CORNER = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).view(3, 2, 1, 1)
LINE = torch.tensor([[0.0], [1.0], [2.0]]).view(3, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "term", "expected"),
    [
        # identity at equal widths: (1 - 2)^2 / 2^2
        ("fitnet", torch.ones(3, 2, 2, 2), 2 * torch.ones(3, 2, 2, 2), "hint", 100 / 255 * 0.25),
        # unit maps (12.5, 0.5) / 12.51 and (1, 0): mean 1 - 12.5 / 12.51, at three taps
        ("at", PAIR, FIRST, "attention", 1000 / 255 * 3 * (1 - 12.5 / 156.5**0.5)),
        # distances 3, 4, 5 of mean 4, and 1, 2, 1 of mean 4/3: they differ by 0, 0.5 and 0.5
        ("rkd", CORNER, LINE, "distance", 25 / 255 * (2 * 0.5 * (0.25 + 0.25) / 9)),
        # cosines 0, 3/5, 4/5 against 1, -1, 1: differences 1, 8/5, 1/5, each at two of 27
        ("rkd", CORNER, LINE, "angle", 50 / 255 * (2 * (0.5 + 1.1 + 0.02) / 27)),
        # the cosine of (3, 4) and (0, 1) is 0.8, of (1, 1) 1: |0.8 - 1| at two of four, three taps
        ("fakd", PAIR, torch.ones(3, 1, 1, 2), "affinity", 10 / 255 * 3 * 0.1),
        ("fakd_augkd", PAIR, torch.ones(3, 1, 1, 2), "affinity", 10 / 255 * 3 * 0.1),
    ],
)
def test_feature_values(
    name: str, student: Tensor, teacher: Tensor, term: str, expected: float
) -> None:
    own, theirs = Gain(0.8, student), Gain(1.2, teacher)
    terms = values(bound(name, own, theirs), own, theirs, flat_batch())
    assert terms[term] == pytest.approx(expected, rel=1e-5)
    base = {"fakd": {"rec": 0.175, "kd": 0.1}, "fakd_augkd": BASE}.get(name, {"rec": 0.35, "kd": 0})
    assert {key: terms.get(key, 0) for key in ("rec", "kd")} == pytest.approx(base)
    assert ("zoom_in" in terms) == (name == "fakd_augkd")


def sliced(teacher: nn.Module, student: SRNetwork) -> SRNetwork:
    """The teacher's first channels, cut by hand for EDSR x2 of widths 8 and 4."""
    cut = deepcopy(student)
    weights = {}
    for name, weight in teacher.state_dict().items():
        rows = {"upsample": 16, "conv_last": 3}.get(name.split(".")[0], 4)
        weights[name] = weight[:rows] if weight.ndim == 1 else weight[:rows, :4]
        if name == "conv_first.weight":
            weights[name] = weight[:4]
    cut.load_state_dict(weights)
    return cut


def test_csd_by_its_parts() -> None:
    """The contrast pulls the student, and not the channels that are the teacher's alone."""
    student, teacher, batch = trio()
    method = bound("csd", student, teacher, negatives=3)
    terms = method(student, Teacher(teacher).see(batch), batch)
    head = method.shared.get_parameter("conv_first.weight")
    (gradient,) = torch.autograd.grad(terms["contrast"], head, retain_graph=True)
    assert gradient[:4].abs().sum() > 0
    assert not gradient[4:].any()
    terms = {name: term.item() for name, term in terms.items()}
    small, large = sliced(teacher, student)(batch.lr), teacher(batch.lr)
    assert terms["rec"] == pytest.approx(l1_loss(small, batch.hr).item())
    assert terms["teacher"] == pytest.approx(l1_loss(large, batch.hr).item())
    levels = [
        list(teacher.features(image[..., 4:12, 4:12], points(teacher))[1].values())
        for image in (small, large, bicubic(batch.lr[:3], 2, up=True))
    ]
    expected = 200 / 255 * contrast(*levels).item()
    assert terms["contrast"] == pytest.approx(expected, rel=1e-5)


def test_csd_trains_the_teacher_and_hands_out_its_slice() -> None:
    student, frozen, batch = trio()
    before = deepcopy(student.state_dict())
    method = bound("csd", student, frozen)
    assert method.trains_student is False
    train(method, student, Teacher(frozen), batch, rate=1e-6, steps=2)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    method.sync(student)
    assert not torch.equal(before["conv_first.weight"], student.state_dict()["conv_first.weight"])
    expected = sliced(method.shared, student)
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_sliced_init_overwrites_the_student_and_is_scratch_after_that() -> None:
    student, teacher, batch = trio()
    method = bound("sliced_init", student, teacher)
    own, cut = student.state_dict(), sliced(teacher, student).state_dict()
    torch.testing.assert_close(own, cut, rtol=0, atol=0)
    expected = l1_loss(student(batch.lr), batch.hr).item()
    assert values(method, student, teacher, batch) == {"rec": pytest.approx(expected)}


@pytest.mark.parametrize("backbone", ["edsr", "rcan"])
def test_crossed_networks_are_the_halves_put_together(backbone: str) -> None:
    wider: dict[str, Any] = {"channels": 8, "blocks": 5} if backbone == "edsr" else {}
    first: Any = network(backbone, "student", **wider)
    second: Any = network(backbone, "teacher")
    x = random_batch().lr
    shift = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)  # DIV2K's
    head = first.conv_first((x - shift) * 255)
    y = head
    for stage in list(first.body)[: len(first.body) // 2] + list(second.body)[1:]:
        y = stage(y)
    y = second.conv_last(second.upsample(second.conv_after_body(y) + head)) / 255 + shift
    torch.testing.assert_close(crossed(first, second, x), y)


def test_crosskd_counts_both_cascades() -> None:
    student, teacher, batch = trio("rcan")
    terms = values(bound("crosskd", student, teacher, cross=2.0), student, teacher, batch)
    pairs: list[tuple[Any, Any]] = [(student, teacher), (teacher, student)]
    cascades = [crossed(*pair, batch.lr) for pair in pairs]
    losses = [l1_loss(y, batch.hr).item() for y in (student(batch.lr), *cascades)]
    expected = {
        "rec": losses[0],
        "student_teacher": 2 * losses[1],
        "teacher_student": 2 * losses[2],
    }
    assert terms == pytest.approx(expected)


# --- controls ---------------------------------------------------------------------------------


def test_released_inverse_is_wrong_where_a_transposition_meets_one_flip() -> None:
    for flags in product([False, True], repeat=4):
        batch = replace(random_batch(), transform=Invertible(torch.tensor([flags] * 4)))
        methods = AugKD(), AugKD(inverse="released")
        exact, released = (values(m, Gain(1.0), Gain(1.0), batch)["zoom_in"] for m in methods)
        assert exact < 1e-6  # repeating pixels commutes with F
        assert (released > 1e-2) == (flags[3] and flags[1] != flags[2])


@pytest.mark.parametrize(
    ("name", "second"), [("kd", 1 + 0.2), ("augkd", 0.2 * 0.75 / 0.5 + 0.2 * 0.5 + 1 * 0.5)]
)
def test_two_updates_apply_the_first_gradient_twice(name: str, second: float) -> None:
    # every S(v) = g v is below its target, so that each term falls by v a unit of g: the gradient
    # of rec + 0.2 kd is -1.2 * 0.5, that of the second group -second * 0.5
    student = Gain(0.8)
    method = METHODS[name](updates=2)
    train(method, student, Teacher(Gain(1.2)), flat_batch(), rate=0.01)
    assert student.gain.item() == pytest.approx(0.8 + 0.01 * 0.5 * (1.2 + 1.2 + second))


def test_the_second_update_sees_the_weights_of_the_first() -> None:
    student, batch = Gain(0.8), flat_batch()
    groups = METHODS["kd"](updates=2)(student, Teacher(Gain(1.2)).see(batch), batch)
    first = next(groups)
    with torch.no_grad():
        student.gain.fill_(1.0)
    assert first["rec"].item() == pytest.approx(0.35)
    assert next(groups)["rec"].item() == pytest.approx(0.25)
    assert next(groups, None) is None


def test_zoom_out_with_the_truth_alone_never_asks_the_teacher() -> None:
    class Unasked(Gain):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the teacher was asked")

    method = AugKD(kd=0, aug=0, zoom_in=False)
    assert values(method, Gain(0.8), Unasked(1.2), flat_batch()).keys() == {"rec", "zoom_rec"}


def test_detached_fakd_has_the_value_and_not_the_gradient() -> None:
    student, teacher, batch = trio()
    methods = (bound("fakd", student, teacher, detach=detach) for detach in (False, True))
    live, detached = (method(student, Teacher(teacher).see(batch), batch) for method in methods)
    torch.testing.assert_close(detached["affinity"], live["affinity"].detach())
    assert live["affinity"].requires_grad
    assert not detached["affinity"].requires_grad
    sum(detached.values()).backward()


# --- gradients and equality -------------------------------------------------------------------


@pytest.mark.parametrize("backbone", sorted(EVERYWHERE))
@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_what_is_trained_and_nothing_else(name: str, backbone: str) -> None:
    student, frozen, batch = trio(backbone)
    if backbone not in APPLIES[name]:
        with pytest.raises(UserError, match=f"method '{name}'"):
            bound(name, student, frozen)
        return
    assert set(points(student)) <= set(student.taps)
    weights = deepcopy(frozen.state_dict())
    method = bound(name, student, frozen)
    terms = method(student, Teacher(frozen).see(batch), batch)
    own = list(student.parameters()) if getattr(method, "trains_student", True) else []
    extra = list(method.parameters()) if isinstance(method, nn.Module) else []
    assert all(p.requires_grad for p in own + extra)
    for key, term in terms.items():
        moved = torch.autograd.grad(term, own + extra, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in moved), f"{key} moves nothing"
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own + extra)
    others = [*frozen.parameters(), *(() if own else student.parameters())]
    assert all(p.grad is None for p in others)
    torch.testing.assert_close(frozen.state_dict(), weights, rtol=0, atol=0)


# the options with which, and the terms of which, an equal teacher has nothing to teach
EQUAL: dict[str, tuple[dict[str, Any], set[str]]] = {
    "kd": ({}, {"kd"}),
    "dfkd": ({}, {"kd"}),
    "fitnet": ({}, {"hint"}),
    "at": ({}, {"attention"}),
    "rkd": ({}, {"distance", "angle"}),
    "fakd": ({}, {"kd", "affinity"}),
    "csd": ({}, {"contrast"}),
    "crosskd": ({"target": "teacher"}, {"student_teacher", "teacher_student"}),
    "augkd": ({"consistency": ()}, {"kd", "zoom_in", "zoom_out"}),
    "fakd_augkd": ({"augkd": {"consistency": ()}}, {"kd", "zoom_in", "zoom_out", "affinity"}),
}


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"scratch", "sliced_init"}))
def test_nothing_to_distil_from_an_equal_teacher(name: str) -> None:
    teacher, batch = network("edsr", "teacher"), random_batch()
    student, (chosen, vanishing) = deepcopy(teacher), EQUAL[name]
    method = bound(name, student, teacher, **chosen)
    terms = method(student, Teacher(teacher).see(batch), batch)
    assert {key for key, term in terms.items() if term.item() < 1e-7} == vanishing
    sum(terms.values()).backward()
    trained = method if name == "csd" else student
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.parameters())


# --- refusals ---------------------------------------------------------------------------------


EDSR, SLICE = network("edsr", "teacher"), "as many blocks as the teacher"


@pytest.mark.parametrize(
    ("names", "changes", "teacher", "chosen", "message"),
    [
        (NEEDS_FEATURES, {}, IMDN(2), {}, "'{}' reads the teacher's feature maps, and IMDN"),
        (NEEDS_FEATURES, {}, network("rcan", "teacher"), {}, "one backbone, not rcan and edsr"),
        (["csd", "sliced_init"], {"blocks": 2}, EDSR, {}, SLICE),
        (["csd", "sliced_init"], {"channels": 9}, EDSR, {}, SLICE),
        (["csd", "sliced_init"], {"scale": 3}, EDSR, {}, SLICE),
        (["crosskd"], {}, EDSR, {}, "of one width, not edsr of 8 and 4"),
        (["fakd_augkd"], {}, EDSR, {"augkd": {"updates": 2}}, r"augkd\.updates is 2"),
    ],
)
def test_pairs_that_a_method_cannot_serve(
    names: list[str], changes: Any, teacher: nn.Module, chosen: Any, message: str
) -> None:
    student = network("edsr", "student", **changes)
    for name in names:
        with pytest.raises(UserError, match=message.format(name)):
            bound(name, student, teacher, **chosen)


def test_the_others_have_no_demands() -> None:
    assert {name for name in METHODS if hasattr(METHODS[name], "bind")} == set(NEEDS_FEATURES)
    """test_own_loop trains without them between any two networks."""


def test_rkd_refuses_batches_without_triples() -> None:
    student, teacher, _ = trio()
    with pytest.raises(UserError, match="batch is 2"):
        values(bound("rkd", student, teacher), student, teacher, random_batch(2))


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("kd", {"weight": 1}, "weight"),
        ("kd", {"kd": -1}, "kd: expected a finite number, at least 0, not -1"),
        ("kd", {"kd": float("inf")}, "kd: expected a finite number, at least 0, not inf"),
        ("kd", {"rec": float("nan")}, "rec: expected a finite number, at least 0, not nan"),
        ("kd", {"updates": 3}, "updates"),
        ("kd", {"kd": "much"}, "kd"),
        ("at", {"taps": ()}, "taps: expected one or more of the points 0 to 3"),
        ("fakd", {"taps": (4,)}, "taps: expected one or more of the points 0 to 3"),
        ("csd", {"negatives": 0}, "negatives: expected a whole number, at least 1, not 0"),
        ("augkd", {"consistency": ("hr",)}, "consistency"),
        ("augkd", {"probability": 1.1}, r"probability: expected a number from 0 to 1, not 1\.1"),
        ("fakd_augkd", {"augkd": {"unknown": 1}}, "unknown"),
    ],
)
def test_options_refuse_unknown_keys_and_values(
    name: str, chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(METHODS[name]).validate_python(chosen)
    if name != "fakd_augkd" and chosen.get("kd") != "much":  # types are pydantic's alone
        with pytest.raises((ValueError, TypeError), match=message):
            METHODS[name](**chosen)


def test_options_are_frozen_and_compared() -> None:
    read: Any = TypeAdapter(METHODS["at"]).validate_python({"rec": 2, "taps": [1, 2]})
    assert read == METHODS["at"](rec=2.0, taps=(1, 2))
    with pytest.raises(FrozenInstanceError):
        read.rec = 1.0
    assert AugKD(probability=None) == AugKD()


# --- taps and VGG -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "count", "expected"),
    [
        ("block", 32, ("block10", "block21")),  # of 32, as FAKD's released code
        ("block", 1, ("block0", "block0")),
        ("group", 10, ("group2", "group6")),  # as released
        ("group", 3, ("group0", "group1")),
        ("rstb", 6, ("rstb2", "rstb4")),
        ("rstb", 4, ("rstb1", "rstb2")),
    ],
)
def test_points(stage: str, count: int, expected: tuple[str, str]) -> None:
    model = Gain(1.0)
    model.name = {"block": "edsr", "group": "rcan", "rstb": "swinir"}[stage]
    model.stage, model.stages = stage, count
    assert points(model) == ("first_conv", *expected, "after_long_skip")


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    torch.manual_seed(3)
    return VGG19()


def test_vgg19_levels(vgg: VGG19) -> None:
    x = torch.rand(1, 3, 32, 32)
    levels = vgg(x)
    shapes = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]
    assert [tuple(f.shape) for f in levels] == [(1, c, s, s) for c, s in shapes]
    weights = vgg.state_dict()
    first = conv2d(x, weights["features.0.weight"], weights["features.0.bias"], padding=1)
    torch.testing.assert_close(levels[0], first.relu())
    # 20,024,384 of VGG19's sixteen convolutions less the three of 2,359,808 that follow 5_1
    assert sum(p.numel() for p in vgg.parameters()) == 20_024_384 - 3 * 2_359_808
    # torchvision's numbers of conv1_1, 2_1, 3_1, 4_1 and 5_1
    assert all(f"features.{i}.weight" in weights for i in (0, 5, 10, 19, 28))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_csd_on_vgg19(vgg: VGG19, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"vgg19.{suffix}"
    later = {"features.30.weight": torch.zeros(1), "classifier.0.bias": torch.zeros(1)}
    (torch.save if suffix == "pth" else save_file)(vgg.state_dict() | later, path)
    student, teacher, batch = trio()
    method: Any = CSD(vgg=path).bind(student, teacher)
    assert not any(key.startswith(("_vgg", "vgg")) for key in method.state_dict())
    terms = method(student, Teacher(teacher).see(batch), batch)
    images = sliced(teacher, student)(batch.lr), teacher(batch.lr), bicubic(batch.lr, 2, up=True)
    expected = contrast(*(vgg(255 * image) for image in images))
    assert terms["contrast"].item() == pytest.approx(200 / 255 * expected.item(), rel=1e-4)
    terms["contrast"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_a_file_that_is_no_vgg19_is_refused(tmp_path: Path) -> None:
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "vgg8.pth")
    torch.save({"features.2.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "other.pth")
    for name, message in {
        "none.pth": "no such checkpoint",
        "text.pth": "is neither a safetensors nor",
        "text.safetensors": "is neither a safetensors nor",
        "vgg8.pth": r"'features\.0\.weight' is \(8, 3, 3, 3\), expected \(64, 3, 3, 3\)",
        "other.pth": r"not a checkpoint of this VGG19: 'features\.0\.weight' is absent",
    }.items():
        whole = f"^{tmp_path / name}: .*{message}.*torchvision's vgg19"
        with pytest.raises(UserError, match=whole):
            load_vgg19(tmp_path / name)
