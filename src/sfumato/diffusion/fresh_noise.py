"""Churn: fresh noise before each step, which washes out the errors of the steps before (Karras et al. 2022, alg. 2).

From the time t the chain runs a little towards noise, to where sigma / alpha is 1 + gamma times as large, and the
solver steps down from there. The chain keeps the marginals, so that an exact solver stays exact.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .denoisers import PosteriorMean
from .schedules import Schedule, once
from .solvers import Noise, Solver, State

GAMMA_MAX = math.sqrt(2) - 1


def churn(
    solver: Solver, gamma: float, between: tuple[float, float] = (0.0, math.inf), noise_scale: float = 1.0
) -> Solver:
    """A solver made of a solver: first noise, then the step.

    What the denoiser answered before does not lie on the way that begins with the new noise, and is forgotten: a solver
    that lives on its past takes steps of first order here. Those that need none are ddim, heun and dpm_solver_pp_2s.

    Args:
        solver: takes the step, from the noisier state.
        gamma: how much the noise grows, 0 to sqrt(2) - 1; EDM's S_churn / steps. At t = 1 it cannot grow, so that the
            first step is the solver's own.
        between: the noise-to-signal ratios (low, high) of t between which noise is added; EDM's S_tmin, S_tmax.
        noise_scale: standard deviation of the noise, 1 unless a network removes slightly too much; EDM's S_noise.
    """
    if not 0 <= gamma <= GAMMA_MAX:
        raise ValueError(f"gamma = {gamma:g} is outside [0, {GAMMA_MAX:.4f}]: 0 adds no noise, sqrt(2) - 1 the most")

    def step(
        denoiser: PosteriorMean, x: Tensor, t: Tensor, s: Tensor, state: State, noise: Noise, **cond: Tensor | None
    ) -> tuple[Tensor, State]:
        process = denoiser.process
        inside, later = _noisier(process.schedule, (t,), gamma, between)
        if not torch.as_tensor(inside).any():
            return solver(denoiser, x, t, s, state, noise, **cond)

        noisier = torch.as_tensor(later, dtype=t.dtype)
        x = process.step(x, t, noisier, noise_scale * noise(x))
        return solver(denoiser, x, noisier, s, (), noise, **cond)

    return step


@once
def _noisier(
    schedule: Schedule, times: Sequence[Tensor], gamma: float, between: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Whether a time is inside of `between`, and if so the time at which sigma / alpha is 1 + gamma times as large."""
    (t,) = times
    alpha, sigma = schedule(t)
    inside = (sigma >= between[0] * alpha) & (sigma <= between[1] * alpha)
    return inside, torch.where(inside, schedule.time_of(schedule.log_snr(t) - 2 * math.log1p(gamma)), t)
