"""The Inception network of the published FID (Heusel et al. 2017, arXiv:1706.08500), and its 2,048 features.

This is Inception-v3 (Szegedy et al. 2016, arXiv:1512.00567) as in TensorFlow's file of 2015-12-05, which differs from
the paper: average pooling does not count the padding, the last block pools by maximum, and there are 1,008 classes.
Pictures are resized to 299 pixels as TensorFlow 1 did: bilinear, without antialiasing, with the pixels of the corners
at a corner. They are shifted to (x - 128) / 128.

The weights are the user's own file: `pt_inception-2015-12-05-6726825d.pth`, published with pytorch-fid, or the same
tensors as safetensors. Names of modules are those of that file.
"""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.errors import UserError

PUBLISHED = "6726825d"  # the first digits of the published file's SHA-256, which are also in its name
FIX = f"give pt_inception-2015-12-05-{PUBLISHED}.pth of pytorch-fid, or its tensors as safetensors"
SIDE = 299  # pixels
CLASSES = 1008
FEATURES = 2048


def inception(file: Path) -> "Inception":
    """The network with the weights of a file.

    Raises:
        UserError: it cannot be read, or holds other tensors.
    """
    try:
        if file.suffix == ".safetensors":
            given = load_file(file)
        else:
            given = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{file}: the weights of Inception cannot be read ({error})", FIX) from error

    network = Inception()
    expected = shapes(network.state_dict())
    found = shapes(given) if isinstance(given, Mapping) else {}
    wrong = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    if wrong:
        name = min(wrong)
        raise UserError(
            f"{file}: these are not the weights of FID's Inception: {len(wrong)} tensors differ, first {name}, which is"
            f" {found.get(name, 'missing')} and should be {expected.get(name, 'absent')}",
            FIX,
        )
    network.load_state_dict(given, strict=False)  # files differ in whether they count batches
    return network.eval()


def name_of(file: Path) -> str:
    """The name of the features from this file: only the published file itself gives the published FID."""
    with file.open("rb") as stream:
        published = hashlib.file_digest(stream, "sha256").hexdigest().startswith(PUBLISHED)
    return "inception" if published else f"inception with the weights of {file.name}"


def shapes(tensors: Mapping) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors that decide the features."""
    found = {name: tuple(value.shape) for name, value in tensors.items() if isinstance(value, Tensor)}
    return {name: shape for name, shape in found.items() if not name.endswith("num_batches_tracked")}


def resize(x: Tensor, side: int = SIDE) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side) as `tf.image.resize_bilinear` of TensorFlow 1: pixel i is looked up at
    i H / side, between its two neighbours, the last of which is repeated."""
    rows, columns = (_weights(length, side).to(x) for length in x.shape[-2:])
    return rows @ x @ columns.T


def _weights(length: int, side: int) -> Tensor:
    """The matrix (side, length) of linear interpolation."""
    place = torch.arange(side) * (length / side)
    low = place.long()
    share = (place - low)[:, None]
    one = torch.eye(length)
    return (1 - share) * one[low] + share * one[(low + 1).clamp(max=length - 1)]


class Inception(nn.Module):
    """Pictures (B, 1 or 3, H, W) with values 0 ... 255 -> features (B, 2048)."""

    preprocessing = f"TensorFlow 1 bilinear to {SIDE} px, (x - 128) / 128"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = A(192, 32)
        self.Mixed_5c = A(256, 64)
        self.Mixed_5d = A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b = C(768, 128)
        self.Mixed_6c = C(768, 160)
        self.Mixed_6d = C(768, 160)
        self.Mixed_6e = C(768, 192)
        self.Mixed_7a = D(768)
        self.Mixed_7b = E(1280, average)
        self.Mixed_7c = E(2048, maximum)
        # Not used; its shape reveals the file of another Inception, whose other tensors have the same shapes.
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = ((resize(x) - 128) / 128).expand(-1, 3, -1, -1)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation and ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def wide(inputs: int, outputs: int, length: int) -> Convolution:
    """One row of `length` weights."""
    return Convolution(inputs, outputs, (1, length), padding=(0, length // 2))


def high(inputs: int, outputs: int, length: int) -> Convolution:
    """One column of `length` weights."""
    return Convolution(inputs, outputs, (length, 1), padding=(length // 2, 0))


def average(x: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels, of those that lie in the picture."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class A(nn.Module):
    """Branches of 1 x 1, of 5 x 5, of two 3 x 3, and of a pooling."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1 = Convolution(inputs, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch1x1(x), five, three, self.branch_pool(average(x))), 1)


class B(nn.Module):
    """Half the size: a 3 x 3, two of them, and a pooling."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)), 1)


class C(nn.Module):
    """Branches of 1 x 1, of 7 x 7 in two parts, of two such, and of a pooling."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 192, 1)
        self.branch7x7_1 = Convolution(inputs, inner, 1)
        self.branch7x7_2 = wide(inner, inner, 7)
        self.branch7x7_3 = high(inner, 192, 7)
        self.branch7x7dbl_1 = Convolution(inputs, inner, 1)
        self.branch7x7dbl_2 = high(inner, inner, 7)
        self.branch7x7dbl_3 = wide(inner, inner, 7)
        self.branch7x7dbl_4 = high(inner, inner, 7)
        self.branch7x7dbl_5 = wide(inner, 192, 7)
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        two = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        two = self.branch7x7dbl_5(self.branch7x7dbl_4(two))
        return torch.cat((self.branch1x1(x), one, two, self.branch_pool(average(x))), 1)


class D(nn.Module):
    """Half the size: a 3 x 3, a 7 x 7 in two parts with a 3 x 3, and a pooling."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(inputs, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(inputs, 192, 1)
        self.branch7x7x3_2 = wide(192, 192, 7)
        self.branch7x7x3_3 = high(192, 192, 7)
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        parts = (self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2))
        return torch.cat(parts, 1)


class E(nn.Module):
    """Branches of 1 x 1, of a 3 x 3 in two parts side by side, of a 3 x 3 before such, and of a pooling `pool`."""

    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a = wide(384, 384, 3)
        self.branch3x3_2b = high(384, 384, 3)
        self.branch3x3dbl_1 = Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = wide(384, 384, 3)
        self.branch3x3dbl_3b = high(384, 384, 3)
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch3x3_1(x)
        two = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        one = (self.branch3x3_2a(one), self.branch3x3_2b(one))
        two = (self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two))
        return torch.cat((self.branch1x1(x), *one, *two, self.branch_pool(self.pool(x))), 1)
