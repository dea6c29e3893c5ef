"""Whether drawn pictures are nearer to the training pictures than they should be: with a control, not a bare distance.

A blurred or a typical picture is near to everything, so the distance to the nearest training picture alone says
nothing. Held-out pictures are the control. A model that has copied nothing cannot know which of the real pictures it
was trained on: whatever else is wrong with its pictures, they are as near to the one set as to the other, if both sets
have the same size. So the training pictures are subsampled to the number of held-out ones, several times, and

    share   of the drawn pictures that are nearer to training than to held-out pictures: 1/2 without copying
            (Platzer & Reutterer 2021, doi:10.3389/fdata.2021.679939);
    ratio   of the median distances to the nearest training and the nearest held-out picture: 1 without copying.

The statistic C_T of Meehan et al. 2020 (arXiv:2004.05675) and the authenticity of Alaa et al. 2022 (arXiv:2102.08921)
compare with distances between real pictures instead, and so call a blurred picture a copy and a noisy one authentic.
Both sets are themselves samples, so the intervals are jackknives over drawn, training and held-out pictures. Features
that were learned on the training pictures may tell the two sets apart by themselves: use one space that has seen
neither.

Single copies are searched among all training pictures, by the nearness

    d(x, nearest training picture) / mean of d(x, the ten nearest held-out pictures),

the adaptive distance of Carlini et al. 2023 (arXiv:2301.13188), but relative to held-out neighbours: a picture that was
trained on a hundred times has a hundred near training pictures. The same nearness is measured for held-out pictures,
and a near-copy is nearer than all but 0.1 % of them. An honest model has that many: among n drawn pictures, the number
below the j-th smallest of K values follows the beta-binomial law (n, j, K + 1 - j), which gives the p-value. If
near-duplicates lie on both sides of the split, the threshold is too small: scan for them first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.codecs.grid import labelled_grid
from sfumato.errors import UserError
from sfumato.keyed import generator
from sfumato.measures.interval import Interval, Progress, interval, jackknife
from sfumato.measures.neighbours import Neighbours, nearest

SUBSAMPLES = 10  # number of subsamples of the training pictures
DEPTH = 10  # neighbours that are kept: the jackknife leaves out a quarter of the pictures at a time
CONTROL = 10  # held-out neighbours whose mean distance is the unit of nearness
QUANTILE = 0.001  # share of held-out pictures that count as near-copies
FEWEST = 50  # pictures of each set


@dataclass(frozen=True, eq=False)
class Nearest:
    """The pictures nearest to each drawn picture.

    Attributes:
        training, held_out: (N) indices of the nearest picture among all of them.
        to_training, to_held_out: (N) their distances.
        nearness: (N) the distance to training relative to the distance of held-out neighbours.
    """

    training: Tensor
    to_training: Tensor
    held_out: Tensor
    to_held_out: Tensor
    nearness: Tensor


@dataclass(frozen=True, eq=False)
class Memorization:
    """What was found in one feature space.

    Attributes:
        share: share of drawn pictures nearer to training than to held-out ones; 0.5 without copying.
        p_value: probability of so large a share without copying.
        ratio: ratio of the median distances to training and to held-out pictures; 1 without copying.
        near_copies: share of drawn pictures that are near-copies.
        expected: the share of near-copies without copying.
        near_copies_p_value: probability of so many near-copies without copying.
        threshold: the nearness below which a picture is a near-copy.
        nearest: the nearest pictures of each picture.
    """

    share: Interval
    p_value: float
    ratio: Interval
    near_copies: Interval
    expected: float
    near_copies_p_value: float
    threshold: float
    nearest: Nearest


def memorization(
    drawn: Tensor, training: Tensor, held_out: Tensor, seed: int, progress: Progress = lambda done, total: None
) -> Memorization:
    """Compare the distances of drawn pictures to training and to held-out pictures, all as features.

    Args:
        drawn: (N, D).
        training: (M, D), M at least K: all that the model has seen, each picture once.
        held_out: (K, D), of the same law as the training pictures.
        seed: decides the subsamples and the jackknife.
        progress: told of every search.

    Raises:
        UserError: fewer than 50 pictures of a kind, or fewer training than held-out pictures.
        MissingPackage: faiss is not installed.
    """
    for name, few in (("drawn", drawn), ("held-out", held_out)):
        if len(few) < FEWEST:
            raise UserError(
                f"memorization: {len(few)} {name} pictures are too few to tell, which needs {FEWEST}",
                fix="draw more" if name == "drawn" else "hold out more (data.validation), or give other real pictures",
            )
    if len(training) < len(held_out):
        raise UserError(
            f"memorization: {len(training):,} training pictures are fewer than the {len(held_out):,} held-out ones",
            fix=f"take {len(training):,} or fewer held-out pictures",
        )
    found = nearness(drawn, training, held_out)
    progress(1, SUBSAMPLES + 2)
    copies, expected, p_of_copies, threshold = near_copies(
        found.nearness, nearness(held_out, training, held_out, itself=True).nearness
    )
    progress(2, SUBSAMPLES + 2)
    share, p_value, ratio = comparison(
        drawn, training, held_out, seed, lambda done, total: progress(2 + done, 2 + total)
    )
    return Memorization(share, p_value, ratio, copies, expected, p_of_copies, threshold, found)


def nearness(features: Tensor, training: Tensor, held_out: Tensor, itself: bool = False) -> Nearest:
    """The pictures nearest to each of the features (N, D), among all training and all held-out pictures.

    Args:
        features: (N, D).
        training: (M, D).
        held_out: (K, D).
        itself: whether `features` are the held-out pictures; then no picture counts as its own neighbour.
    """
    to_training, to_held_out = nearest(features, training), nearest(features, held_out, CONTROL + itself)
    distances, indices = to_held_out.distances, to_held_out.indices
    if itself:
        others = indices != torch.arange(len(features))[:, None]
        others[others.all(1), -1] = False  # a picture with so many equals that it is not among its own neighbours
        distances, indices = (each[others].view(-1, CONTROL) for each in (distances, indices))
    return Nearest(
        training=to_training.indices[:, 0],
        to_training=to_training.distances[:, 0],
        held_out=indices[:, 0],
        to_held_out=distances[:, 0],
        nearness=to_training.distances[:, 0] / distances.mean(1).clamp(min=1e-12),
    )


def near_copies(drawn: Tensor, real: Tensor) -> tuple[Interval, float, float, float]:
    """How many of the drawn pictures are near-copies, by the nearness of drawn (N,) and held-out pictures (K,).

    Returns:
        the share with its interval (Clopper & Pearson), the share expected without copying, the p-value, the threshold.
    """
    from scipy.stats import betabinom, binomtest

    total = len(real)
    threshold = real.sort().values[max(1, int(QUANTILE * (total + 1))) - 1].item()
    below = int((real <= threshold).sum())
    count = int((drawn <= threshold).sum())
    ends = binomtest(count, len(drawn)).proportion_ci()
    p_value = float(betabinom.sf(count - 1, len(drawn), below, total + 1 - below))
    return Interval(count / len(drawn), ends.low, ends.high), below / (total + 1), p_value, threshold


def comparison(
    drawn: Tensor, training: Tensor, held_out: Tensor, seed: int, progress: Progress = lambda done, total: None
) -> tuple[Interval, float, Interval]:
    """The share of drawn pictures nearer to training with its p-value, and the ratio of medians; as `memorization`."""
    from scipy.stats import t

    to_held_out = nearest(drawn, held_out, DEPTH)
    subsamples = []
    for i in range(SUBSAMPLES):
        some = torch.randperm(len(training), generator=generator(seed, "memorization", i))[: len(held_out)]
        found = nearest(drawn, training[some], DEPTH)
        subsamples.append(Neighbours(found.distances, some[found.indices]))
        progress(i + 1, SUBSAMPLES)

    def statistic(left: Tensor, left_training: Tensor, left_held_out: Tensor) -> Tensor:
        control = _first(to_held_out, left_held_out, len(held_out))[left]
        values = []
        for subsample in subsamples:
            to_training = _first(subsample, left_training, len(training))[left]
            nearer = (to_training < control).double() + (to_training == control).double() / 2
            values.append(torch.stack([nearer.mean(), to_training.median() / control.median()]))
        return torch.stack(values).mean(0)

    sets = [torch.arange(len(each)) for each in (drawn, training, held_out)]
    share, ratio = statistic(*sets).tolist()
    errors = jackknife(statistic, sets, seed)
    of_share, of_ratio = errors.error.tolist()
    p_value = float(t.sf((share - 0.5) / of_share, errors.freedom)) if of_share else float(share <= 0.5)
    return (
        interval(share, of_share, errors.freedom).within(0, 1),
        p_value,
        interval(ratio, of_ratio, errors.freedom).within(0, math.inf),
    )


def _first(found: Neighbours, left: Tensor, size: int) -> Tensor:
    """The distance (N,) to the nearest of the references that are left, out of `size`."""
    there = torch.zeros(size, dtype=torch.bool).index_fill(0, left, True)[found.indices]
    there[:, -1] = True  # where none is left, the last stands for those beyond
    return found.distances.gather(1, there.int().argmax(1, keepdim=True))[:, 0]


def sheet(
    drawn: np.ndarray,
    training: np.ndarray,
    held_out: np.ndarray,
    found: Nearest,
    picture: Callable[[np.ndarray], Image.Image],
    count: int = 16,
) -> Image.Image:
    """The drawn pictures with the smallest nearness, each beside its nearest training and nearest held-out picture.

    Args:
        drawn: stored rows (N, ...).
        training: (M, ...).
        held_out: (K, ...).
        found: the nearest pictures.
        picture: how a person sees a row.
        count: number of rows.
    """
    tiles, labels = [], []
    for i in found.nearness.argsort(stable=True)[:count].tolist():
        triple = (drawn[i], training[found.training[i]], held_out[found.held_out[i]])
        tiles += [picture(row) for row in triple]
        labels += [f"drawn {i}", f"training {found.to_training[i]:.3g}", f"held-out {found.to_held_out[i]:.3g}"]
    return labelled_grid(tiles, labels, columns=6)
