"""The image features of CSD's contrast: VGG19 (Simonyan and Zisserman, ICLR 2015)."""

from pathlib import Path

from torch import Tensor, nn

from augkd.errors import UserError
from augkd.models.checkpoint import fit_weights, read_weights

# convolutions up to the first of stage 5; 0 is a 2 x 2 max pooling
_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
_KEPT = (1, 6, 11, 20, 29)  # numbers of the first ReLU of each stage


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
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in _KEPT:
                kept.append(x)
        return kept


def load_vgg19(path: str | Path) -> VGG19:
    """A frozen VGG19 from torchvision's checkpoint, .pth or converted to safetensors.

    Later layers and the classifier in the file are passed over.

    Raises:
        UserError: the file is missing, unreadable or not a VGG19.
    """
    network, path = VGG19(), Path(path)
    try:
        weights = read_weights(path)
        own = weights.keys() & network.state_dict().keys()
        fit_weights(path, {key: weights[key] for key in own}, network)
    except UserError as error:
        raise UserError(f"{error}; csd's vgg is torchvision's vgg19, or null for none") from None
    return network.eval().requires_grad_(False)
