"""Features that Sfumato learns on the user's own data, so that no foreign network has to judge them.

The features are the last layer of a small convolutional network, averaged over positions. The network sees x as the
codec makes it, in one to three dimensions, so pictures, signals, fields and volumes have features alike. If the
pictures have classes, the network learns to tell them apart, by cross-entropy. Otherwise it learns by VICReg (Bardes et
al. 2022, arXiv:2105.04906, equations 1 to 6): two views of a picture should have near embeddings (invariance), every
entry of the embedding a standard deviation of 1 over the batch (variance), and different entries no covariance. VICReg
needs no negative pictures, so pictures that are nearly the same do no harm, and small batches and two processor cores
suffice.

The embedding learns to overlook the differences of the views (place, mirroring, some colour and noise), and the
features before it overlook them in part. So the views are mild, and this is never the only space in which pictures are
compared.

Only training pictures are used: held-out pictures stay a fair reference.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sfumato.codecs.codec import Codec
from sfumato.data.dataset import Dataset
from sfumato.durable import DAMAGED, sha256, write_atomically, writing
from sfumato.errors import UserError
from sfumato.features.cache import used
from sfumato.keyed import Order, generator, key
from sfumato.networks.resize import resized
from sfumato.report import Report
from sfumato.transfer import memory_format

VERSION = 2  # raised when the same data and seed give other features
LARGEST = {1: 1024, 2: 64, 3: 32}  # longest side that the network sees, by dimensions
POOLED = {1: 4, 2: 2, 3: 2}  # values that a pooling makes one of: signals are long, and are still seen as a whole
CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
WIDTH = 128  # number of features
EMBEDDING = 256  # entries of VICReg's embedding
BATCH = 128
RATE = 2e-3
LEAST, MOST, EPOCHS = 25_600, 180_000, 100  # views in training: so many epochs, within these bounds
COUNTED = 2_000  # pictures from which centre and scale of the features are computed
WEIGHTS, DESCRIPTION = "weights.safetensors", "features.json"


class Learned(nn.Module):
    """x (B, C, *sides) of one to three dimensions -> features (B, 128).

    The features are centred, and scaled by one number for all, so that over the training pictures their mean variance
    is 1: the kernel of KID is not free of scale.

    Args:
        channels: C.
        sides: of x; all are reduced alike if the longest is above LARGEST.
        classes: names; none for features learned without labels.
        scaling: how x comes of stored values, see ``Codec.scaling``.
    """

    def __init__(
        self, channels: int, sides: Sequence[int], classes: Sequence[str] = (), scaling: str = "x / 127.5 - 1"
    ) -> None:
        super().__init__()
        dims, largest = len(sides), LARGEST[len(sides)]
        scale = min(1.0, largest / max(sides))
        self.sides, self.classes = tuple(max(1, round(scale * side)) for side in sides), tuple(classes)
        self.format = memory_format(dims + 2)
        layers = _block(dims, channels, 32, stride=2 if max(self.sides) > largest // 2 else 1)
        for inputs, outputs in ((32, 64), (64, WIDTH), (WIDTH, WIDTH)):
            layers += [POOL[dims](POOLED[dims], ceil_mode=True), *_block(dims, inputs, outputs)]
        self.trunk = nn.Sequential(*layers, AVERAGE[dims](1), nn.Flatten())
        # twice as fast on a processor
        self.trunk.to(memory_format=self.format)  # pyright: ignore[reportCallIssue]
        self.head = nn.Linear(WIDTH, len(self.classes)) if self.classes else None
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.zeros(WIDTH))
        self.register_buffer("scale", torch.ones(()))
        size = " x ".join(map(str, self.sides)) if len(set(self.sides)) > 1 else str(self.sides[0])
        self.preprocessing = f"antialiased bicubic to {size} px, {scaling}; classes {list(self.classes)}"

    def prepared(self, x: Tensor) -> Tensor:
        """(B, C, *sides) of the sides that the network sees."""
        return resized(x, self.sides).contiguous(memory_format=self.format)

    def forward(self, x: Tensor) -> Tensor:
        return (self.trunk(self.prepared(x)) - self.centre) / self.scale

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities (B, classes); a ValueError if no classes were learned."""
        if self.head is None:
            raise ValueError("these features were learned without labels: they know no classes")
        return self.head(self.trunk(self.prepared(x))).softmax(1)


def _block(dims: int, inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = CONVOLUTION[dims](inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return [convolution, NORM[dims](outputs), nn.ReLU(inplace=True)]


def _network(codec: Codec, classes: Sequence[str] = ()) -> Learned:
    channels, *sides = codec.shape
    return Learned(channels, sides, classes, codec.scaling)


def untrained(data: Dataset, codec: Codec, indices: np.ndarray, seed: int = 0) -> Learned:
    """The network with random weights: features that need no training and favour no data.

    Random convolutions see edges, textures and colours at several scales; for pictures far from those of a pretrained
    network they can be the better judge (Naeem et al. 2020, arXiv:2002.09797). Centre and scale are those of the
    training pictures.
    """
    with _first_weights(seed, "untrained"):
        network = _network(codec).eval()
    _standardise(network, data, codec, indices)
    return network


def learned(
    data: Dataset,
    codec: Codec,
    indices: np.ndarray,
    folder: Path,
    report: Report,
    seed: int = 0,
    views: int | None = None,
) -> Learned:
    """The network trained on pictures `indices` of the data, or the one that an earlier call left in the folder.

    Args:
        data: the rows; classes are learned if every row has one and there are two or more.
        codec: of the data; the network sees its x.
        indices: (N,) of the training rows; no others are read.
        folder: holds one folder for each training that differs in data, indices or seed.
        report: gets the progress of the training.
        seed: decides first weights, order and views.
        views: pictures seen in training; by default 100 epochs, but at least 25,600 and at most 180,000.

    Raises:
        UserError: the files in the folder are damaged, or it cannot be written.
    """
    indices = np.asarray(indices, dtype=np.int64)
    classes, views, made_of = _asked(data, codec, indices, seed, views)
    place = _place(folder, made_of)

    with _first_weights(seed, "learned"):
        network = _network(codec, classes).eval()
    if (place / DESCRIPTION).exists():
        _read(network, place, made_of)
        used(place)
        return network
    train = _train_by_class if classes else _train_without_labels
    train(network, data, codec, indices, seed, views, report)
    _standardise(network.eval(), data, codec, indices)
    _write(network, place, made_of)
    return network


def seconds_left(data: Dataset, codec: Codec, indices: np.ndarray, folder: Path) -> float:
    """How long `learned` would take here, by one step of its network; 0 if the folder holds its result."""
    classes, views, made_of = _asked(data, codec, np.asarray(indices, dtype=np.int64), 0, None)
    if (_place(folder, made_of) / DESCRIPTION).exists():
        return 0.0
    with _first_weights(0, "timed"):
        network = _network(codec, classes).train()
        x = torch.rand(BATCH, codec.shape[0], *network.sides)
    for _ in range(2):  # the first is slower
        begin = time.perf_counter()
        network.trunk(x).square().mean().backward()
    return views / BATCH * (time.perf_counter() - begin)


def _asked(
    data: Dataset, codec: Codec, indices: np.ndarray, seed: int, views: int | None
) -> tuple[Sequence[str], int, dict[str, Any]]:
    """Classes, views, and everything that the features depend on."""
    classes = data.classes if data.labels is not None and len(data.classes) > 1 else ()
    views = views or min(max(EPOCHS * len(indices), LEAST), MOST)
    made_of = {
        "version": VERSION,
        "manifest_sha256": data.manifest_hash,
        "indices_sha256": sha256(indices.tobytes()),
        "reader": data.index.get("reader"),
        "shape": list(codec.shape),
        "scaling": codec.scaling,
        "classes": list(classes),
        "seed": seed,
        "views": views,
    }
    return classes, views, made_of


def _place(folder: Path, made_of: dict[str, Any]) -> Path:
    return folder / f"learned-{sha256(json.dumps(made_of).encode())[:16]}"


# --- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """How far a view may be from its picture.

    Attributes:
        zoom: the crop's side is from 1 - zoom to 1 of the picture's.
        shift: the crop's centre moves by up to this share of a side, even beyond the edge.
        mirror: half of the views are mirrored along the last side.
        colour: brightness, contrast and saturation change by up to this share.
        noise: the largest standard deviation, for x in [-1, 1].
    """

    zoom: float
    shift: float
    mirror: bool
    colour: float
    noise: float

    def __call__(self, x: Tensor, g: torch.Generator) -> Tensor:
        """One view of each picture (B, C, *sides), drawn by `g`."""
        dims = x.dim() - 2
        u = torch.rand(6 + dims, len(x), generator=g)
        side = 1 - self.zoom * u[0]
        reach = 1 - side + 2 * self.shift
        turn = torch.where(u[1] < 0.5, -1.0, 1.0) if self.mirror else torch.ones(len(x))

        crop = torch.zeros(len(x), dims, dims + 1)  # places run along the last side first
        for d in range(dims):
            crop[:, d, d], crop[:, d, dims] = turn * side if d == 0 else side, reach * (2 * u[2 + d] - 1)
        x = _cropped(x, crop)

        ones = [1] * (dims + 1)
        brightness, contrast, saturation = (self.colour * (2 * u[2 + dims : 5 + dims] - 1)).view(3, -1, *ones)
        grey = x.mean(1, keepdim=True)
        x = (1 + contrast) * (grey + (1 + saturation) * (x - grey)) + brightness
        x = x + self.noise * u[5 + dims].view(-1, *ones) * torch.randn(x.shape, generator=g)
        return x.contiguous(memory_format=memory_format(x.dim()))


def _cropped(x: Tensor, crop: Tensor) -> Tensor:
    """x (B, C, *sides) where the affine maps (B, dims, dims + 1) of [-1, 1] say; a signal is a picture of one row."""
    if x.dim() > 3:
        grid = F.affine_grid(crop, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    flat = torch.zeros(len(x), 2, 3)
    flat[:, 0, 0], flat[:, 0, 2], flat[:, 1, 1] = crop[:, 0, 0], crop[:, 0, 1], 1
    return _cropped(x[:, :, None], flat)[:, :, 0]


BY_CLASS = Views(zoom=0.1, shift=0.06, mirror=False, colour=0.1, noise=0.05)  # a mirrored letter is another letter
SELF_SUPERVISED = Views(zoom=0.4, shift=0.0, mirror=True, colour=0.3, noise=0.1)
# What is measured has a direction, and its level and size say something.
OF_MEASUREMENTS = Views(zoom=0.2, shift=0.05, mirror=False, colour=0.1, noise=0.1)


def _train_by_class(
    network: Learned, data: Dataset, codec: Codec, indices: np.ndarray, seed: int, views: int, report: Report
) -> None:
    assert network.head is not None
    labels, order, head = torch.as_tensor(data.labels), Order(torch.from_numpy(indices), seed), network.head

    def loss(step: int) -> Tensor:
        chosen = [order[step * BATCH + i] for i in range(BATCH)]
        x = BY_CLASS(network.prepared(_encoded(data, codec, chosen)), generator(seed, "views", step))
        return F.cross_entropy(head(network.trunk(x)), labels[chosen])

    _descend(network.train(), loss, views // BATCH, report, "learning features by class")


def _train_without_labels(
    network: Learned, data: Dataset, codec: Codec, indices: np.ndarray, seed: int, views: int, report: Report
) -> None:
    order = Order(torch.from_numpy(indices), seed)
    with _first_weights(seed, "expander"):
        layers = nn.Linear(WIDTH, EMBEDDING), nn.BatchNorm1d(EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING)
    expander = nn.Sequential(*layers)
    view = SELF_SUPERVISED if codec.pictorial else OF_MEASUREMENTS

    def loss(step: int) -> Tensor:
        chosen = [order[step * BATCH + i] for i in range(BATCH)]
        x = network.prepared(_encoded(data, codec, chosen))
        x = x.repeat(2, *[1] * (x.dim() - 1))
        z = expander(network.trunk(view(x, generator(seed, "views", step))))
        return vicreg(*z.chunk(2))

    both = nn.ModuleList((network, expander))
    _descend(both.train(), loss, views // (2 * BATCH), report, "learning features without labels")


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """VICReg's loss () of two views' embeddings (B, D), each term a mean as in its authors' code, weights 25, 25, 1."""
    total = 25 * F.mse_loss(a, b)
    for z in (a, b):
        z = z - z.mean(0)
        covariance = z.T @ z / (len(z) - 1)
        variance = covariance.diagonal()
        total = total + 12.5 * F.relu(1 - (variance + 1e-4).sqrt()).mean()
        total = total + (covariance.square().sum() - variance.square().sum()) / z.shape[1]
    return total


def _descend(network: nn.Module, loss: Callable[[int], Tensor], steps: int, report: Report, task: str) -> None:
    """Steps of AdamW at a rate that rises for a tenth of them and falls to 0 as a cosine."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=0.1)
    for step in range(steps):
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate.step()
        report.progress(task, step + 1, steps)


@contextmanager
def _first_weights(seed: int, purpose: str) -> Iterator[None]:
    """A context in which the seed decides the first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, purpose))
        yield


@torch.no_grad()
def _standardise(network: Learned, data: Dataset, codec: Codec, indices: np.ndarray) -> None:
    """Set centre and scale from evenly spaced training rows."""
    some = indices[:: -(-len(indices) // COUNTED)]
    found = torch.cat([network(_encoded(data, codec, some[i : i + BATCH])) for i in range(0, len(some), BATCH)])
    variance = found.var(0, correction=0).mean()
    network.centre.copy_(found.mean(0))
    network.scale.copy_(variance.sqrt() if variance > 0 else torch.ones(()))  # 0: all pictures are the same


def _encoded(data: Dataset, codec: Codec, indices: Sequence[int] | np.ndarray) -> Tensor:
    """x (B, C, *sides) of some rows."""
    return codec.encode(data.rows[np.asarray(indices)])


# --- files -----------------------------------------------------------------------------------------------------------


def _write(network: Learned, place: Path, made_of: dict) -> None:
    """Write the files, the description last: if it is there, all are."""
    weights = save({name: value.contiguous() for name, value in network.state_dict().items()})
    description = {**made_of, "sha256": sha256(weights)}
    with writing("the learned features", place):
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / WEIGHTS, weights)
        write_atomically(place / DESCRIPTION, json.dumps(description, indent=1).encode())


def _read(network: Learned, place: Path, made_of: dict) -> None:
    try:
        weights = (place / WEIGHTS).read_bytes()
        if json.loads((place / DESCRIPTION).read_bytes()) != {**made_of, "sha256": sha256(weights)}:
            raise ValueError(DAMAGED)
        network.load_state_dict(load(weights))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{place}: the learned features are damaged ({error})", fix="delete this folder, and they are learned anew"
        ) from error
