"""Precision, recall, density and coverage: how many drawn pictures look real, and how much of the real is drawn.

The ball of a picture reaches to its k-th nearest neighbour in its own set. Of N real and M drawn pictures:

    precision   share of drawn ones in the ball of any real one         (Kynkaanniemi et al. 2019, arXiv:1904.06991)
    recall      share of real ones in the ball of any drawn one
    density     mean number of real balls that a drawn one is in, / k   (Naeem et al. 2020, arXiv:2002.09797)
    coverage    share of real ones with any drawn one in their ball

All depend on N, M and k: compare them only for the same values. For two sets of one law density is 1 on average (it may
be above 1) and coverage is 1 - (N - 1) ... (N - k) / ((N + M - 1) ... (N + M - k)), 0.97 for N = M and k = 5.

The intervals are for other sets of the same size on both sides, because the balls move with their pictures. They come
from random halves. In 60 to 100 trials (D of 16 and 64, N = 300, M of 300 and 600) they contained the mean in 88 to
100 %; the bootstrap contained it in 0 to 63 %, and counting the pictures of one side as if the balls were fixed in 72
to 93 %.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import UserError
from sfumato.measures.interval import Interval, Progress, ignored, interval, jackknife
from sfumato.measures.permutation import KEPT, Against, Of, directly

ROWS = 1000  # rows of the matrix of distances at once
CUTS = 12  # random cuts into halves


@dataclass(frozen=True)
class Manifold:
    """The four numbers of k-th neighbours."""

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


def prdc(real: Tensor, drawn: Tensor, k: int = 5) -> Tensor:
    """Precision, recall, density and coverage (4,) of features (N, D) and (M, D), in float64; N and M above k."""
    x, y = real.double(), drawn.double()
    reach_x, reach_y = _reach(x, k), _reach(y, k)

    balls = torch.zeros(len(y), dtype=torch.int64)  # real ones that each drawn picture is in
    recalled, covered = 0, 0
    for start in range(0, len(x), ROWS):
        gaps = torch.cdist(x[start : start + ROWS], y)
        inside = gaps < reach_x[start : start + ROWS, None]
        balls += inside.sum(0)
        covered += inside.any(1).sum().item()
        recalled += (gaps < reach_y).any(1).sum().item()

    return torch.tensor(
        [(balls > 0).double().mean(), recalled / len(x), balls.double().mean() / k, covered / len(x)],
        dtype=torch.float64,
    )


def of_parts(pool: Tensor, reference: Tensor, k: int = 5) -> Against:
    """`prdc` of parts of a pool (N, D) to parts of a reference (M, D); every distance is computed once, up to
    `permutation.KEPT` pictures."""
    if len(pool) > KEPT:
        return directly(lambda drawn, real: prdc(real, drawn, k))(pool, reference)
    x, y = pool.double(), reference.double()
    own, real, to = torch.cdist(x, x), torch.cdist(y, y), torch.cdist(y, x)

    def reach(gaps: Tensor) -> Tensor:
        return gaps.topk(k + 1, largest=False).values[:, -1]

    def against(j: Tensor) -> Of:
        reach_y, to_part = reach(real[j][:, j]), to[j]

        def of(i: Tensor) -> Tensor:
            gaps = to_part[:, i]
            inside, recalled = gaps < reach_y[:, None], (gaps < reach(own[i][:, i])).any(1)
            balls = inside.sum(0).double()
            shares = (balls > 0).double().mean(), recalled.double().mean(), balls.mean() / k
            return torch.stack([*shares, inside.any(1).double().mean()])

        return of

    return against


def manifold(real: Tensor, drawn: Tensor, seed: int, k: int = 5, progress: Progress = ignored) -> Manifold:
    """Precision, recall, density and coverage with intervals.

    Args:
        real: (N, D).
        drawn: (M, D).
        seed: decides the random cuts of the jackknife.
        k: a ball reaches to the k-th neighbour.
        progress: called after every measurement.

    Raises:
        UserError: a set is too small for its halves to have k neighbours.
    """
    least = min(len(real), len(drawn))
    if least < 2 * (k + 1):
        raise UserError(
            f"{least} pictures are too few for balls of {k} neighbours: {2 * (k + 1)} are needed",
            fix="take more pictures, or fewer neighbours",
        )
    values = prdc(real, drawn, k)
    found = jackknife(lambda x, y: prdc(x, y, k), [real, drawn], seed, groups=2, cuts=CUTS, progress=progress)
    precision, recall, density, coverage = zip(values.tolist(), found.error.tolist(), strict=True)
    return Manifold(
        precision=_share(*precision, found.freedom, len(drawn)),
        recall=_share(*recall, found.freedom, len(real)),
        density=interval(*density, found.freedom).within(0),
        coverage=_share(*coverage, found.freedom, len(real)),
    )


def _share(mean: float, error: float, freedom: int, n: int) -> Interval:
    """The interval of a share of n pictures; its error is at least the error of counting (Agresti & Coull 1998), so a
    share of none of n does not count as certainly none."""
    moved = (mean * n + 2) / (n + 4)
    counting = (moved * (1 - moved) / n) ** 0.5
    return interval(mean, max(error, counting), freedom).within(0, 1)


def _reach(x: Tensor, k: int) -> Tensor:
    """The distance (N,) of each to its k-th nearest neighbour; a picture's first is itself."""
    return torch.cat(
        [
            torch.cdist(x[start : start + ROWS], x).topk(k + 1, largest=False).values[:, -1]
            for start in range(0, len(x), ROWS)
        ]
    )
