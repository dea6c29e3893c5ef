"""The yardstick of several models, or of several settings of one: the same real pictures in the same features.

`sfumato.evaluation.run.evaluate` has the same one, so a number is the same wherever it is measured. If two sets of
drawn pictures are compared with the same real ones, the difference of their numbers has its own test
(`sfumato.measures.permutation`): the contribution of these real pictures to both cancels, as does the common part of
pairs (the same seed and prompt). Two separate intervals know nothing of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.conditioning.values import Condition
from sfumato.data.dataset import Dataset
from sfumato.evaluation.pictures import material_for
from sfumato.evaluation.run import learned_from, sets_of
from sfumato.features.cache import feature_cache
from sfumato.features.spaces import FeatureSpace, features_of, spaces_for
from sfumato.material import asked_of
from sfumato.measures import frechet, kernel, manifold, vendi
from sfumato.measures.interval import Difference, Progress, difference, ignored
from sfumato.measures.permutation import Statistic, difference_of, directly, together
from sfumato.measures.statistics import statistics, wasserstein
from sfumato.model import Model
from sfumato.report import Report

# Numbers of whole sets, by the rows of the report.
SET_STATISTICS: Mapping[str, Statistic] = {
    "fd": frechet.of_parts,
    "kid": kernel.of_parts,
    "precision recall density coverage": manifold.of_parts,
    "vendi": vendi.of_parts,
}


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The real pictures, what is asked for, and the feature spaces.

    Attributes:
        data: fitted to the model.
        codec: of the model.
        reference: (N,) indices of the real pictures.
        conditions: (N,) the conditions to draw, which come from other pictures.
        asks_for_classes: the name of the condition that holds a class, None without one.
        spaces: the first is learned on the data.
        kept: the folder that keeps features.
    """

    data: Dataset
    codec: Codec
    reference: np.ndarray
    conditions: Sequence[Condition]
    asks_for_classes: str | None
    spaces: Sequence[FeatureSpace]
    kept: Path

    @property
    def real(self) -> np.ndarray:
        """The real ones, stored rows (N, ...)."""
        return self.data.rows[self.reference]

    def features(self, space: FeatureSpace, rows: np.ndarray, report: Report) -> Tensor:
        """The features (N, D) of stored rows (N, ...), from the folder where they are known."""
        return features_of(space, rows, report, self.kept)


def yardstick(
    model: Model, path: str, n: int, seed: int, shared: Path, report: Report, features: bool = True
) -> Yardstick:
    """The yardstick of an evaluation of the model with these arguments; nothing that both need is made twice.

    Args:
        model: in evaluation mode.
        path: a folder of pictures, or the name of a data set.
        n: pictures of each set.
        seed: decides their choice.
        shared: the folder that keeps the data.
        report: told how far it is.
        features: whether feature spaces are needed; learning one can take minutes.

    Raises:
        UserError: no such data, too few of them, or a class that the model does not know.
    """
    material = material_for(model, path, shared / "data", report)
    reference, control, asked = sets_of(material, n, seed)
    kept = feature_cache()
    data, codec = material.data, model.codec
    spaces = spaces_for(data, codec, learned_from(material, control), kept, report) if features else []
    conditions = asked_of(model, data, asked)
    return Yardstick(data, codec, reference, conditions, model.conditioner.named("class"), spaces, kept)


def feature_differences(
    a: Tensor,
    b: Tensor,
    reference: Tensor,
    paired: bool,
    seed: int,
    names: Sequence[str] = tuple(SET_STATISTICS),
    progress: Progress = ignored,
) -> dict[str, Difference]:
    """Every statistic of `a` less that of `b`, by the rows of the report; KID times 1,000.

    Args:
        a: features (N, D).
        b: features (N, D).
        reference: features (M, D) of the real pictures that both are compared with.
        paired: whether a[i] and b[i] are of one seed and prompt.
        seed: decides the exchanges.
        names: some of SET_STATISTICS.
        progress: told of every part.
    """
    rows = [row for name in names for row in name.split()]
    statistic = together([SET_STATISTICS[name] for name in names])
    found = difference_of(statistic, a, b, reference, paired, seed, progress)
    return dict(zip(rows, found, strict=True))


def row_differences(
    codec: Codec, a: np.ndarray, b: np.ndarray, reference: np.ndarray, paired: bool, seed: int
) -> dict[str, Difference]:
    """The statistics of stored rows `a` (N, ...) less those of `b`, by the rows of the report."""
    of_a, of_b, of_real = (statistics(codec, rows) for rows in (a, b, reference))
    found = {}
    for name, real in of_real.items():
        found[name] = difference(of_a[name], of_b[name], paired)
        [found[f"{name}-distance"]] = difference_of(directly(wasserstein), of_a[name], of_b[name], real, paired, seed)
    return found
