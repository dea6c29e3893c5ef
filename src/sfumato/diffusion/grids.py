"""Time grids: where a solver stops on its way from t = 1 to t = 0.

The fewer the steps and the lower the order of the solver, the more the grid matters. Each here is a function
(schedule, n) -> times (n + 1,) in float64, strictly decreasing from 1 to 0: evenly spaced in t, in log-SNR (Lu et al.
2022, arXiv:2211.01095), in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5), and a table that was optimised for a
large model (Sabour et al. 2024). `grid_search.py` finds the grid of a given denoiser.

Log-SNR and Karras need ends, because log-SNR is infinite at t = 0 and, on some schedules, absurd at t = 1 (-20 on the
cosine one). Noise above `sigma_max` hides everything, so the first step leaps over it; noise below `sigma_min` is
invisible, so the last step removes it at once. A schedule that keeps some noise at t = 0 ends there.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .schedules import Schedule

SIGMA_MIN = 0.01  # of x_0 in [-1, 1], where the step between two levels of an 8-bit picture is 0.008
SIGMA_MAX = 80.0

# sigma / alpha of the grid of 10 steps for Stable Diffusion 1.5, which its authors publish with Align Your Steps
AYS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


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


def ays(schedule: Schedule, n: int) -> Tensor:
    """The grid of Align Your Steps (Sabour et al. 2024, arXiv:2404.14507) for a latent model, interpolated for other n.

    Between the entries of the table log(sigma / alpha) is linear. The first and the last entry are t = 1 and t = 0. A
    schedule with less noise at t = 1 begins within the table.
    """
    _check(n)
    table = torch.tensor(AYS, dtype=torch.float64).log()
    entries = torch.arange(len(table), dtype=torch.float64)

    first = -schedule.log_snr(torch.ones(1, dtype=torch.float64)) / 2
    start = _interpolate(-first, -table, entries).item()
    noise = _interpolate(torch.linspace(start, len(AYS) - 1, n + 1, dtype=torch.float64), entries, table)
    inner = schedule.time_of(-2 * noise)[1:n]
    return torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)])


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


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The piecewise linear function through (xs, ys), xs increasing; beyond the ends, the values there."""
    x = x.clamp(xs[0], xs[-1])
    left = torch.searchsorted(xs, x, right=True).sub(1).clamp(0, len(xs) - 2)
    return torch.lerp(ys[left], ys[left + 1], (x - xs[left]) / (xs[left + 1] - xs[left]))


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"steps = {n} must be at least 1")
