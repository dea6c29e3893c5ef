"""Real pictures as a model sees them, and what of them it has seen in its training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.conditioning.values import Condition
from sfumato.data.dataset import Dataset
from sfumato.keyed import Order
from sfumato.model import Model


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures for an evaluation.

    Attributes:
        x_0: (B, C, H, W) in [-1, 1].
        conditions: (B) what each picture shows, see ``asked_of``.
        keys: (B) their numbers in the data, by which draws are keyed.
        names: (B) their paths in the data.
        held_out: whether the data are those of the training, of which only held-out pictures were taken.
        manifest: SHA-256 of the data's manifest.
    """

    x_0: Tensor
    conditions: Sequence[Condition]
    keys: Sequence[int]
    names: Sequence[str]
    held_out: bool
    manifest: str


@dataclass(frozen=True, eq=False)
class Material:
    """Data, and what of them the model has seen.

    Attributes:
        data: fitted to the model.
        seen: indices of the pictures that the model was trained on; none where the data are others.
        unseen: indices of all other pictures.
    """

    data: Dataset
    seen: np.ndarray
    unseen: np.ndarray

    @property
    def trained_on(self) -> bool:
        """Whether the data are those of the training."""
        return len(self.seen) > 0


def chosen(indices: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most `n` of the indices, in an order that `seed` decides; the first of many are the choice of few."""
    order = Order(torch.as_tensor(indices), seed)
    return np.array([order[i] for i in range(min(n, len(indices)))], dtype=np.int64)


def asked_of(model: Model, data: Dataset, indices: np.ndarray) -> list[Condition]:
    """What each picture would be asked for: its class, its first caption, all that training would show of it.

    Raises:
        UserError: a class that the model does not know.
    """
    kept = torch.tensor([[0.0, 1.0]] * len(model.conditioner.parts))  # the first caption, and nothing dropped
    found = []
    for i in indices.tolist():
        x_0 = model.codec.encode(data.rows[[i]])[0]
        found.append(model.conditioner.normalize(model.conditioner.of(data, i, x_0, kept)))
    return found
