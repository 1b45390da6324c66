"""Tiles change nothing, for networks whose reach is known; the others say so."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from augkd.models import SRNetwork, create_model
from augkd.models import upscale as upscale_module
from augkd.models.upscale import cuts, fitting_tile, reach, upscale, working_set
from tests.test_models import TINY


@lru_cache
def network(name: str, scale: int) -> SRNetwork:
    """A tiny network with lively weights, so that what lies far away shows; outputs about 0.3."""
    lively: dict[str, dict[str, Any]] = {"edsr": {"res_scale": 1.0}, "swinir": {"depths": (2, 1)}}
    sizes = TINY[name] | lively.get(name, {})
    torch.manual_seed(1)
    model = create_model(name, scale=scale, **sizes).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=p[0].numel() ** -0.5 if p.ndim == 4 else 0.3)
    return model


def image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["edsr", "swinir"])
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile=st.integers(1, 40),
    scale=st.sampled_from([2, 3, 4]),
)
@settings(max_examples=25, deadline=None)
def test_tiles_change_nothing(name: str, height: int, width: int, tile: int, scale: int) -> None:
    model, lr = network(name, scale), image(height, width)
    tile = max(tile, height // 6, width // 6)  # a few tiles, not hundreds
    whole = upscale(model, lr)
    assert whole.shape == (3, scale * height, scale * width)
    assert (upscale(model, lr, tile) - whole).abs().max() <= 1e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["edsr", "swinir"])
def test_the_reach_is_enough_and_no_more(name: str, scale: int) -> None:
    """A missing pixel spreads as far as is claimed: to the last grid step before the halo's end."""
    model = network(name, scale)
    exact, grid = reach(model) or (0, 0)
    halo = -(-exact // grid) * grid
    lr = image(4 * grid, 3 * halo // grid * grid + 16)
    whole = upscale(model, lr)
    assert (upscale(model, lr, grid, halo) - whole).abs().max() <= 1e-5
    assert (upscale(model, lr, grid, halo - grid) - whole).abs().max() > 1e-5


def test_reaches_of_the_papers_networks() -> None:
    with torch.device("meta"):
        assert reach(create_model("edsr", "student", 4)) == (68, 1)
        assert reach(create_model("rcan", "student", 4)) is None
    # One RSTB of two layers with windows of 8: 1 pixel (convolution) -> 8 (window) -> 12 (shifted
    # window) -> 13 (convolution), then 4 convolutions to the output.
    sizes: dict[str, Any] = {"embed_dim": 8, "num_heads": (2,), "window_size": 8, "mlp_ratio": 2.0}
    assert reach(create_model("swinir", scale=4, depths=(2,), **sizes)) == (17, 8)


@pytest.mark.parametrize("name", ["edsr", "swinir"])
def test_self_ensemble_is_tiled_after_turning(name: str) -> None:
    """Windows lie elsewhere in a flipped image whose sides are no multiples of the window."""
    model, lr = network(name, 2), (image(45, 58) * 255).to(torch.uint8)
    assert torch.equal(upscale(model, lr), upscale(model, lr.float() / 255))  # the same image
    single, whole = upscale(model, lr), upscale(model, lr, self_ensemble=True)
    assert (upscale(model, lr, 16, self_ensemble=True) - whole).abs().max() <= 1e-5
    assert (whole - single).abs().max() > 1e-3
    assert single.dtype == torch.float32


@given(st.integers(1, 300), st.integers(1, 90), st.integers(0, 90))
def test_cuts_cover_an_axis_once(length: int, tile: int, halo: int) -> None:
    found = cuts(length, tile, halo)
    assert [i for start, end in found for i in range(start, end)] == list(range(length))
    assert all(start % tile == 0 for start, _ in found)
    assert len(found) == 1 or halo < length


def test_a_network_that_sees_the_whole_image_needs_a_halo_from_the_caller() -> None:
    model, lr = network("rcan", 2), image(40, 40)
    wrong: dict[str, Any] = {"rcan sees the whole": (8,), "tile >= 1": (0, 8)}
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            upscale(model, lr, *arguments)
    whole, tiles = upscale(model, lr), upscale(model, lr, 8, 8)
    assert tiles.shape == whole.shape
    assert (tiles - whole).abs().max() > 1e-6  # why exactness is not promised


def test_a_layer_of_another_kind_voids_the_reach() -> None:
    class Pooled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input - input.mean((2, 3), keepdim=True))

    model = create_model("edsr", scale=2, channels=4, blocks=1, res_scale=1.0)
    assert reach(model) == (6, 1)
    model.conv_after_body = Pooled(4, 4, 3, padding=1)
    assert reach(model) is None


def test_tiles_are_cut_when_a_pass_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU also where it would be slow, but never so small that most of them is halo."""
    model, free = network("edsr", 2), working_set(network("edsr", 2), 9000, 9000)
    assert fitting_tile(model, 100, 100) is None
    halo = 8  # conv_first, two blocks, three more
    for most, reused, side, tile in [
        (free, (99, 100), 100, 128),
        (free, (500, 500), 600, 500 - 2 * halo),
        (free, (90, 90), 600, 128),
        (working_set(model, 300, 300), (500, 500), 600, 300 - 2 * halo),
    ]:
        monkeypatch.setattr(upscale_module, "WORKING_SET", most)
        monkeypatch.setattr(upscale_module, "REUSED", working_set(model, *reused))
        assert fitting_tile(model, side, side) == tile
    deep = create_model("edsr", scale=2, channels=4, blocks=20, res_scale=1.0)
    for device, tile in (("cpu", 12 * 44), ("meta", 1024 - 2 * 44)):
        monkeypatch.undo()
        assert fitting_tile(deep.to(device), 2000, 2000) == tile
