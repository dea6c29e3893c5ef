"""Time grids: where a solver stops on its way from t = 1 to t = 0.

The grid matters more than the solver. Three are here, each a function (schedule, n) -> times (n + 1,) in float64,
strictly decreasing from 1 to 0: evenly spaced in t, in log-SNR (Lu et al. 2022, arXiv:2211.01095), and in (sigma /
alpha)^(1 / rho) (Karras et al. 2022, eq. 5). The last two need ends, because log-SNR is infinite at t = 0 and, on
some schedules, absurd at t = 1 (-20 on the cosine one). Noise above `sigma_max` hides everything and the first step
leaps over it; noise below `sigma_min` is invisible and the last step removes it at once. A schedule that keeps some
noise at t = 0 ends where it ends.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .schedules import Schedule

SIGMA_MIN = 0.01  # of x_0 in [-1, 1], where the step between two levels of an 8-bit picture is 0.008
SIGMA_MAX = 80.0


def uniform(schedule: Schedule, n: int) -> Tensor:
    """`n` equal steps in t. On a discrete chain of T steps, n = T visits the chain itself, t = i / T."""
    _check(n)
    return torch.arange(n, -1, -1, dtype=torch.float64) / n


def log_snr(schedule: Schedule, n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> Tensor:
    """Equal steps in log-SNR between the noise-to-signal ratios `sigma_max` and `sigma_min`, then one to t = 0."""
    return _spread(schedule, n, torch.log, torch.exp, sigma_min, sigma_max)


def karras(
    schedule: Schedule, n: int, rho: float = 7.0, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> Tensor:
    """Equal steps in (sigma / alpha)^(1 / `rho`) between `sigma_max` and `sigma_min`, then one to t = 0."""
    return _spread(schedule, n, lambda ratio: ratio ** (1 / rho), lambda warped: warped**rho, sigma_min, sigma_max)


def _spread(
    schedule: Schedule,
    n: int,
    warp: Callable[[Tensor], Tensor],
    unwarp: Callable[[Tensor], Tensor],
    sigma_min: float,
    sigma_max: float,
) -> Tensor:
    """Return times whose noise-to-signal ratios are evenly spaced after `warp`."""
    _check(n)
    last, first = torch.exp(-schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2).tolist()
    first = min(first, sigma_max)
    if not 0 < sigma_min < first:
        raise ValueError(f"need 0 < sigma_min < {first:g}, the largest noise-to-signal ratio, got {sigma_min:g}")

    start, end = warp(torch.tensor([first, last or sigma_min], dtype=torch.float64)).tolist()
    ratios = unwarp(torch.linspace(start, end, n + 1 if last else n, dtype=torch.float64))

    inner = schedule.time_of(-2 * ratios.log())[1:n]
    return torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)])


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"steps = {n} must be at least 1")
