"""Solvers: from noise to data, one step at a time.

A solver is a pure function that moves a state from the time t to an earlier time s,

    solver(denoiser, x_t, t, s, state, noise, **cond) -> (x_s, state),

and the state for its own next step is explicit, so one solver serves any number of trajectories at once. The state
holds the questions to the denoiser and its answers, as far back as the solver needs them. The solvers here are frozen
dataclasses, so they print what they are; any function of these arguments is a solver as well.

`DDIM` and `Ancestral` use only the bridge of the process, so they walk from noise to data of any kind. The others
follow the probability-flow ODE of a Gaussian process, with D_t = E[x_0 | x_t] and
z_t = (x_t - alpha_t D_t) / sigma_t,

    d(x / alpha) / d(sigma / alpha) = z        (Song et al. 2020, arXiv:2010.02502, eq. 14; Karras et al. 2022, eq. 1)

This file has the loop and the methods without a past. `exponential.py` has the methods with a past, `fresh_noise.py`
adds noise to any of them, and `inversion.py` walks from data to noise. Every step to sigma_s = 0 returns the posterior
mean (times alpha_s), or for tokens a draw from it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from .categorical import Categorical
from .denoisers import PosteriorMean, predict
from .processes import Gaussian, Noise, Process
from .reverse import learned_bridge
from .schedules import Schedule, like, once


@dataclass(frozen=True, eq=False)
class Seen:
    """One answer of the denoiser: the posterior mean (B, ...) at the time `t` of the state `x` (B, ...)."""

    t: Tensor
    x: Tensor
    mean: Tensor


# What a step passes on to the next: the answers that it has seen, the newest first; empty before the first step.
State = tuple[Seen, ...]

# (denoiser, x, t, s, state, noise, **cond) -> (x_s, state). The solvers of the package also have an `order` of
# convergence to the ODE, None for stochastic ones, and the `processes` that they walk.
Solver = Callable[..., tuple[Tensor, State]]


@dataclass(frozen=True, eq=False)
class Step:
    """One state of a trajectory, after `index` of `total` steps.

    Attributes:
        index: steps done, from 1.
        total: steps in all.
        t: the time () of `x`.
        x: the state (B, ...).
        mean: the last E[x_0 | x_t] (B, ...) that was seen: the best guess of the end, which a preview shows.
    """

    index: int
    total: int
    t: Tensor
    x: Tensor
    mean: Tensor


@dataclass(frozen=True)
class DDIM:
    """DDIM (Song et al. 2020, eq. 12): jump to E[x_0 | x_t], and back up to the time s by the bridge of the process.

    At eta = 0 the noise is kept: this is Euler's method in sigma / alpha, exact for the current mean, of order 1. At
    eta = 1 it is DDPM's ancestral sampling. Values in between add fresh noise in proportion; the marginals stay the
    same.

    Args:
        eta: share of fresh noise, 0 to 1.
    """

    processes: ClassVar = (Gaussian, Categorical)
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta = {self.eta:g} is outside [0, 1]: 0 is DDIM without noise, 1 is DDPM's ancestral sampling"
            )

    @property
    def order(self) -> int | None:
        """The order of convergence."""
        return None if self.eta else 1

    def __call__(
        self,
        denoiser: PosteriorMean,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State,
        noise: Noise,
        **cond: Tensor | None,
    ) -> tuple[Tensor, State]:
        """Take one step."""
        mean = denoiser(x, t, **cond)
        return denoiser.process.bridge(x, mean, t, s, noise, self.eta), (Seen(t, x, mean),)


@dataclass(frozen=True)
class Ancestral:
    """DDPM's ancestral sampling (Ho et al. 2020, alg. 2): each step draws from p(x_s | x_t), the last without noise.

    The variance is the learned one if the denoiser has one, otherwise the posterior's: then this is DDIM at eta = 1.
    """

    processes: ClassVar = (Gaussian, Categorical)
    order: ClassVar = None

    def __call__(
        self,
        denoiser: PosteriorMean,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State,
        noise: Noise,
        **cond: Tensor | None,
    ) -> tuple[Tensor, State]:
        """Take one step."""
        mean, raw = predict(denoiser, x, t, **cond)
        if raw is None:
            x_s = denoiser.process.bridge(x, mean, t, s, noise)
        else:
            x_s = learned_bridge(denoiser.process, x, mean, raw, t, s, noise)
        return x_s, (Seen(t, x, mean),)


@dataclass(frozen=True)
class Heun:
    """Heun's method in sigma / alpha, order 2, two calls a step and one at the last (Karras et al. 2022, alg. 1).

    The two slopes differ by z_s - z_t = (alpha_s / sigma_s) (D_t - D_s), so the correction to Euler's step needs only
    the two means. It grows with the ratio of noise that a step spans. The first step of a uniform grid on the cosine
    schedule spans a factor of a thousand and is unstable; use the log-SNR or the Karras grid there.
    """

    processes: ClassVar = (Gaussian,)
    order: ClassVar = 2

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


@dataclass(frozen=True)
class Midpoint:
    """DPM-Solver++(2S), order 2, two calls a step and one at the last (Lu et al. 2022, arXiv:2211.01095, alg. 1).

    DDIM with the mean at the middle of the step in log-SNR, which a step of DDIM reaches. Unlike Heun's method, it is
    stable in steps that span a large ratio of noise.
    """

    processes: ClassVar = (Gaussian,)
    order: ClassVar = 2

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
        posterior = denoiser.process.posterior
        sigma_s, half = _middle(denoiser.process.schedule, (t, s))

        mean = denoiser(x, t, **cond)
        seen = Seen(t, x, mean)
        if torch.as_tensor(sigma_s).any():
            middle = torch.as_tensor(half, dtype=t.dtype)
            halfway, _ = posterior(x, mean, t, middle, eta=0.0)
            seen = Seen(middle, halfway, denoiser(halfway, middle, **cond))
        return posterior(x, seen.mean, t, s, eta=0.0)[0], (seen,)


#: DPM-Solver++(2S).
dpm_solver_pp_2s = Midpoint()


@once
def _middle(schedule: Schedule, times: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """sigma_s, and the middle between the times t and s in log-SNR."""
    t, s = times
    return schedule(s)[1], schedule.time_of((schedule.log_snr(t) + schedule.log_snr(s)) / 2)


def check(solver: Solver, process: Process) -> None:
    """Refuse a solver that does not walk this kind of process.

    Raises:
        ValueError: names both, and what goes together.
    """
    walks = getattr(solver, "processes", None)
    if walks and not isinstance(process, walks):
        kinds = " and ".join(kind.__name__ for kind in walks)
        raise ValueError(f"solver = {solver} walks {kinds} processes, not {process}: use DDIM or Ancestral")


@torch.no_grad()
def sample(
    denoiser: PosteriorMean,
    x: Tensor,
    times: Tensor,
    solver: Solver,
    noise: Noise | None = None,
    **cond: Tensor | None,
) -> Iterator[Step]:
    """Walk from `x` at times[0] to times[-1] and yield every state; the work stops when the iteration stops.

    Args:
        denoiser: returns E[x_0 | x_t].
        x: the first state (B, ...), usually process.prior(noise).
        times: the grid (n + 1,), strictly decreasing. On the CPU it causes no waiting for the device.
        solver: the step.
        noise: draws noise of the process for a given state, by default from the global generator; only stochastic
            solvers call it.
        cond: the condition, passed to the denoiser.

    Raises:
        ValueError: when `times` does not decrease, or the solver does not walk this kind of process.
    """
    check(solver, denoiser.process)
    if times.ndim != 1 or len(times) < 2 or (times.diff() >= 0).any():
        raise ValueError(f"times must be two or more strictly decreasing numbers, got {times.tolist()}")

    noise = noise or fresh(denoiser.process)
    total = len(times) - 1
    state: State = ()
    for index, (t, s) in enumerate(pairwise(times.unbind()), 1):
        x, state = solver(denoiser, x, t, s, state, noise, **cond)
        yield Step(index, total, s, x, state[0].mean)


def fresh(process: Process) -> Noise:
    """Noise of `process` for a state, from the global generator."""

    def noise(x: Tensor) -> Tensor:
        return process.noise(x.shape, None, x.dtype if x.is_floating_point() else None, x.device)

    return noise
