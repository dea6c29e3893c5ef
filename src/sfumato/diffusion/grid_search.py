"""A grid for one denoiser: the best few times at which to evaluate it, found by dynamic programming.

The path of every picture bends where its content is decided, and is straight elsewhere. Take trajectories on a fine
grid of m steps as the truth. From each of its states x_i, one step of DDIM to any later time t_j misses the truth by

    cost(i, j) = E || DDIM(x_i, t_i -> t_j) - x_j || / sqrt(alpha_j^2 + sigma_j^2),

and the grid of n steps with the least sum of costs is a shortest path (Chen et al. 2024 (GITS), arXiv:2405.11326, sec.
3.3). They have no denominator: with it, on every schedule, a miss counts for about as much as it leaves at the end of
the path. Only the fine trajectories call the denoiser. A search pays for few steps, up to about six; with more steps
all grids come close to the same limit.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import grids
from .denoisers import PosteriorMean
from .exponential import dpm_solver_pp_2m
from .processes import Gaussian
from .solvers import sample


def search(
    denoiser: PosteriorMean[Gaussian],
    x: Tensor,
    n: int,
    fine: Tensor | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **cond: Tensor | None,
) -> Tensor:
    """The times (n + 1,) of the best grid of `n` steps, for `sample` with any solver.

    Args:
        denoiser: returns E[x_0 | x_t]; guided as it will be used.
        x: starting states (B, ...), process.prior(noise); a few dozen small pictures are enough.
        n: the steps of the grid, at least 1 and fewer than those of `fine`.
        fine: the times (m + 1,) to choose from, strictly decreasing; by default 60 steps, even in log-SNR.
        progress: called after every fine step.
        cond: the condition of `x`, passed to the denoiser.
    """
    process = denoiser.process
    fine = grids.log_snr(process.schedule, 60) if fine is None else fine
    m = len(fine) - 1
    if not 1 <= n <= m:
        raise ValueError(f"n = {n} is outside 1 to {m}, the steps of the fine grid")

    steps = []
    for step in sample(denoiser, x, fine, dpm_solver_pp_2m, torch.randn_like, **cond):
        steps.append(step)
        progress(step.index, step.total)
    states = [x, *(step.x for step in steps)]

    alpha, sigma = process.schedule(fine)
    scale = torch.hypot(alpha, sigma)
    cost = torch.full((m + 1, m + 1), torch.inf, dtype=torch.float64)
    for i in range(m):
        for j in range(i + 1, m + 1):
            reached, _ = process.posterior(states[i], steps[i].mean, fine[i], fine[j], eta=0.0)
            missed = (reached - states[j]).flatten(1).norm(dim=1).mean()
            cost[i, j] = missed.cpu().double() / scale[j]

    return fine[_shortest(cost, n)]


def _shortest(cost: Tensor, n: int) -> list[int]:
    """The nodes of the path of least cost, in `n` steps, from the first node to the last."""
    last = len(cost) - 1
    best = torch.full((len(cost),), torch.inf, dtype=cost.dtype)
    best[0] = 0.0
    before = []
    for _ in range(n):
        best, origin = (best[:, None] + cost).min(0)
        before.append(origin)

    path = [last]
    for origin in reversed(before):
        path.insert(0, int(origin[path[0]]))
    return path
