"""DAQ (Hong et al., WACV 2022): networks whose convolutions compute on a few levels.

Figure 6 distils into EDSR students quantised so. The quantisation is simulated: values are
floats that lie on the levels, so that the network trains. A step k * sigma suits the
distribution of what is quantised: one sigma for a layer's weights, one for each channel of each
image for activations. sigma itself is quantised too, across the channels of an image.

Inputs and weights of both 3x3 convolutions in each residual block are quantised; head, tail and
skips stay in full precision. Gradients pass straight through (levels + (x - x.detach()) are the
levels to the bit, with the gradient of x), and statistics are constants.
"""

import copy
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from augkd.errors import UserError
from augkd.models.edsr import ResidualBlock
from augkd.models.network import SRNetwork, exact
from augkd.options import Rule, options

Bits = Annotated[int, Rule("a whole number from 2 to 8", range(2, 9).__contains__)]

# Step, in standard deviations, of the uniform quantiser with 2^bits levels that suits a Gaussian
_STEP = {0: 2.0, 1: 1.596, 2: 0.996, 3: 0.586, 4: 0.335, 5: 0.188, 6: 0.104, 7: 0.057, 8: 0.031}


@options
class DAQ:
    """How to quantise. The last two are switches for what the released code does.

    ``step``: "bits" takes the step that suits ``bits``. The released code takes that of one bit
    fewer ("behind"), or in its fine-tuning mode 1.596 for every width of the values and 0.057 for
    every width of sigma ("fixed"). ``released_range``: the released code does not clip above after
    a ReLU, so more than 2^bits levels occur, and lets a quantised sigma below 0 through, whose
    channel becomes a constant off its mean. By default the first is clipped, the second is 0.
    """

    bits: Bits  # of weights and activations; the DAQ paper reports 2, 3 and 4
    sigma_bits: Bits | None = 4  # of channels' deviations, None: exact; 8 for its large EDSR
    step: Literal["bits", "behind", "fixed"] = "bits"
    released_range: bool = False

    def weights(self, weight: Tensor) -> Tensor:
        """A layer's weights on 2^bits levels, symmetric about 0; the gradient is the identity."""
        value = weight.detach()
        step = self._k(self.bits, 1.596) * value.std()
        return _round(value, step, self.bits) + (weight - value)

    def activations(self, x: Tensor, positive: bool) -> Tensor:
        """Activations (N, C, H, W) on the levels of their channel; the gradient is the identity.

        Args:
            positive: the activations come from a ReLU, so that the levels start at 0. (The
                released code decides by the minimum of the whole tensor being exactly 0.)
        """
        value = x.detach()
        if positive:
            count = (value > 0).sum((2, 3), keepdim=True) + 1
            mean = value.sum((2, 3), keepdim=True) / count
            square = (value * value).sum((2, 3), keepdim=True) / count
            sigma = (square - mean * mean).clamp_min(0).sqrt()  # rounding can go below 0
        else:
            mean = value.mean((2, 3), keepdim=True)
            sigma = value.std((2, 3), keepdim=True)
        if self.sigma_bits is not None:  # around the mean over the channels of each image
            centre = sigma.mean(1, keepdim=True)
            step = self._k(self.sigma_bits, 0.057) * sigma.std(1, keepdim=True)
            sigma = _round(sigma - centre, step, self.sigma_bits) + centre
        step = self._k(self.bits, 1.596) * (sigma if self.released_range else sigma.clamp_min(0))
        middle = (2 ** (self.bits - 1) - 0.5) * step if positive else mean  # of the levels
        clip = self.bits if not (positive and self.released_range) else None
        return (_round(value - middle, step, clip) + middle) + (x - value)

    def _k(self, bits: int, fixed: float) -> float:
        return fixed if self.step == "fixed" else _STEP[bits - (self.step == "behind")]


def _round(x: Tensor, step: Tensor, bits: int | None) -> Tensor:
    """x on the levels ... -1.5, -0.5, 0.5, 1.5 ... times step, 2^bits of them or all (None).

    Halves go to the even whole number. With a step of 0 or less there is one level: 0, or what
    clipping leaves of it.
    """
    safe = torch.where(step > 0, step, 1)
    level = torch.where(step > 0, (torch.round(x / safe + 0.5) - 0.5) * step, 0)
    if bits is None:
        return level
    top = (2 ** (bits - 1) - 0.5) * step
    return torch.maximum(torch.minimum(level, top), -top)


class QuantizedConv2d(nn.Conv2d):
    """A 3x3 convolution made to compute on quantised inputs and weights.

    It takes over the weights of an ordinary one, whose state dict its own equals. ``positive``:
    its inputs come from a ReLU.
    """

    def __init__(self, conv: nn.Conv2d, daq: DAQ, positive: bool) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.daq, self.positive = daq, positive

    def forward(self, input: Tensor) -> Tensor:
        with exact(input.device):  # bf16 has no place for the levels
            levels = self.daq.activations(input.to(self.weight.dtype), self.positive)
            return conv2d(levels, self.daq.weights(self.weight), self.bias, padding=1)


def quantize(network: SRNetwork, bits: int, **chosen: Any) -> SRNetwork:
    """A quantised copy of an EDSR, trainable; bits and options as for ``DAQ``.

    The state dict has the same keys and shapes as the network's, in full precision, so either
    loads the other's checkpoint. The network itself is left as it is.

    Raises:
        UserError: widths that are not 2 to 8, an unknown step, a network other than EDSR.
    """
    try:
        daq = DAQ(bits, **chosen)
    except ValueError as error:
        raise UserError(f"quantisation: {error}") from None
    copied = copy.deepcopy(network)
    copied.quantised = dict(vars(daq))
    blocks = [module for module in copied.modules() if isinstance(module, ResidualBlock)]
    if not blocks:
        raise UserError(f"quantisation: {type(network).__name__} has no EDSR blocks: use an EDSR")
    for block in blocks:
        block.conv1 = QuantizedConv2d(block.conv1, daq, positive=False)
        block.conv2 = QuantizedConv2d(block.conv2, daq, positive=True)
    return copied
