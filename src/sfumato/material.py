"""Real pictures as a model sees them, and which of them it has seen in its training."""

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
        x_0: (B, C, *sides).
        conditions: (B) the condition that each picture shows, see ``asked_of``.
        keys: (B) their numbers in the data, which key the draws.
        names: (B) their paths in the data.
        held_out: whether these are held-out pictures of the training data.
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
    """Data, and which of them the model has seen.

    Attributes:
        data: the data, fitted to the model.
        seen: indices of the pictures that the model was trained on; none if it was trained on other data.
        unseen: indices of all other pictures.
    """

    data: Dataset
    seen: np.ndarray
    unseen: np.ndarray

    @property
    def trained_on(self) -> bool:
        """Whether these are the training data."""
        return len(self.seen) > 0


def chosen(indices: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most `n` of the indices, in an order that `seed` decides; a smaller `n` gives the first of a larger one's."""
    order = Order(torch.as_tensor(indices), seed)
    return np.array([order[i] for i in range(min(n, len(indices)))], dtype=np.int64)


def asked_of(model: Model, data: Dataset, indices: np.ndarray) -> list[Condition]:
    """The condition that would ask for each picture: its class, its first caption, all that training would show.

    Raises:
        UserError: a class that the model does not know.
    """
    kept = torch.tensor([[0.0, 1.0]] * len(model.conditioner.parts))  # the first caption, and nothing dropped
    found = []
    for i in indices.tolist():
        x_0 = model.codec.encode(data.rows[[i]])[0]
        found.append(model.conditioner.normalize(model.conditioner.of(data, i, x_0, kept)))
    return found
