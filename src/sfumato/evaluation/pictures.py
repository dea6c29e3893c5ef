"""The pictures that a model is judged by: real ones, as the model sees them, that it was not trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.conditioning.conditioners import Condition
from sfumato.data.dataset import Dataset
from sfumato.errors import UserError
from sfumato.model import Model
from sfumato.training.keyed import Order
from sfumato.training.log import Report
from sfumato.training.loop import conditions_of
from sfumato.training.resolve import adjusted
from sfumato.training.run import prepared_data


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures for an evaluation.

    Attributes:
        x_0: (B, C, H, W) in [-1, 1].
        conditions: (B) each picture's own class or first caption, None without.
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


def material_for(model: Model, path: str, cache: Path, report: Report) -> Material:
    """A folder or a named data set, fitted to the model and split as its training did where it was trained on it.

    Raises:
        UserError: no such data.
    """
    data = prepared_data(adjusted(model.config, f"data.path={json.dumps(path)}"), cache, report)
    if data.manifest_hash != model.record.get("manifest_sha256"):
        return Material(data, np.arange(0), np.arange(len(data)))
    return Material(data, *data.split(model.config.data.validation))


def chosen(indices: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most `n` of the indices, in an order that `seed` decides; the first of many are the choice of few."""
    order = Order(torch.as_tensor(indices), seed)
    return np.array([order[i] for i in range(min(n, len(indices)))], dtype=np.int64)


def asked_of(model: Model, data: Dataset, indices: np.ndarray) -> list[Condition]:
    """What each picture would be asked for: its class or its first caption, None without.

    Raises:
        UserError: a class that the model does not know.
    """
    offered = [conditions_of(data, i, model.config.condition.kind) for i in indices.tolist()]
    return [model.conditioner.normalize(texts[0] if texts else None, "class") for texts in offered]


def pictures_for(model: Model, path: str, n: int, seed: int, cache: Path, report: Report) -> Pictures:
    """At most `n` pictures of a folder or a named data set, fitted to the model, chosen by `seed`.

    Where the data are those that the model was trained on, only held-out ones are taken.

    Raises:
        UserError: no such data, nothing held out, or a class that the model does not know.
    """
    return pictures_of(model, material_for(model, path, cache, report), path, n, seed)


def pictures_of(model: Model, material: Material, path: str, n: int, seed: int) -> Pictures:
    """As `pictures_for`, of data that are open already."""
    data = material.data
    if not len(material.unseen):
        raise UserError(
            f"{path}: the model was trained on all of these pictures (data.validation was 0)",
            fix="give the folder of pictures that it has not seen",
        )
    keys = chosen(material.unseen, n, seed)
    rows = data.manifest
    return Pictures(
        x_0=model.codec.encode(data.pictures[keys]),
        conditions=asked_of(model, data, keys),
        keys=keys.tolist(),
        names=[rows[i]["path"] for i in keys.tolist()],
        held_out=material.trained_on,
        manifest=data.manifest_hash,
    )
