"""Churn: fresh noise before each step, which washes out the errors of the steps before (Karras et al. 2022, alg. 2).

From the time t the chain runs a little towards noise, to the time at which sigma / alpha is 1 + gamma times as large,
and the solver steps down from there. The chain keeps the marginals, so an exact solver stays exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .denoisers import PosteriorMean
from .processes import Gaussian, Noise
from .schedules import Schedule, once
from .solvers import Solver, State

GAMMA_MAX = math.sqrt(2) - 1


@dataclass(frozen=True)
class Churn:
    """A solver that adds noise and then takes the step of another solver.

    Earlier answers of the denoiser do not lie on the path that begins with the new noise, so they are forgotten. A
    solver that relies on its past takes steps of first order here; DDIM, Heun and Midpoint need no past.

    Args:
        solver: takes the step, from the noisier state.
        gamma: how much the noise grows, 0 to sqrt(2) - 1; EDM's S_churn / steps. At t = 1 it cannot grow, so the first
            step is the solver's own.
        between: the noise-to-signal ratios (low, high) of t between which noise is added; EDM's S_tmin, S_tmax.
        noise_scale: standard deviation of the noise, 1 unless a network removes slightly too much; EDM's S_noise.
    """

    processes: ClassVar = (Gaussian,)
    order: ClassVar = None
    solver: Solver
    gamma: float
    between: tuple[float, float] = (0.0, math.inf)
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= GAMMA_MAX:
            raise ValueError(
                f"gamma = {self.gamma:g} is outside [0, {GAMMA_MAX:.4f}]: 0 adds no noise, sqrt(2) - 1 the most"
            )

    def __call__(
        self,
        denoiser: PosteriorMean[Gaussian],
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State,
        noise: Noise,
        **cond: Tensor | None,
    ) -> tuple[Tensor, State]:
        """Take one step."""
        process = denoiser.process
        inside, later = _noisier(process.schedule, (t,), self.gamma, self.between)
        if not torch.as_tensor(inside).any():
            return self.solver(denoiser, x, t, s, state, noise, **cond)

        noisier = torch.as_tensor(later, dtype=t.dtype)
        x = process.step(x, t, noisier, self.noise_scale * noise(x))
        return self.solver(denoiser, x, noisier, s, (), noise, **cond)


@once
def _noisier(
    schedule: Schedule, times: Sequence[Tensor], gamma: float, between: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Whether a time lies in `between`, and if so the time at which sigma / alpha is 1 + gamma times as large."""
    (t,) = times
    alpha, sigma = schedule(t)
    inside = (sigma >= between[0] * alpha) & (sigma <= between[1] * alpha)
    return inside, torch.where(inside, schedule.time_of(schedule.log_snr(t) - 2 * math.log1p(gamma)), t)
