"""The spaces in which drawn pictures are compared with real ones: always two or more.

The meaning of a distance between sets of pictures depends on the features: FID in the features of
Inception misleads on pictures unlike ImageNet's (Stein et al. 2023, arXiv:2306.04675), and a model may be good in one
space and bad in another. So the data choose:

- features learned on the user's own training data, always;
- features of EfficientNet-lite0, if its packages are installed and the data are pictures;
- features of Inception, the space of the published FID, if the user gives the file of its weights;
- features of a network with random weights, if there would be no second space: only for distances, because they cannot
  see what a picture shows (`RANDOM`).

A space takes stored rows. The networks that are learned here see the x that the codec makes of them, of any kind of
data; those of photographs see levels 0 ... 255 (B, 1 or 3, H, W), which only the codec of pictures has. Each network
holds its own preprocessing.
"""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.codecs.codec import Codec
from sfumato.data.dataset import Dataset
from sfumato.durable import sha256, write_atomically, writing
from sfumato.errors import UserError
from sfumato.features.cache import prune, used
from sfumato.features.inception import inception, name_of
from sfumato.features.learned import Learned, learned, untrained
from sfumato.features.pretrained import NAME, efficientnet_lite0, installed
from sfumato.report import Report

BATCH = 32  # pictures at once
Seen = Callable[[np.ndarray], Tensor]  # stored rows (B, ...) -> what a network sees of them
RANDOM = (
    "Random convolutions see colours, edges and textures, and not what a picture shows: clumps of noise in the right "
    "colours had a precision of 0.95. So their neighbours are not told, and their distances only find gross faults."
)


class FeatureSpace(Protocol):
    """A space that turns pictures into vectors with meaningful distances."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def sha256(self) -> str:
        """The hash of everything that decides the features: weights and preprocessing."""
        ...

    @property
    def blind(self) -> str:
        """What the features cannot see, in one sentence; "" if they are trained to see what pictures show."""
        ...

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Stored rows (N, ...) -> float32 (N, D); the features of a row do not depend on the others."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkFeatures:
    """The features of a network in evaluation mode, on the network's device.

    Attributes:
        name: for people.
        network: maps what it sees to features.
        seen: makes what the network sees of stored rows.
        blind: see `FeatureSpace`.
    """

    name: str
    network: nn.Module
    seen: Seen
    blind: str = ""

    @property
    def sha256(self) -> str:
        return fingerprint(self.network)

    def __call__(self, rows: np.ndarray) -> Tensor:
        return applied(self.network, self.network, self.seen, rows)


@dataclass(frozen=True, eq=False)
class LearnedFeatures:
    """The features learned on the user's data; if it has classes, they can also classify."""

    network: Learned
    seen: Seen

    blind = ""

    @property
    def name(self) -> str:
        return "learned by class" if self.classes else "learned without labels"

    @property
    def sha256(self) -> str:
        return fingerprint(self.network)

    def __call__(self, rows: np.ndarray) -> Tensor:
        return applied(self.network, self.network, self.seen, rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by index; none if the features were learned without labels."""
        return self.network.classes

    def classify(self, rows: np.ndarray) -> Tensor:
        """Class probabilities (N, classes) of stored rows (N, ...).

        The accuracy on drawn pictures, against the classes asked for, has a meaning only beside the accuracy on
        held-out real ones, which is its ceiling.

        Raises:
            ValueError: there are no classes.
        """
        return applied(self.network, self.network.probabilities, self.seen, rows)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's preprocessing and of all its weights and statistics."""
    digest = hashlib.sha256(str(network.preprocessing).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def applied(network: nn.Module, function: Callable[[Tensor], Tensor], seen: Seen, rows: np.ndarray) -> Tensor:
    """`function`, a part of `network`, of what it sees of stored rows (N, ...), batch by batch."""
    if not len(rows):
        raise ValueError("features: there are no rows; give one or more")
    device = next(network.parameters()).device
    return torch.cat(
        [function(seen(rows[start : start + BATCH]).to(device)).cpu() for start in range(0, len(rows), BATCH)]
    )


def photographed(codec: Codec, rows: np.ndarray) -> Tensor:
    """What networks of photographs see of stored rows: levels 0 ... 255, float32 (B, 1 or 3, H, W)."""
    return torch.from_numpy(np.array(codec.levels(rows))).permute(0, 3, 1, 2).float()


def spaces_for(
    data: Dataset, codec: Codec, train_indices: np.ndarray, folder: Path, report: Report, extra: Sequence[str] = ()
) -> list[FeatureSpace]:
    """Two spaces or more; the first is the `LearnedFeatures` of the data.

    Args:
        data: the rows that the model was trained on.
        codec: of the data.
        train_indices: (N,) the rows that features may be learned from.
        folder: keeps the learned features.
        report: gets the progress, and why there is a space of random weights.
        extra: files with the weights of Inception.

    Raises:
        UserError: a file is damaged, does not belong to Inception, or is given although the data are no pictures.
    """
    if extra and not codec.pictorial:
        raise UserError(
            f"inception: it sees photographs, and these data are {codec.describe()}", fix="leave --inception out"
        )
    prune(folder)
    seen = partial(photographed, codec)
    others: list[FeatureSpace] = [NetworkFeatures(name_of(Path(file)), inception(Path(file)), seen) for file in extra]
    if pretrained(codec) or not others:
        others.insert(0, general_space(data, codec, train_indices))
    if not pretrained(codec) and not extra:
        why = "no pretrained network is installed" if codec.pictorial else "pretrained networks see pictures alone"
        report.say(f"{why}: the second feature space is of random convolutions")
    return [LearnedFeatures(learned(data, codec, train_indices, folder, report), codec.encode), *others]


def pretrained(codec: Codec) -> bool:
    """Whether there is a pretrained network for such data."""
    return codec.pictorial and installed()


def general_space(data: Dataset, codec: Codec, train_indices: np.ndarray) -> FeatureSpace:
    """A space that was not learned on the data: EfficientNet-lite0's where it can be, else random convolutions."""
    if pretrained(codec):
        return NetworkFeatures(NAME, efficientnet_lite0(), partial(photographed, codec))
    return NetworkFeatures("random convolutions", untrained(data, codec, train_indices), codec.encode, RANDOM)


def seconds_a_picture(data: Dataset, codec: Codec) -> float:
    """How long the pretrained network takes for a picture of the data here; 0 without one."""
    if not pretrained(codec):
        return 0.0
    space = NetworkFeatures(NAME, efficientnet_lite0(), partial(photographed, codec))
    space(data.rows[:BATCH])  # the first batch is slower
    begin = time.perf_counter()
    space(data.rows[:BATCH])
    return (time.perf_counter() - begin) / len(data.rows[:BATCH])


def features_of(space: FeatureSpace, rows: np.ndarray, report: Report, cache: Path | None = None) -> Tensor:
    """The features (N, D) of stored rows (N, ...), told as they come, and kept in the folder `cache`.

    A file is named by the hashes of the space and the rows, and then by its own: a damaged one is not believed.
    """
    made_of = sha256(f"{space.sha256} {rows.shape} {sha256(np.ascontiguousarray(rows).tobytes())}".encode())
    for file in cache.glob(f"{made_of}-*.npy") if cache else ():
        content = file.read_bytes()
        if file.stem.endswith(sha256(content)):
            used(file)
            return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))

    parts = []
    for start in range(0, len(rows), BATCH):
        parts.append(space(rows[start : start + BATCH]))
        report.progress(f"features, {space.name}", min(start + BATCH, len(rows)), len(rows))
    found = torch.cat(parts)

    if cache:
        stream = io.BytesIO()
        np.save(stream, found.numpy(), allow_pickle=False)
        content = stream.getvalue()
        with writing("features", cache):
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(cache / f"{made_of}-{sha256(content)}.npy", content)
    return found
