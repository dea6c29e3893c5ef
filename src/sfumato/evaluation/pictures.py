"""The pictures that a model is judged by: real ones, as the model sees them, that it was not trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.conditioning.conditioners import Condition
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


def pictures_for(model: Model, path: str, n: int, seed: int, cache: Path, report: Report) -> Pictures:
    """At most `n` pictures of a folder or a named data set, fitted to the model, chosen by `seed`.

    Where the data are those that the model was trained on, only held-out ones are taken.

    Raises:
        UserError: no such data, nothing held out, or a class that the model does not know.
    """
    data = prepared_data(adjusted(model.config, f"data.path={json.dumps(path)}"), cache, report)
    held_out = data.manifest_hash == model.record.get("manifest_sha256")
    share = model.config.data.validation
    if held_out and not share:
        raise UserError(
            f"{path}: the model was trained on all of these pictures (data.validation was 0)",
            fix="give the folder of pictures that it has not seen",
        )
    indices = torch.as_tensor(data.split(share)[1]) if held_out else torch.arange(len(data))
    order = Order(indices, seed)
    chosen = [order[i] for i in range(min(n, len(indices)))]

    offered = [conditions_of(data, i, model.config.condition.kind) for i in chosen]
    rows = data.manifest
    return Pictures(
        x_0=model.codec.encode(data.pictures[chosen]),
        conditions=[model.conditioner.normalize(texts[0] if texts else None, "class") for texts in offered],
        keys=chosen,
        names=[rows[i]["path"] for i in chosen],
        held_out=held_out,
        manifest=data.manifest_hash,
    )
