"""The networks: equal to the reference implementations, sized as in Table 1, tapped cleanly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from augkd.errors import UserError
from augkd.models import NETWORKS, SIZES, create_model, load_checkpoint
from augkd.models.swinir import DropPath, SwinLayer, shift_mask
from augkd.models.upscale import SelfEnsemble
from augkd.study.cost.passes import parameters
from tests.golden_networks import CASES, Case

_WINDOWS = {"window_size": 4, "mlp_ratio": 2}
TINY: dict[str, dict[str, Any]] = {
    "edsr": {"channels": 8, "blocks": 2, "res_scale": 0.1},
    "rcan": {"channels": 8, "groups": 2, "blocks": 2, "reduction": 4},
    "swinir": {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], **_WINDOWS},
}

# The reference's own rounding is below 1e-6; 3e-6 still notices SwinIR's normalisation epsilon.
TOLERANCE = {"EDSR": 1e-5, "RCAN": 1e-5, "SwinIR": 3e-6}


def tiny(name: str, scale: int = 2) -> Any:
    torch.manual_seed(3)
    return create_model(name, scale=scale, **TINY[name]).eval()


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# --- equal to the reference -------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=str)
@torch.no_grad()
def test_output_equals_the_reference(case: Case, tmp_path: Path) -> None:
    model, tensors = case.create(), case.tensors()
    load_checkpoint(case.checkpoint(tmp_path), model)
    inputs = [key for key in tensors if key.startswith("input")]
    assert inputs
    for key in inputs:
        expected = tensors[key.replace("input", "output")]
        assert distance(model(tensors[key]), expected) <= TOLERANCE[case.model]


@pytest.mark.parametrize(
    ("name", "suffix", "prefix", "unit"),
    [("edsr_x2_res0p1", "", "feat.", 255), ("swinir_x2", ".a", "feat.a.", 1)],
)
def test_features_equal_the_reference(
    name: str, suffix: str, prefix: str, unit: float, tmp_path: Path
) -> None:
    """To 1e-5 in units of [0, 1] images.

    EDSR's features are sums of up to 1000 on the scale of [0, 255] images, where the reference's
    own float32 is 4e-4 away from its float64; ours is as near. RCAN's are read by the same lines.
    """
    case = CASES[name]
    model, tensors = case.create(), case.tensors()
    load_checkpoint(case.checkpoint(tmp_path), model)
    image = tensors["input" + suffix]
    with torch.no_grad():
        output, features = model.features(image, model.taps)
    assert distance(output, tensors["output" + suffix]) <= TOLERANCE[case.model]
    assert set(features) == set(model.taps)
    for tap, feature in features.items():
        # SwinIR's are stored on the grid padded to whole windows
        expected = tensors[prefix + tap][..., : image.shape[-2], : image.shape[-1]] / unit
        assert feature.shape == expected.shape
        error = (feature / unit - expected).abs()
        assert bool((error <= 1e-5 + 1e-5 * expected.abs()).all()), tap


# --- Table 1 ----------------------------------------------------------------------------------

# Parameters at x2, x3, x4, counted once from the published definitions; then Table 1 of the paper
# at x4, in millions.
TABLE_1 = {
    ("edsr", "teacher"): (40_729_603, 43_680_003, 43_089_923, 43.09),
    ("edsr", "student"): (2_551_555, 2_736_195, 2_699_267, 2.70),
    ("rcan", "teacher"): (15_444_643, 15_629_283, 15_592_355, 15.59),
    ("rcan", "student"): (5_023_603, 5_208_243, 5_171_315, 5.17),
    ("swinir", "teacher"): (11_752_487, 11_937_127, 11_900_199, 11.90),
    ("swinir", "student"): (1_087_727, 1_272_367, 1_235_439, 1.24),
}


@pytest.mark.parametrize(("name", "role"), TABLE_1)
def test_sizes_are_the_papers(name: str, role: str) -> None:
    *counts, millions = TABLE_1[name, role]
    for scale, count in zip((2, 3, 4), counts, strict=True):
        with torch.device("meta"):
            model = create_model(name, role, scale)
        assert parameters(model) == count
    assert round(count / 1e6, 2) == millions


def test_every_network_has_both_roles() -> None:
    assert {(name, role) for name in NETWORKS for role in SIZES[name]} == set(TABLE_1)


# --- the contract of every network --------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
@settings(deadline=None, max_examples=8)
@given(height=st.integers(1, 13), width=st.integers(1, 13))
def test_any_size_at_any_scale(name: str, scale: int, height: int, width: int) -> None:
    model = tiny(name, scale)
    with torch.no_grad():
        output, features = model.features(torch.rand(2, 3, height, width), model.taps)
    assert output.shape == (2, 3, scale * height, scale * width)
    for feature in features.values():
        assert feature.shape == (2, model.channels, height, width)


@pytest.mark.parametrize(
    ("name", "stage"), [("edsr", "block"), ("rcan", "group"), ("swinir", "rstb")]
)
def test_taps_read_and_leave_nothing_behind(name: str, stage: str) -> None:
    model = tiny(name)
    taps = ("first_conv", f"{stage}0", f"{stage}1", "conv_after_body", "after_long_skip")
    assert model.taps == taps
    x = torch.rand(1, 3, 9, 6)
    plain = model(x)

    def state() -> list[Any]:
        """Everything that a module holds, by identity, and its hooks."""
        held = [id(value) for m in model.modules() for value in vars(m).values()]
        return held + [[*m._forward_hooks, *m._forward_pre_hooks] for m in model.modules()]

    before = state()
    assert not any(hooks for hooks in before if isinstance(hooks, list))
    for wanted in (taps, taps[1:3], ()):
        output, features = model.features(x, wanted)
        assert torch.equal(output, plain)
        assert tuple(features) == wanted
    assert state() == before
    with pytest.raises(UserError, match="no tap 'block7': it has first_conv"):
        model.features(x, ["block7"])
    _, features = model.features(x, taps)
    for feature in features.values():  # which carry gradients to the weights
        model.zero_grad()
        feature.square().mean().backward(retain_graph=True)
        assert float(model.conv_first.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vdsr", "role": "student"}, "network 'vdsr' is unknown"),
        ({"name": "rcan", "role": "student", "scale": 5}, "scale 5 is not supported"),
        ({"name": "rcan", "role": "pupil"}, "role 'pupil' is unknown"),
        ({"name": "rcan", "role": "student", "window_size": 8}, "rcan has no size 'window_size'"),
        ({"name": "swinir", "embed_dim": 8}, "needs depths, num_heads, window_size, mlp_ratio"),
        ({"name": "rcan", "role": "student", "channels": 8}, "reduction 16 must be"),
        ({"name": "swinir", "role": "student", "embed_dim": 64}, "64 is not a multiple of 6 heads"),
        ({"name": "swinir", "role": "student", "depths": [6]}, "1 RSTBs and num_heads 4"),
    ],
)
def test_bad_sizes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model(**arguments)


# --- SwinIR -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(13, 9), (5, 8), (3, 2), (1, 6)])
def test_swinir_pads_by_reflection(height: int, width: int) -> None:
    """numpy's ``reflect`` is the independent source; it mirrors on where the image is small."""
    model = tiny("swinir")
    x = torch.rand(1, 3, height, width)
    pads = ((0, 0), (0, 0), (0, -height % 4), (0, -width % 4))
    padded = torch.from_numpy(np.pad(x.numpy(), pads, mode="reflect"))
    assert padded.shape[-2] % 4 == padded.shape[-1] % 4 == 0
    with torch.no_grad():
        expected = model(padded)[..., : 2 * height, : 2 * width]
        assert torch.equal(model(x), expected)


def test_the_shift_mask_of_two_windows_by_hand() -> None:
    """4 x 2 pixels, windows of 2, shift 1: the last row and column come from the other side."""
    mask = shift_mask(4, 2, 2, 1, torch.device("cpu"))
    regions = torch.tensor([[0, 1, 0, 1], [2, 3, 4, 5]])  # one number for each piece of the image
    joined = regions[:, :, None] != regions[:, None]
    assert torch.equal(mask, joined * -100.0)


def test_layers_alternate_and_drop_more_and_more() -> None:
    model = create_model("swinir", scale=2, **{**TINY["swinir"], "depths": [2, 3]})
    layers = [module for module in model.modules() if isinstance(module, SwinLayer)]
    assert [layer.shift for layer in layers] == [0, 2, 0, 2, 0]
    rates = [layer.drop_path.rate for layer in layers]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


def test_drop_path_drops_whole_samples_in_training_and_keeps_the_mean() -> None:
    drop, x = DropPath(0.25), torch.ones(4000, 2, 2, 3)
    torch.manual_seed(0)
    values = drop(x).flatten(1)
    assert bool((values == values[:, :1]).all())
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(values.mean()) == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x
    model = create_model("swinir", scale=2, **TINY["swinir"], drop_path=0.9)
    x = torch.rand(4, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_mask_made_for_inference_serves_training() -> None:
    """A tensor of inference mode may not be saved for a gradient, and the cache outlives it."""
    shift_mask.cache_clear()
    with torch.inference_mode():
        tiny("swinir")(torch.rand(1, 3, 20, 12))
    hits = shift_mask.cache_info().hits
    mask = shift_mask(20, 12, 4, 2, torch.device("cpu"))
    assert shift_mask.cache_info().hits == hits + 1
    assert not mask.is_inference()


# --- self-ensemble ----------------------------------------------------------------------------


def test_self_ensemble_by_hand() -> None:
    """Two of the eight transforms bring each corner to the top left, where one pixel is kept."""

    ensemble = SelfEnsemble(lambda x: x * (torch.arange(24).view(x.shape[-2:]) == 0))
    expected = torch.zeros(1, 3, 4, 6)
    expected[..., ::3, ::5] = 0.25
    assert torch.equal(ensemble(torch.ones(1, 3, 4, 6)), expected)


@given(st.booleans(), st.sampled_from([(), (-1,), (-2,), (-2, -1)]))
@settings(deadline=None)
def test_self_ensemble_commutes_with_every_transform(turn: bool, flips: tuple[int, ...]) -> None:
    ensemble = SelfEnsemble(tiny("edsr", 3))

    def move(x: Tensor) -> Tensor:
        return (x.transpose(-2, -1) if turn else x).flip(flips)

    x = torch.rand(1, 3, 5, 8)
    with torch.no_grad():
        assert distance(ensemble(move(x)), move(ensemble(x))) < 1e-5
