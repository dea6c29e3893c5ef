"""Inversion: from a picture to the noise that draws it again, along the probability-flow ODE.

DDIM goes from s down to t < s by x_t / alpha_t = x_s / alpha_s + (sigma_t / alpha_t - sigma_s / alpha_s) z(x_s, s). To
undo that step, x_s must be found from x_t,

    x_s = alpha_s x_t / alpha_t + (sigma_s - alpha_s sigma_t / alpha_t) z(x_s, s),

which is a fixed point. The usual DDIM inversion (Song et al. 2020, arXiv:2010.02502, sec. 5.4) replaces the unknown x_s
on the right by x_t, here scaled by sqrt((alpha_s^2 + sigma_s^2) / (alpha_t^2 + sigma_t^2)), which is 1 on
variance-preserving schedules: one iteration, with an error of O(h^2) a step. Each further iteration (Pan et al. 2023,
arXiv:2309.04907) gains one order, so the picture comes back with an error O(h^k) after k iterations. Guidance makes z
steeper and the error larger.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from .denoisers import PosteriorMean
from .processes import Gaussian
from .schedules import like
from .solvers import Step


@torch.no_grad()
def invert(
    denoiser: PosteriorMean[Gaussian], x: Tensor, times: Tensor, iterations: int = 1, **cond: Tensor | None
) -> Iterator[Step]:
    """Walk from `x` at times[-1] back to times[0] and yield every state; `sample` with `DDIM()` comes back.

    Args:
        denoiser: returns E[x_0 | x_t].
        x: the data, or the state at times[-1] (B, ...).
        times: the grid (n + 1,) of the way down, strictly decreasing, as `sample` takes it.
        iterations: calls of the denoiser a step, 1 or more.
        cond: the condition, passed to the denoiser.

    Raises:
        ValueError: when `times` does not decrease, or there is no iteration.
    """
    if (times.diff() >= 0).any() or iterations < 1:
        raise ValueError(f"need decreasing times and iterations of at least 1, got {times.tolist()} and {iterations}")

    total, schedule = len(times) - 1, denoiser.process.schedule
    for index, (t, s) in enumerate(pairwise(times.flip(0)), 1):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        x_s, mean = like(torch.hypot(alpha_s, sigma_s) / torch.hypot(alpha_t, sigma_t), x) * x, x
        for _ in range(iterations):
            mean = denoiser(x_s, s, **cond)
            z = (x_s - like(alpha_s, x) * mean) / like(sigma_s, x)
            x_s = like(alpha_s / alpha_t, x) * x + like(sigma_s - alpha_s / alpha_t * sigma_t, x) * z

        x = x_s
        yield Step(index, total, s, x, mean)
