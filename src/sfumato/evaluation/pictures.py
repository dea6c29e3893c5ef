"""The real pictures that a model is judged by: fitted as in its training, and held out where it was trained on them."""

import json
from pathlib import Path

import numpy as np

from sfumato.config import adjusted
from sfumato.data.groups import NoGroup
from sfumato.errors import UserError
from sfumato.material import Material, Pictures, asked_of, chosen
from sfumato.model import Model
from sfumato.report import Report
from sfumato.training.prepared import prepared_data


def material_for(model: Model, path: str, cache: Path, report: Report) -> Material:
    """A folder or a named data set, fitted to the model and split as its training did where it was trained on it.

    Raises:
        UserError: no such data.
    """
    config = adjusted(model.config, f"data.path={json.dumps(path)}")
    try:
        data = prepared_data(config, cache, report)
    except NoGroup:  # other data, which have no such column or names: nothing of them was seen
        data = prepared_data(adjusted(config, 'data.group=""'), cache, report)
    if data.manifest_hash != model.record.get("manifest_sha256"):
        return Material(data, np.arange(0), np.arange(len(data)))
    return Material(data, *data.split(model.config.data.validation or 0))


def pictures_for(model: Model, path: str, n: int, seed: int, cache: Path, report: Report) -> Pictures:
    """At most `n` pictures of a folder or a named data set, fitted to the model, chosen by `seed`.

    Where the data are those that the model was trained on, only held-out ones are taken.

    Raises:
        UserError: no such data, nothing held out, or a class that the model does not know.
    """
    return pictures_of(model, material_for(model, path, cache, report), path, n, seed)


def pictures_of(model: Model, material: Material, path: str, n: int, seed: int) -> Pictures:
    """The same as `pictures_for`, for data that are open already."""
    data = material.data
    if not len(material.unseen):
        raise UserError(
            f"{path}: the model was trained on all of these pictures (data.validation was 0)",
            fix="give the folder of pictures that it has not seen",
        )
    keys = chosen(material.unseen, n, seed)
    rows = data.manifest
    return Pictures(
        x_0=model.codec.encode(data.rows[keys]),
        conditions=asked_of(model, data, keys),
        keys=keys.tolist(),
        names=[rows[i]["path"] for i in keys.tolist()],
        held_out=material.trained_on,
        manifest=data.manifest_hash,
    )
