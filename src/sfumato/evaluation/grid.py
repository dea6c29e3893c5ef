"""One or two settings of sampling, each at several values: the metrics of every combination, drawn from the same seeds.

Every cell draws the same prompts from the same seeds, so the cells differ only by their settings, and the difference of
two has a paired test (`sfumato.measures.permutation`). The best cell of a table is also the luckiest, so every other
cell is tested against it, with Holm's correction over the table; cells without a significant difference are marked as
no worse. Take the cheapest of these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato import settings_yaml
from sfumato.errors import UserError, unknown
from sfumato.evaluation.compare import holm
from sfumato.evaluation.comparison import SIGNIFICANT, slug
from sfumato.evaluation.samples import Samples, draw_samples
from sfumato.evaluation.yardstick import Yardstick, feature_differences, yardstick
from sfumato.features.spaces import LearnedFeatures
from sfumato.measures.frechet import frechet
from sfumato.measures.interval import Difference, Interval, difference, of_share
from sfumato.measures.kernel import kid
from sfumato.model import Model
from sfumato.report import Report, Silent
from sfumato.settings.sampling import Sampling

# metric -> (name with unit, which is better)
METRICS = {
    "kid": ("KID x 1000", "lower"),
    "fd": ("Fréchet distance", "lower"),
    "accuracy": ("class accuracy", "higher"),
}
# These are not settings of a cell: a list of times fixes the steps, and the others do not decide how a picture is
# drawn.
LEFT_OUT = {"times", "ema", "prompts"}


@dataclass(frozen=True)
class Axis:
    """A setting of sampling and its values, two or more different ones, or one."""

    name: str
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        """ "steps 5", "steps 10", ..."""
        return [f"{self.name} {value}" for value in self.values]


@dataclass(frozen=True, eq=False)
class Cell:
    """A combination of values.

    Attributes:
        place: (row, column).
        changes: the values by the names of the settings.
        settings: all of them.
        samples: the drawn pictures.
        values: metric -> its value.
        right: (N,) whether each picture is taken for its class; None without classes.
        features: (N, D) of the pictures.
        to_best: metric -> the difference to the best cell; none for that itself.
        adjusted: metric -> the p-value of that by Holm's correction.
    """

    place: tuple[int, int]
    changes: Mapping[str, Any]
    settings: Sampling
    samples: Samples
    values: Mapping[str, Interval]
    right: Tensor | None
    features: Tensor
    to_best: dict[str, Difference] = field(default_factory=dict)
    adjusted: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.samples.rows) / self.samples.seconds if self.samples.seconds else 0.0

    def no_worse(self, metric: str) -> bool:
        """Whether it is the best cell, or not significantly worse."""
        return metric not in self.adjusted or self.adjusted[metric] >= SIGNIFICANT


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells, row by row: all values of the second axis for the first value of the first.

    Attributes:
        about: model, data, seed: what the numbers are of.
        axes: those of the rows and the columns; the first has the name "" where one setting only varies.
        cells: in order.
        metrics: those that were measured.
        best: metric -> the place of its best cell in `cells`.
        picture: how a person sees a drawn row.
    """

    about: Mapping[str, Any]
    axes: tuple[Axis, Axis]
    cells: Sequence[Cell]
    metrics: Sequence[str]
    best: Mapping[str, int]
    picture: Callable[[np.ndarray], Image.Image]


# --- what is asked for -----------------------------------------------------------------------------------------------


def axes_of(told: Sequence[str]) -> tuple[Axis, Axis]:
    """One or two of "name=value,value" as the axes of rows and columns.

    Raises:
        UserError: there are more, an unknown setting, no values, or one twice.
    """
    axes = [_axis(text) for text in told]
    if not 1 <= len(axes) <= 2 or len({axis.name for axis in axes}) < len(axes):
        given = ", ".join(axis.name for axis in axes) or "none"
        raise UserError(f"grid: one or two different settings make a grid, not {given}", "give --grid once or twice")
    return (axes[0], axes[1]) if len(axes) == 2 else (Axis("", ("",)), axes[0])


def _axis(text: str) -> Axis:
    name, _, listed = text.partition("=")
    name = name.strip()
    possible = Sampling.model_fields.keys() - LEFT_OUT
    if name not in possible:
        raise unknown("setting of sampling", name, possible)
    values = settings_yaml.load(f"[{listed}]", f"grid {text!r}")
    if not values or any(values.count(value) > 1 for value in values):
        raise UserError(f"grid: {text!r} has no values, or one twice", f"write e.g. --grid {name}=VALUE,VALUE")
    return Axis(name, tuple(values))


def settings_of(model: Model, axes: tuple[Axis, Axis]) -> list[tuple[dict[str, Any], Sampling]]:
    """The changes and the settings of every cell in order, all checked before anything is drawn.

    Raises:
        UserError: a value that a setting cannot have, or one without effect on this model.
    """
    if not model.conditioner.parts:
        for axis in axes:
            if axis.name.startswith("guidance"):
                raise UserError(
                    f"grid: {axis.name} has no effect, for this model was trained without captions or classes",
                    fix="vary another setting, or train on captioned pictures",
                )
    found = []
    for values in product(*(axis.values for axis in axes)):
        changes = {axis.name: value for axis, value in zip(axes, values, strict=True) if axis.name}
        for name, value in changes.items():
            if value is None:  # which `sampling` would take for the model's own
                raise UserError(f"grid: {name} has an empty value", f"write e.g. --grid {name}=VALUE,VALUE")
        found.append((changes, model.sampling(**changes)))
    return found


# --- the measurement -------------------------------------------------------------------------------------------------


def measured(model: Model, path: str, axes: tuple[Axis, Axis], n: int, seed: int, out: Path, report: Report) -> Grid:
    """Draw every cell and measure it.

    Args:
        model: in evaluation mode.
        path: a folder of pictures, or the name of a data set.
        axes: from `axes_of`.
        n: pictures a cell; fewer where the data hold fewer than twice as many.
        seed: decides every choice and draw.
        out: keeps the pictures of the cells and what is learned of the data, so that a stopped grid goes on.
        report: told how far it is.

    Raises:
        UserError: no such data, too few of them, a setting that cannot be, or a class that the model does not know.
    """
    asked = settings_of(model, axes)
    held = yardstick(model, path, n, seed, out / "shared", report)
    space, total = held.spaces[0], len(held.conditions) * sum(settings.steps for _, settings in asked)

    drawn, before = [], 0
    for changes, settings in asked:
        words = [f"{key}={value}" for key, value in changes.items()]
        told = _Part("drawing the grid", report, before, total, ", ".join(words))
        folder = out / "cells" / slug("-".join(words))
        drawn.append(draw_samples(model, held.conditions, settings, seed, folder, told))
        before += len(held.conditions) * settings.steps

    reference, cells = held.features(space, held.real, report), []
    for i, ((changes, settings), samples) in enumerate(zip(asked, drawn, strict=True)):
        place = divmod(i, len(axes[1].values))
        cells.append(_cell(held, place, changes, settings, samples, reference, seed))
        report.progress("measuring the cells", i + 1, len(asked))

    metrics = list(cells[0].values)
    best = {metric: _best(cells, metric) for metric in metrics}
    for i, metric in enumerate(metrics):
        _test(cells, metric, best[metric], reference, seed, report, f"comparing the cells, {i + 1}/{len(metrics)}")
    about = {
        "model": {"name": model.config.name, "weights_sha256": model.fingerprint},
        "data": {"path": path, "manifest_sha256": held.data.manifest_hash},
        "features": {"name": space.name, "sha256": space.sha256},
        "pictures": len(held.conditions),
        "seed": seed,
    }
    return Grid(about, axes, cells, metrics, best, model.codec.picture)


class _Part(Silent):
    """A report of one cell's drawing as a part of the whole, so that the time left is for the whole."""

    def __init__(self, task: str, report: Report, before: int, total: int, note: str) -> None:
        self.task, self.report, self.before, self.total, self.note = task, report, before, total, note

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.report.progress(self.task, self.before + done, self.total, self.note)


def _cell(
    held: Yardstick,
    place: tuple[int, int],
    changes: Mapping[str, Any],
    settings: Sampling,
    samples: Samples,
    reference: Tensor,
    seed: int,
) -> Cell:
    """The values as `sfumato evaluate` has them."""
    space = held.spaces[0]
    features = held.features(space, samples.rows, Silent())
    value = kid(reference, features)
    low, high = (None if end is None else 1000 * end for end in (value.low, value.high))
    values = {"kid": Interval(1000 * value.mean, low, high), "fd": frechet(reference, features, seed).distance}
    right = None
    if isinstance(space, LearnedFeatures) and space.classes and held.asks_for_classes:
        asked = torch.tensor([space.classes.index(condition[held.asks_for_classes]) for condition in held.conditions])
        right = space.classify(np.array(samples.rows)).argmax(1) == asked
        values["accuracy"] = of_share(right.sum().item(), len(right))
    return Cell(place, changes, settings, samples, values, right, features)


def _best(cells: Sequence[Cell], metric: str) -> int:
    """The place of the best cell; among equals, the one with the fewest evaluations."""
    sign = -1 if METRICS[metric][1] == "higher" else 1
    return min(range(len(cells)), key=lambda i: (sign * cells[i].values[metric].mean, cells[i].samples.evaluations))


def _test(
    cells: Sequence[Cell], metric: str, best: int, reference: Tensor, seed: int, report: Report, task: str
) -> None:
    """Every cell but the best against the best."""
    first, others = cells[best], [cell for i, cell in enumerate(cells) if i != best]
    for i, cell in enumerate(others):
        if metric == "accuracy":
            assert cell.right is not None and first.right is not None
            cell.to_best[metric] = difference(cell.right.double(), first.right.double(), paired=True)
        else:
            found = feature_differences(cell.features, first.features, reference, True, seed, [metric])
            cell.to_best[metric] = found[metric]
        report.progress(task, i + 1, len(others))
    ps = [(cell, cell.to_best[metric].p) for cell in others]
    tested = [(cell, p) for cell, p in ps if p is not None]
    for (cell, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
        cell.adjusted[metric] = p
