"""The image features of CSD's contrast: VGG19 (Simonyan and Zisserman, ICLR 2015)."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from augkd.errors import UserError

_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
"""Convolutions up to the first of stage 5; 0 is a 2 x 2 max pooling."""


class VGG19(nn.Module):
    """Maps (N, 3, H, W) to five maps, after ReLU 1_1, 2_1, 3_1, 4_1 and 5_1; H, W >= 16.

    Layers are numbered as in torchvision's ``features``, so that its checkpoint fits.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            if width:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        kept = []
        first_of_stage = True
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                first_of_stage = True
            elif isinstance(layer, nn.ReLU) and first_of_stage:
                kept.append(x)
                first_of_stage = False
        return kept


def load_vgg19(path: Path) -> VGG19:
    """A frozen VGG19 from torchvision's checkpoint, .pth or converted to safetensors.

    Later layers and the classifier in the file are passed over.

    Raises:
        UserError: the file is missing, unreadable or not a VGG19.
    """
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such VGG19 checkpoint; csd without one takes vgg: null"
        ) from None
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable VGG19 checkpoint ({reason})") from None
    network = VGG19()
    wanted = network.state_dict()
    for key, own in wanted.items():
        found = weights.get(key) if isinstance(weights, dict) else None
        if not isinstance(found, Tensor) or found.shape != own.shape:
            raise UserError(
                f"{path}: not a VGG19 checkpoint: it has no '{key}' of shape {tuple(own.shape)}; "
                "expected torchvision's vgg19"
            )
    network.load_state_dict({key: weights[key] for key in wanted})
    return network.eval().requires_grad_(False)
