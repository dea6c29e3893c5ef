"""The spaces in which drawn pictures are compared with real ones: always two or more.

The meaning of a distance between sets of pictures depends on the features: FID in the features of
Inception misleads on pictures unlike ImageNet's (Stein et al. 2023, arXiv:2306.04675), and a model may be good in one
space and bad in another. So the data choose:

- features learned on the user's own training pictures, always;
- features of EfficientNet-lite0, if its packages are installed;
- features of Inception, the space of the published FID, if the user gives the file of its weights;
- features of a network with random weights, if there would be no second space: only for distances, because they cannot
  see what a picture shows (`RANDOM`).

A network here takes pictures (B, C, H, W) with values 0 ... 255 and holds its own preprocessing.
"""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.data.dataset import Dataset
from sfumato.durable import sha256, write_atomically, writing
from sfumato.features.cache import prune, used
from sfumato.features.inception import inception, name_of
from sfumato.features.learned import Learned, learned, untrained
from sfumato.features.pretrained import NAME, efficientnet_lite0, installed
from sfumato.report import Report

BATCH = 32  # pictures at once
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

    def __call__(self, pictures: np.ndarray) -> Tensor:
        """uint8 (N, H, W, C) -> float32 (N, D); the features of a picture do not depend on the others."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkFeatures:
    """The features of a network in evaluation mode, on the network's device."""

    name: str
    network: nn.Module
    blind: str = ""

    @property
    def sha256(self) -> str:
        return fingerprint(self.network)

    def __call__(self, pictures: np.ndarray) -> Tensor:
        return applied(self.network, self.network, pictures)


@dataclass(frozen=True, eq=False)
class LearnedFeatures:
    """The features learned on the user's data; if it has classes, they can also classify."""

    network: Learned

    blind = ""

    @property
    def name(self) -> str:
        return "learned by class" if self.classes else "learned without labels"

    @property
    def sha256(self) -> str:
        return fingerprint(self.network)

    def __call__(self, pictures: np.ndarray) -> Tensor:
        return applied(self.network, self.network, pictures)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by index; none if the features were learned without labels."""
        return self.network.classes

    def classify(self, pictures: np.ndarray) -> Tensor:
        """Class probabilities (N, classes) of uint8 (N, H, W, C).

        The accuracy on drawn pictures, against the classes asked for, has a meaning only beside the accuracy on
        held-out real ones, which is its ceiling.

        Raises:
            ValueError: there are no classes.
        """
        return applied(self.network, self.network.probabilities, pictures)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's preprocessing and of all its weights and statistics."""
    digest = hashlib.sha256(str(network.preprocessing).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def applied(network: nn.Module, function: Callable[[Tensor], Tensor], pictures: np.ndarray) -> Tensor:
    """`function`, a part of `network`, of uint8 pictures (N, H, W, C), batch by batch."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or not len(pictures):
        raise ValueError(f"pictures must be uint8 (N, H, W, C), N at least 1; got {pictures.dtype} {pictures.shape}")
    device, found = next(network.parameters()).device, []
    for start in range(0, len(pictures), BATCH):
        x = torch.from_numpy(np.array(pictures[start : start + BATCH])).permute(0, 3, 1, 2).float()
        found.append(function(x.to(device)).cpu())
    return torch.cat(found)


def spaces_for(
    data: Dataset, train_indices: np.ndarray, folder: Path, report: Report, extra: Sequence[str] = ()
) -> list[FeatureSpace]:
    """Two spaces or more; the first is the `LearnedFeatures` of the data.

    Args:
        data: the pictures that the model was trained on.
        train_indices: (N,) the pictures that features may be learned from.
        folder: keeps the learned features.
        report: gets the progress, and why there is a space of random weights.
        extra: files with the weights of Inception.

    Raises:
        UserError: a file is damaged, or does not belong to Inception.
    """
    prune(folder)
    others: list[FeatureSpace] = [NetworkFeatures(name_of(Path(file)), inception(Path(file))) for file in extra]
    if installed() or not others:
        others.insert(0, general_space(data, train_indices))
    if not installed() and not extra:
        report.say("no pretrained network is installed: the second feature space is of random convolutions")
    return [LearnedFeatures(learned(data, train_indices, folder, report)), *others]


def general_space(data: Dataset, train_indices: np.ndarray) -> FeatureSpace:
    """A space that was not learned on the data: EfficientNet-lite0 if installed, otherwise random convolutions."""
    if installed():
        return NetworkFeatures(NAME, efficientnet_lite0())
    return NetworkFeatures("random convolutions", untrained(data, train_indices), RANDOM)


def seconds_a_picture(data: Dataset) -> float:
    """How long the pretrained network takes for a picture of the data here; 0 without one."""
    if not installed():
        return 0.0
    space, pictures = NetworkFeatures(NAME, efficientnet_lite0()), data.rows[:BATCH]
    space(pictures)  # the first batch is slower
    begin = time.perf_counter()
    space(pictures)
    return (time.perf_counter() - begin) / len(pictures)


def features_of(space: FeatureSpace, pictures: np.ndarray, report: Report, cache: Path | None = None) -> Tensor:
    """The features (N, D) of uint8 (N, H, W, C), told as they come, and kept in the folder `cache`.

    A file is named by the hashes of the space and the pictures, and then by its own: a damaged one is not believed.
    """
    made_of = sha256(f"{space.sha256} {pictures.shape} {sha256(np.ascontiguousarray(pictures).tobytes())}".encode())
    for file in cache.glob(f"{made_of}-*.npy") if cache else ():
        content = file.read_bytes()
        if file.stem.endswith(sha256(content)):
            used(file)
            return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))

    parts = []
    for start in range(0, len(pictures), BATCH):
        parts.append(space(pictures[start : start + BATCH]))
        report.progress(f"features, {space.name}", min(start + BATCH, len(pictures)), len(pictures))
    found = torch.cat(parts)

    if cache:
        stream = io.BytesIO()
        np.save(stream, found.numpy(), allow_pickle=False)
        content = stream.getvalue()
        with writing("features", cache):
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(cache / f"{made_of}-{sha256(content)}.npy", content)
    return found
