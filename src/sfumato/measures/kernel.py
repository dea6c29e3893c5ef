"""Maximum mean discrepancy of two sets of features: KID and CMMD.

The squared MMD of a kernel k, without bias (Gretton et al. 2012, eq. 3), is 0 on average if both sets follow one law,
for any number of pictures:

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j).

KID (Binkowski et al. 2018, arXiv:1801.01401) has k(x, y) = (x . y / D + 1)^3. CMMD (Jayasumana et al. 2024,
arXiv:2401.09603) has a Gaussian kernel of width 10 on features of length 1; it was published for CLIP's features and
with the diagonals. Both are commonly multiplied by 1,000.

KID is published as a mean over random subsets; their spread, which is often printed with it, is not the error of the
mean. Here MMD^2 is computed over all pictures, which varies least. Its error is the error of the two-sample
U-statistic, whose delete-one jackknife has a closed form: with h_i = mean_{j != i} k(x_i, x_j) - mean_j k(x_i, y_j),
and likewise for y,

    MMD^2 = mean h_x + mean h_y,    error^2 = 4 var(h_x) / N + 4 var(h_y) / M.

In 400 trials each (D = 32, N = M = 300) the interval contained the truth in 96 % for different laws, and in 98 % for
one law, where it is a third wider than necessary.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sfumato.measures.interval import Interval, Progress, ignored, interval
from sfumato.measures.permutation import KEPT, Against, Of, directly

Kernel = Callable[[Tensor, Tensor], Tensor]  # (n, D), (m, D) -> (n, m)
ROWS = 1000  # rows of the kernel's matrix at once
WIDTH = 10.0  # width of CMMD's kernel


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / D + 1)^3."""
    k = x @ y.T / x.shape[1] + 1
    return k * k * k


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2)) of x and y scaled to length 1."""
    gap = torch.cdist(normalize(x), normalize(y))
    return torch.exp(-gap * gap / (2 * WIDTH**2))


def mmd(real: Tensor, drawn: Tensor, kernel: Kernel) -> Tensor:
    """The squared MMD () without bias, which may be below 0, of features (N, D) and (M, D), in float64."""
    of_real, of_drawn = _shares(real.double(), drawn.double(), kernel, ignored)
    return of_real.mean() + of_drawn.mean()


def kid(real: Tensor, drawn: Tensor, progress: Progress = ignored) -> Interval:
    """KID of features (N, D) and (M, D), N and M at least 2."""
    return measured(real, drawn, cubic, progress)


def cmmd(real: Tensor, drawn: Tensor, progress: Progress = ignored) -> Interval:
    """CMMD of features (N, D) and (M, D), N and M at least 2."""
    return measured(real, drawn, gaussian, progress)


def measured(real: Tensor, drawn: Tensor, kernel: Kernel, progress: Progress = ignored) -> Interval:
    """The squared MMD with its interval; `progress` is called after each of the three matrices."""
    shares = _shares(real.double(), drawn.double(), kernel, progress)
    variance = sum(4 * h.var().item() / len(h) for h in shares)
    return interval(sum(h.mean().item() for h in shares), variance**0.5, min(map(len, shares)) - 1)


def of_parts(pool: Tensor, reference: Tensor) -> Against:
    """KID x 1000 of parts of a pool (N, D) to parts of a reference (M, D), without the term of the reference alone.

    That term cancels in a difference. Every kernel is computed once, up to `permutation.KEPT` pictures.
    """
    if len(pool) > KEPT:
        return directly(lambda drawn, real: 1000 * mmd(real, drawn, cubic))(pool, reference)
    x, y = pool.double(), reference.double()
    own, to = cubic(x, x).fill_diagonal_(0), cubic(x, y)

    def against(j: Tensor) -> Of:
        nearness = to[:, j].mean(1)

        def of(i: Tensor) -> Tensor:
            within = own[i][:, i].sum() / (len(i) * (len(i) - 1))
            return 1000 * (within - 2 * nearness[i].mean())[None]

        return of

    return against


def _shares(x: Tensor, y: Tensor, kernel: Kernel, progress: Progress) -> tuple[Tensor, Tensor]:
    """h_x (N,) and h_y (M,), whose means add up to the squared MMD."""
    to_y, to_x = torch.zeros_like(x[:, 0]), torch.zeros_like(y[:, 0])
    for start in range(0, len(x), ROWS):
        rows = kernel(x[start : start + ROWS], y)
        to_y[start : start + ROWS] = rows.mean(1)
        to_x += rows.sum(0) / len(x)
    progress(1, 3)
    h_x = _to_others(x, kernel) - to_y
    progress(2, 3)
    h_y = _to_others(y, kernel) - to_x
    progress(3, 3)
    return h_x, h_y


def _to_others(x: Tensor, kernel: Kernel) -> Tensor:
    """The mean kernel (N,) of each with all others."""
    sums = []
    for start in range(0, len(x), ROWS):
        rows = kernel(x[start : start + ROWS], x)
        sums.append(rows.sum(1) - rows.diagonal(start))
    return torch.cat(sums) / (len(x) - 1)
