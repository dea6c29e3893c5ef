"""The difference of a number of two whole sets, both compared with the same reference, with p-value and interval.

A Fréchet distance or a KID of two models is not a mean over pictures. Its variance has two parts:

- **Chance with one law.** If both models draw from one law, nothing changes when the pictures of a pair (one seed and
  prompt, drawn by both) change sides, or, without pairs, when all pictures are dealt anew. s^2 is the mean square of
  the difference over many such exchanges; the reference stays as it is. This part is exact for two models of one law,
  also where the number is curved: few pictures, many features, models near the reference.
- **The additional part of different laws.** Two laws at one distance from the reference are moved apart by the actual
  sample of the reference, and exchanges cannot see that. The delete-a-group jackknife of pairs and reference sees it,
  but counts the curved part twice. So the jackknife is also taken of the exchanged sets (mean m, standard deviation d),
  and only the excess of the jackknife v of the sets themselves is added:

      variance = s^2 + max(0, v - m - d / 2).

  Without d / 2 the noise of v alone makes the variance too large; with d, laws at one distance are called different.

The p-value and the interval both follow from Student's law with this variance, so they never contradict each other:
p < 0.05 if the interval of 95 % excludes 0. `docs/compare.md` has the measured rates.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfumato.errors import UserError
from sfumato.keyed import generator
from sfumato.measures.interval import Difference, Progress, ignored, same_number, tested

EXCHANGES = 200
JACKKNIFED = 8  # exchanges that are jackknifed
KEPT = 4000  # largest pool for which a statistic keeps all pairs of pictures (128 MB)
GROUPS, CUTS = 4, 7  # groups and cuts of the jackknife

Of = Callable[[Tensor], Tensor]  # indices (n,) into the pool -> values (V,)
Against = Callable[[Tensor], Of]  # indices (m,) into the reference -> the statistic against these
Statistic = Callable[[Tensor, Tensor], Against]  # pool (N, ...), reference (M, ...) -> the function of their parts


def directly(statistic: Callable[[Tensor, Tensor], Tensor]) -> Statistic:
    """A statistic of (set, reference) -> any shape that is computed anew for every part."""

    def prepare(pool: Tensor, reference: Tensor) -> Against:
        return lambda j: lambda i: statistic(pool[i], reference[j]).flatten()

    return prepare


def together(statistics: Sequence[Statistic]) -> Statistic:
    """Several statistics of one part as one, their values one after another."""

    def prepare(pool: Tensor, reference: Tensor) -> Against:
        prepared = [statistic(pool, reference) for statistic in statistics]

        def against(j: Tensor) -> Of:
            all_of = [each(j) for each in prepared]
            return lambda i: torch.cat([of(i) for of in all_of])

        return against

    return prepare


def difference_of(
    statistic: Statistic,
    a: Tensor,
    b: Tensor,
    reference: Tensor,
    paired: bool,
    seed: int,
    progress: Progress = ignored,
) -> list[Difference]:
    """The statistic of `a` minus the statistic of `b`, one difference for each value.

    Args:
        statistic: if it depends on the number of pictures, `a` and `b` must have as many.
        a: (N, ...).
        b: (M, ...), as many as in `a` if they are paired.
        reference: the set that both are compared with.
        paired: whether a[i] and b[i] belong together; they are then exchanged and left out together.
        seed: decides the exchanges and the jackknife.
        progress: called after every exchange.

    Raises:
        ValueError: pairs of unequal numbers.
        UserError: too few members for an interval.
    """
    if paired:
        same_number(a, b)
    least = min(len(a), len(b), len(reference))
    if least < 2 * GROUPS:
        raise UserError(
            f"{least} pictures are too few for an interval, which needs {2 * GROUPS}", fix="take more pictures"
        )
    against = statistic(torch.cat([a, b]), reference)
    of = against(torch.arange(len(reference)))
    first, second = torch.arange(len(a)), torch.arange(len(a), len(a) + len(b))

    def error(i: Tensor, j: Tensor, *place: int) -> Tensor:
        return _jackknife(against, i, j, len(reference), paired, generator(seed, "left out", *place))

    if torch.equal(a, b):  # not even a rounding error apart
        return [tested(0.0, 0.0, EXCHANGES) for _ in of(first)]
    gap, observed = of(first) - of(second), error(first, second)
    source, squares, errors = generator(seed, "exchanges"), [], []
    for place in range(EXCHANGES):
        i, j = _exchanged(first, second, paired, source)
        squares.append((of(i) - of(j)).square())
        if place < JACKKNIFED:
            errors.append(error(i, j, place))
        progress(place + 1, EXCHANGES)

    by_chance, excess = torch.stack(squares).mean(0), torch.stack(errors)
    more = (observed - excess.mean(0) - excess.std(0) / 2).clamp(min=0)
    found = []
    for value, chance, added in zip(gap.tolist(), by_chance.tolist(), more.tolist(), strict=True):
        found.append(tested(value, math.sqrt(chance + added), _freedom(chance, added)))
    return found


def _exchanged(first: Tensor, second: Tensor, paired: bool, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both sets after an exchange: the sides of each pair by a coin, or all members dealt anew."""
    if paired:
        stays = torch.rand(len(first), generator=source) < 0.5
        return torch.where(stays, first, second), torch.where(stays, second, first)
    dealt = torch.randperm(len(first) + len(second), generator=source)
    return dealt[: len(first)], dealt[len(first) :]


def _jackknife(against: Against, i: Tensor, j: Tensor, size: int, paired: bool, source: torch.Generator) -> Tensor:
    """The variance (V,) of of(i) - of(j) by the delete-a-group jackknife of `interval.jackknife`."""
    variances = []
    for _ in range(CUTS):
        left_i = torch.randperm(len(i), generator=source).tensor_split(GROUPS)
        left_j = left_i if paired else torch.randperm(len(j), generator=source).tensor_split(GROUPS)
        left = torch.randperm(size, generator=source).tensor_split(GROUPS)
        values = []
        for group in range(GROUPS):
            of = against(_without(left, group))
            values.append(of(i[_without(left_i, group)]) - of(j[_without(left_j, group)]))
        variances.append((GROUPS - 1) ** 2 / GROUPS * torch.stack(values).var(0))
    return torch.stack(variances).mean(0)


def _without(groups: Sequence[Tensor], group: int) -> Tensor:
    return torch.cat([*groups[:group], *groups[group + 1 :]])


def _freedom(chance: float, added: float) -> float:
    """Welch's degrees of freedom of the sum of the two parts of the variance."""
    squared = chance**2 / EXCHANGES + added**2 / (CUTS * (GROUPS - 1))
    return (chance + added) ** 2 / squared if squared else float(EXCHANGES)
