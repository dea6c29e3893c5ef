"""What several models, or several settings of one, are held against: the same real pictures in the same features.

It is that of `sfumato.evaluation.run.evaluate`, so that a number is the same wherever it is measured. Where two sets of
drawn pictures are held against the same real ones, the difference of their numbers has its own jackknife: what only
these real pictures add to both cancels, and of pairs (the same seed and prompt) also what the two have in common. Two
intervals beside each other know nothing of either.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.conditioning.conditioners import Condition
from sfumato.data.dataset import Dataset
from sfumato.evaluation.pictures import material_for
from sfumato.evaluation.run import sets_of
from sfumato.features.spaces import FeatureSpace, features_of, spaces_for
from sfumato.material import asked_of
from sfumato.measures.frechet import distance
from sfumato.measures.interval import Difference, Progress, difference, difference_of, ignored
from sfumato.measures.kernel import cubic, mmd
from sfumato.measures.manifold import prdc
from sfumato.measures.statistics import statistics, wasserstein
from sfumato.measures.vendi import log_score
from sfumato.model import Model
from sfumato.report import Report

# Statistics of a set of features (N, D), by the rows of the report; the reference comes second.
SET_STATISTICS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fd": lambda drawn, reference: distance(reference, drawn)[None],
    "kid": lambda drawn, reference: 1000 * mmd(reference, drawn, cubic)[None],
    "precision recall density coverage": lambda drawn, reference: prdc(reference, drawn),
    "vendi": lambda drawn, reference: log_score(drawn).exp()[None],
}


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The real pictures, what is asked for, and the feature spaces.

    Attributes:
        data: fitted to the model.
        reference: (N,) indices of the real pictures.
        conditions: (N,) what is asked for: what other pictures show.
        asks_for_classes: whether these are classes.
        spaces: the first is learned on the data.
        kept: the folder that keeps features.
    """

    data: Dataset
    reference: np.ndarray
    conditions: Sequence[Condition]
    asks_for_classes: bool
    spaces: Sequence[FeatureSpace]
    kept: Path

    @property
    def real(self) -> np.ndarray:
        """The real pictures, uint8 (N, H, W, C)."""
        return self.data.pictures[self.reference]

    def features(self, space: FeatureSpace, pictures: np.ndarray, report: Report) -> Tensor:
        """The features (N, D) of uint8 (N, H, W, C), from the folder where they are known."""
        return features_of(space, pictures, report, self.kept)


def yardstick(
    model: Model, path: str, n: int, seed: int, shared: Path, report: Report, features: bool = True
) -> Yardstick:
    """That of an evaluation of the model with these arguments; what it shares with that is not made anew.

    Args:
        model: in evaluation mode.
        path: of the data.
        n: pictures of each set.
        seed: of their choice.
        shared: the folder that keeps the data and what is learned of them.
        report: told how far it is.
        features: whether spaces are wanted; to learn one can take minutes.

    Raises:
        UserError: no such data, too few of them, or a class that the model does not know.
    """
    material = material_for(model, path, shared / "data", report)
    reference, control, asked = sets_of(material, n, seed)
    learn_from = material.seen if material.trained_on else np.setdiff1d(material.unseen, control)
    kept = shared / "features"
    spaces = spaces_for(material.data, learn_from, kept, report) if features else []
    conditions = asked_of(model, material.data, asked)
    return Yardstick(material.data, reference, conditions, model.config.condition.kind == "class", spaces, kept)


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
        reference: features (M, D) of the real pictures that both are held against.
        paired: whether a[i] and b[i] are of one seed and prompt.
        seed: of the jackknife.
        names: some of SET_STATISTICS.
        progress: told of every part.
    """

    def all_of(drawn: Tensor, reference: Tensor) -> Tensor:
        return torch.cat([SET_STATISTICS[name](drawn, reference) for name in names])

    rows = [row for name in names for row in name.split()]
    found = difference_of(all_of, a, b, paired, seed, [reference], progress)
    return dict(zip(rows, found, strict=True))


def picture_differences(
    a: np.ndarray, b: np.ndarray, reference: np.ndarray, paired: bool, seed: int
) -> dict[str, Difference]:
    """Sharpness and colours of uint8 pictures `a` (N, H, W, C) less those of `b`, by the rows of the report."""
    of_a, of_b, of_real = (statistics(torch.from_numpy(np.array(pictures))) for pictures in (a, b, reference))
    found = {}
    for name, real in of_real.items():
        found[name] = difference(of_a[name], of_b[name], paired)
        [found[f"{name}-distance"]] = difference_of(wasserstein, of_a[name], of_b[name], paired, seed, [real])
    return found
