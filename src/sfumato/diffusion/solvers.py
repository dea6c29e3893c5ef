"""Solvers: the way from noise to data, one step at a time.

A solver is a pure function that moves a state from the time t to an earlier time s,

    step(denoiser, x_t, t, s, state, noise, **cond) -> (x_s, state),

and the state that it hands to its own next step is explicit, so that one solver serves any number of trajectories at
once. The state is what the denoiser was asked and answered on the way, as far back as the solver needs it. Solvers of
the probability-flow ODE follow, with D_t = E[x_0 | x_t] and z_t = (x_t - alpha_t D_t) / sigma_t,

    d(x / alpha) / d(sigma / alpha) = z        (Song et al. 2020, arXiv:2010.02502, eq. 14; Karras et al. 2022, eq. 1)

Here are the loop and the methods that need no past; `exponential.py` has those that remember, `fresh_noise.py` adds
noise to any of them, `inversion.py` walks from data to noise. Every step to sigma_s = 0 returns the posterior mean
(times alpha_s).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .denoisers import PosteriorMean
from .reverse import learned, moments, predict
from .schedules import Schedule, like, once

Noise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """One answer of the denoiser: the posterior mean (B, ...) at the time `t` of the state `x` (B, ...)."""

    t: Tensor
    x: Tensor
    mean: Tensor


# What a step leaves to the next: the answers that it has seen, the newest first; empty before the first step.
State = tuple[Seen, ...]
Solver = Callable[..., tuple[Tensor, State]]


@dataclass(frozen=True, eq=False)
class Step:
    """One state of a trajectory, after `index` of `total` steps.

    Attributes:
        index: steps done, from 1.
        total: steps in all.
        t: the time () of `x`.
        x: the state (B, ...).
        mean: the last E[x_0 | x_t] (B, ...) seen on the way: the best guess of the end, and what a preview shows.
    """

    index: int
    total: int
    t: Tensor
    x: Tensor
    mean: Tensor


def ddim(eta: float = 0.0) -> Solver:
    """DDIM (Song et al. 2020, eq. 12): jump to E[x_0 | x_t], and back up to the time s by the posterior of the process.

    At eta = 0 the noise is kept: this is Euler's method in sigma / alpha, exact for the current mean, of order 1. At
    eta = 1 it is DDPM's ancestral sampling. In between, as much fresh noise as `eta` says; the marginals stay the
    same.

    Args:
        eta: share of fresh noise, 0 to 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta:g} is outside [0, 1]: 0 is DDIM without noise, 1 is DDPM's ancestral sampling")

    def step(
        denoiser: PosteriorMean,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State,
        noise: Noise,
        **cond: Tensor | None,
    ) -> tuple[Tensor, State]:
        mean = denoiser(x, t, **cond)
        x_s, std = denoiser.process.posterior(x, mean, t, s, eta)
        if eta > 0:
            x_s = x_s + std * noise(x)
        return x_s, (Seen(t, x, mean),)

    return step


def ancestral() -> Solver:
    """DDPM's ancestral sampling (Ho et al. 2020, alg. 2): a draw of p(x_s | x_t) a step, without noise at the last.

    The variance is the learned one where the denoiser has one, else that of the posterior: then it is DDIM at eta = 1.
    """

    def step(
        denoiser: PosteriorMean, x: Tensor, t: Tensor, s: Tensor, state: State, noise: Noise, **cond: Tensor | None
    ) -> tuple[Tensor, State]:
        mean, raw = predict(denoiser, x, t, **cond)
        x_s, std = denoiser.process.posterior(x, mean, t, s)
        if raw is not None:
            log_variance = moments(denoiser.process, x, mean, raw, t, s, learned)[1]
            std = torch.where(like(s, x) > 0, torch.exp(log_variance / 2), std)
        return x_s + std * noise(x), (Seen(t, x, mean),)

    return step


def heun(
    denoiser: PosteriorMean, x: Tensor, t: Tensor, s: Tensor, state: State, noise: Noise, **cond: Tensor | None
) -> tuple[Tensor, State]:
    """Heun's method in sigma / alpha, order 2, two calls a step and one at the last (Karras et al. 2022, alg. 1).

    The two slopes differ by z_s - z_t = (alpha_s / sigma_s) (D_t - D_s), so that the correction to Euler's step needs
    only the two means. It grows with the ratio of noise that a step spans: the first step of a uniform grid on the
    cosine schedule spans a factor of a thousand and is unstable; use the log-SNR or the Karras grid there.
    """
    sigma_s, share = _correction(denoiser.process.schedule, (t, s))

    mean = denoiser(x, t, **cond)
    euler, _ = denoiser.process.posterior(x, mean, t, s, eta=0.0)
    if not torch.as_tensor(sigma_s).any():
        return euler, (Seen(t, x, mean),)

    mean_s = denoiser(euler, s, **cond)
    return euler + like(share, x) * (mean_s - mean), (Seen(s, euler, mean_s),)


@once
def _correction(schedule: Schedule, times: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """sigma_s, and the share of D_s - D_t in Heun's correction, from the times t and s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(schedule, times)
    span = alpha_s * sigma_t / (alpha_t * sigma_s) - 1
    return sigma_s, alpha_s * span / 2


def dpm_solver_pp_2s(
    denoiser: PosteriorMean, x: Tensor, t: Tensor, s: Tensor, state: State, noise: Noise, **cond: Tensor | None
) -> tuple[Tensor, State]:
    """DPM-Solver++(2S), order 2, two calls a step and one at the last (Lu et al. 2022, arXiv:2211.01095, alg. 1).

    DDIM with the mean at the middle of the step in log-SNR, where a step of DDIM leads. It does not share the trouble
    of Heun's method with steps that span a large ratio of noise.
    """
    posterior = denoiser.process.posterior
    sigma_s, half = _middle(denoiser.process.schedule, (t, s))

    mean = denoiser(x, t, **cond)
    seen = Seen(t, x, mean)
    if torch.as_tensor(sigma_s).any():
        middle = torch.as_tensor(half, dtype=t.dtype)
        halfway, _ = posterior(x, mean, t, middle, eta=0.0)
        seen = Seen(middle, halfway, denoiser(halfway, middle, **cond))
    return posterior(x, seen.mean, t, s, eta=0.0)[0], (seen,)


@once
def _middle(schedule: Schedule, times: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """sigma_s, and the middle between the times t and s in log-SNR."""
    t, s = times
    return schedule(s)[1], schedule.time_of((schedule.log_snr(t) + schedule.log_snr(s)) / 2)


@torch.no_grad()
def sample(
    denoiser: PosteriorMean,
    x: Tensor,
    times: Tensor,
    solver: Solver,
    noise: Noise = torch.randn_like,
    **cond: Tensor | None,
) -> Iterator[Step]:
    """Walk from `x` at times[0] to times[-1] and yield every state on the way; stop iterating, and the work stops.

    Args:
        denoiser: returns E[x_0 | x_t].
        x: the first state (B, ...), usually process.prior(noise).
        times: the grid (n + 1,), strictly decreasing. Left on the CPU, it costs no waiting for the device.
        solver: the step.
        noise: draws a standard normal tensor like its argument; only stochastic solvers call it.
        cond: the condition, passed to the denoiser.

    Raises:
        ValueError: when `times` does not decrease.
    """
    if times.ndim != 1 or len(times) < 2 or (times.diff() >= 0).any():
        raise ValueError(f"times must be two or more strictly decreasing numbers, got {times.tolist()}")

    total = len(times) - 1
    state: State = ()
    for index, (t, s) in enumerate(pairwise(times.unbind()), 1):
        x, state = solver(denoiser, x, t, s, state, noise, **cond)
        yield Step(index, total, s, x, state[0].mean)
