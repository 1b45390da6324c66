"""DAQ: against the released quantisers, and as part of a network that trains."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from augkd.errors import UserError
from augkd.models import create_model
from augkd.models.network import SRNetwork
from augkd.models.quantize import DAQ, QuantizedConv2d, quantize
from tests.numeric_data import golden

VALUES = golden("daq")
MODES: dict[str, Any] = {"table": "behind", "fixed": "fixed"}


@pytest.mark.parametrize("key", sorted(k for k in VALUES if not k.endswith("input")))
def test_equals_the_released_quantisers(key: str) -> None:
    """Levels are far more than 1e-5 apart, so that none may differ."""
    kind, mode, bits, *sigma = key.split(".")
    sigma_bits = int(sigma[0].removeprefix("qq")) if sigma else 32
    widths = int(bits.removeprefix("bits")), None if sigma_bits == 32 else sigma_bits
    daq = DAQ(*widths, step=MODES[mode], released_range=True)
    x = VALUES[f"{kind}.input"]
    ours = daq.weights(x) if kind == "weight" else daq.activations(x, kind.endswith("postrelu"))
    tolerance = 2e-6 if kind == "weight" else 1e-5
    torch.testing.assert_close(ours, VALUES[key], atol=tolerance, rtol=0)


def test_constant_channels() -> None:
    """0.5 in channel 1 of image 0 becomes 0.995 when sigma is quantised as released."""
    cases = ((4, True, 0.99508571), (None, True, 0.5), (4, False, 0.5))
    for sigma_bits, released, expected in cases:
        daq = DAQ(2, sigma_bits, "behind", released)
        channel = daq.activations(VALUES["edge_signed.input"], positive=False)[0, 1]
        torch.testing.assert_close(channel, torch.full_like(channel, expected), atol=1e-6, rtol=0)
    dead = DAQ(2).activations(VALUES["edge_postrelu.input"], positive=True)[0, 2]
    assert float(dead.abs().max()) == 0


def _levels(x: Tensor) -> int:
    return len(np.unique(x.numpy()))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_number_of_levels(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(2, 5, 64, 64, generator=generator)
    for positive, value in ((False, x), (True, x.relu())):
        result = DAQ(bits).activations(value, positive)
        counts = [_levels(channel) for image in result for channel in image]
        assert max(counts) == 2**bits
        # without the clip the tail of a half-normal needs more
        free = DAQ(bits, released_range=True).activations(value, positive)
        most = max(_levels(channel) for image in free for channel in image)
        assert most > 2**bits if positive else most == 2**bits
    assert _levels(DAQ(bits).weights(x)) == 2**bits


def test_levels_of_a_worked_case() -> None:
    """Weights 1, -1, 3, -3: sigma = sqrt(20 / 3), step 0.996 sigma = 2.5717 at 2 bits."""
    step = 0.996 * (20 / 3) ** 0.5
    result = DAQ(2).weights(torch.tensor([1.0, -1.0, 3.0, -3.0])) / step
    assert result.tolist() == pytest.approx([0.5, -0.5, 1.5, -1.5])


@pytest.mark.parametrize(("bits", "smallest"), [(2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_the_step_suits_a_gaussian(bits: int, smallest: float) -> None:
    """Mean squared error of the best uniform quantiser of a normal: Max (1960), Table 2."""
    quantiles = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    error = float((DAQ(bits).weights(quantiles) - quantiles).square().mean())
    assert error == pytest.approx(smallest, rel=5e-3)
    behind = float((DAQ(bits, step="behind").weights(quantiles) - quantiles).square().mean())
    assert behind > 1.3 * smallest


def test_gradient_is_the_identity() -> None:
    daq = DAQ(2)
    upstream = torch.randn(2, 4, 8, 8)
    for positive in (False, True):
        x = torch.randn(2, 4, 8, 8).relu_().requires_grad_()
        (gradient,) = torch.autograd.grad((daq.activations(x, positive) * upstream).sum(), x)
        assert torch.equal(gradient, upstream)


def _edsr(channels: int = 8) -> SRNetwork:
    torch.manual_seed(0)
    return create_model("edsr", scale=2, channels=channels, blocks=2, res_scale=1.0)


def test_network_shares_its_layout_but_no_weights_with_its_twin() -> None:
    network = _edsr()
    quantized = quantize(network, 2)
    kinds = {name for name, m in quantized.named_modules() if isinstance(m, QuantizedConv2d)}
    assert kinds == {f"body.{i}.conv{j}" for i in (0, 1) for j in (1, 2)}
    assert not any(isinstance(m, QuantizedConv2d) for m in network.modules())
    ours, twins = quantized.state_dict(), network.state_dict()
    assert list(ours) == list(twins)
    assert all(torch.equal(ours[key], twins[key]) for key in ours)
    network.load_state_dict(quantized.state_dict())
    quantized.load_state_dict(network.state_dict())
    with torch.no_grad():
        next(quantized.parameters()).add_(1)
    assert not torch.equal(next(quantized.parameters()), next(network.parameters()))


def test_convolution_uses_levels_for_both_inputs_and_weights() -> None:
    quantized = quantize(_edsr(), 3)
    conv = quantized.get_submodule("body.0.conv2")
    assert isinstance(conv, QuantizedConv2d)
    x = torch.randn(1, 8, 6, 6).relu()
    levels, weights = DAQ(3).activations(x, positive=True), DAQ(3).weights(conv.weight)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(levels, weights, conv.bias, padding=1))


def test_more_bits_come_nearer_to_full_precision() -> None:
    network, x = _edsr(channels=16), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        outputs = [quantize(network, bits, sigma_bits=8)(x) for bits in (2, 3, 4, 8)]
        errors = [float((output - network(x)).abs().mean()) for output in outputs]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


def test_it_trains() -> None:
    quantized = quantize(_edsr(), 2).train()
    x = torch.rand(4, 3, 12, 12)
    y = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    optimiser, losses = torch.optim.Adam(quantized.parameters(), lr=3e-3), []
    for _ in range(12):
        optimiser.zero_grad()
        losses.append((quantized(x) - y).abs().mean())
        losses[-1].backward()
        optimiser.step()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in quantized.parameters())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "^quantisation: bits: expected a whole number from 2 to 8, not 1"),
        ({"bits": 2, "sigma_bits": 9}, "sigma_bits: expected a whole number from 2 to 8, not 9"),
        ({"bits": 2, "step": "best"}, "step: expected one of bits, behind, fixed, not 'best'"),
        ({"network": nn.Linear(2, 2), "bits": 2}, "EDSR"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        quantize(**{"network": _edsr()} | options)
