"""What a run begins with: random weights, or the weights of a saved model as far as they fit (``start.model``).

A weight is taken if the new model has one of the same name and shape. The vector of a class is found by the name of the
class, not by its number, and a text encoder keeps the vocabulary that its vectors belong to. The run keeps a copy of
the model in ``start/``, so it can go on after the model is moved, and names it by the hash of its weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato import saved
from sfumato.config import Config, validate
from sfumato.durable import write_atomically
from sfumato.errors import UserError
from sfumato.lift import lifted_weights
from sfumato.model import Model

KEPT = "start"  # the model's copy in a run folder
NAMED = 5  # weights that a message lists


@dataclass(frozen=True)
class Donor:
    """A saved model that a run begins with.

    Attributes:
        name: its name, as it was given.
        config: its settings.
        classes: its class names.
        weights: its tensors by name.
        files: its other files by name, including the vocabulary of a trained text encoder.
        sha256: SHA-256 of the file of its weights.
    """

    name: str
    config: Config
    classes: tuple[str, ...]
    weights: dict[str, Tensor]
    files: dict[str, bytes]
    sha256: str

    @classmethod
    def read(cls, name: str, folder: Path) -> "Donor":
        """Reads a model folder.

        Raises:
            UserError: no model there, or a damaged one.
        """
        description, files = saved.read(folder)
        config = validate(description["config"], str(folder / saved.DESCRIPTION))
        weights = saved.read_tensors(folder / saved.WEIGHTS, files[saved.WEIGHTS])
        weights = lifted_weights(weights, [f"conditioner.{condition}" for condition in config.conditions])
        return cls(name, config, tuple(description["classes"]), weights, files, saved.sha256(files[saved.WEIGHTS]))

    @torch.no_grad()
    def into(self, model: Model) -> dict[str, Any]:
        """Copy the weights that fit into ``model``.

        Args:
            model: a new model; it is changed in place.

        Returns:
            For the model's lineage: name, hash, how many weights were taken, and why the others were not.

        Raises:
            UserError: no matrix fits.
        """
        own, left, taken = {**model.parameters(), **model.buffers()}, {}, []
        buffers = model.buffers().keys()
        vectors = f"conditioner.{model.conditioner.named('class')}.embedding.weight"
        for name, parameter in own.items():
            value = self.weights.get(name)
            if name == vectors and value is not None:
                value, lost = self._by_name(value, parameter, model.classes)
                left |= {f"{vectors} of {label}": "a new class" for label in lost}
            if value is None:
                left[name] = "not there"
            elif value.shape != parameter.shape:
                left[name] = f"{list(value.shape)} there, {list(parameter.shape)} here"
            elif name not in buffers and not (value.is_floating_point() and value.isfinite().all()):
                left[name] = "not finite"
            else:
                parameter.copy_(value)
                taken.append(name)
        if not any(own[name].ndim > 1 for name in taken):
            raise UserError(
                f"start.model: no matrix of {self.name!r} fits this network",
                fix="give the settings of its network, e.g. with --recipe, or leave start.model out",
            )
        return {"model": self.name, "weights_sha256": self.sha256, "taken": len(taken), "left": left}

    def told(self, lineage: Mapping[str, Any], model: Model) -> str:
        """What ``into`` took and what it did not take, for people."""
        left, n = lineage["left"], len(model.parameters())
        lines = [f"start: {lineage['taken']:,} of {n:,} weights are those of {self.name} (SHA-256 {self.sha256[:10]})"]
        if left:
            some = "; ".join(f"{name} ({why})" for name, why in list(left.items())[:NAMED])
            lines.append(f"start: new are {some}{f'; and {len(left) - NAMED:,} more' if len(left) > NAMED else ''}")
        return "\n".join([*lines, *self._meant_otherwise(model.config)])

    def _by_name(self, value: Tensor, own: Tensor, classes: tuple[str, ...]) -> tuple[Tensor | None, list[str]]:
        """The vectors (C + 1, width) of ``classes`` and of no class; and the classes that the model does not know."""
        if value.shape[1:] != own.shape[1:] or len(value) != len(self.classes) + 1:
            return value, []
        row = {label: i for i, label in enumerate(self.classes)}
        vectors = own.clone()
        vectors[-1] = value[-1]
        for i, label in enumerate(classes):
            if label in row:
                vectors[i] = value[row[label]]
        return vectors, [label for label in classes if label not in row]

    def _meant_otherwise(self, config: Config) -> list[str]:
        names = ("schedule", "parameterization", "sigma_data", "shift")
        there, here = self.config.diffusion, config.diffusion
        pairs = [(name, getattr(there, name), getattr(here, name)) for name in names]
        odd = [f"{name} {a} there, {b} here" for name, a, b in pairs if a != b]
        return [f"start: the weights were trained for another process ({'; '.join(odd)})"] if odd else []


def started(config: Config, out: Path) -> Donor | None:
    """The model that the run in ``out`` begins with, None for random weights.

    Args:
        config: the settings of the run.
        out: the run folder. A run that has begun has a copy of the model; a new run gets one.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if not config.start.model:
        return None
    if (out / "config.yaml").exists():
        return Donor.read(config.start.model, out / KEPT)
    folder = saved.model_folder(config.start.model)
    donor = Donor.read(config.start.model, folder)
    (out / KEPT).mkdir(parents=True, exist_ok=True)
    for name in [*saved.read(folder)[1], saved.DESCRIPTION]:
        write_atomically(out / KEPT / name, (folder / name).read_bytes())
    return donor
