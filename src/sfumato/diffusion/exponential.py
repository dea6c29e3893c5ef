"""Exponential Adams methods: the linear part solved exactly, the denoiser replaced by a polynomial through its past.

In half log-SNR, lambda = log(alpha / sigma), the paths from noise to data that keep the marginals (tau = 0 is the
probability-flow ODE, tau = 1 the reverse of the process) have the exact solution

    x_s = (sigma_s / sigma_t) r^(tau^2) x_t + alpha_s int_0^h c e^(-c (h - v)) D(lambda_t + v) dv
          + sigma_s sqrt(1 - r^(2 tau^2)) noise,
    r = (sigma_s / alpha_s) / (sigma_t / alpha_t),    h = lambda_s - lambda_t,    c = 1 + tau^2

(Lu et al. 2022 (DPM-Solver++), arXiv:2211.01095, eq. 8, at tau = 0; Xue et al. 2023 (SA-Solver), arXiv:2309.05019, sec.
4). Only D is unknown. The predictor replaces it by the polynomial in lambda through its last p values, so the integral
is a sum of these values times `weights`. The corrector of UniPC repeats the last step with the polynomial that also
passes through D at its end; the next step needs that D anyway, so it costs no call (Zhao et al. 2023, arXiv:2302.04867,
alg. 1 and 2). One class covers them all:

    Adams(1)                             DDIM, which is DPM-Solver++(1S)
    Adams(1, tau=1)                      DDPM's ancestral sampling, which is SDE-DPM-Solver++(1)
    Adams(2), Adams(3)                   DPM-Solver++(2M), (3M)
    Adams(2, tau=1)                      SDE-DPM-Solver++(2M)
    Adams(p, corrector=True)             UniPC-p
    Adams(p, corrector=True, tau=tau)    SA-Solver

DEIS draws its polynomial through the noise z instead of D, for which c = -1 (Zhang & Chen 2022, arXiv:2204.13902).

The past is short at first: step k has k values. The last step to sigma = 0, where lambda is infinite, is of first order
and returns the posterior mean.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from .denoisers import PosteriorMean
from .processes import Gaussian, Noise
from .schedules import Schedule, like, once
from .solvers import Seen, State

Rule = Callable[[Tensor], Tensor]


def b1(y: Tensor) -> Tensor:
    """B_1 of UniPC (sec. 3.1), y: the rule of SA-Solver for two values."""
    return y


def b2(y: Tensor) -> Tensor:
    """B_2 of UniPC (sec. 3.1), 1 - e^-y: the midpoint rule of DPM-Solver++(2M) for two values."""
    return -torch.expm1(-y)


def weights(nodes: Sequence[Tensor], h: Tensor, c: Tensor | float, rule: Rule | None = None) -> Tensor:
    """The w_j (..., k) with sum_j w_j f(v_j) = int_0^h c e^(-c (h - v)) f(v) dv for every polynomial f of degree < k.

    Args:
        nodes: the k places v_j () or (B,), no two alike.
        h: the end of the integral () or (B,), above 0. Where it is infinite, the first node has all the weight.
        c: rate of the exponential, not 0.
        rule: B of UniPC. With two nodes, int c e^(-c (h - v)) v dv is replaced by B(c h) h / 2, the same up to O(h^3).
    """
    endless = h.isinf()
    h = torch.where(endless, 1.0, h)
    y = c * h

    moments = [-torch.expm1(-y)]  # the integrals of (v / h)^k, each by parts from the one before
    for k in range(1, len(nodes)):
        moments.append(1 - k / y * moments[-1])
    if rule and len(nodes) == 2:
        moments[1] = rule(y) / 2

    powers = torch.arange(len(nodes), dtype=h.dtype, device=h.device)
    places = torch.stack(tuple(nodes), -1) / h[..., None]
    solved = torch.linalg.solve(places[..., None, :] ** powers[:, None], torch.stack(moments, -1))
    return torch.where(endless[..., None], (powers == 0).to(h.dtype), solved)


def _check(points: int) -> None:
    if points not in (1, 2, 3):
        raise ValueError(f"points = {points} must be 1, 2 or 3")


@dataclass(frozen=True)
class Adams:
    """The exponential Adams method through `points` values of D, at one call a step.

    On the ODE its order is `points`, or `points` + 1 with the corrector. The first step has one value and is of order 1
    (2 with the corrector). Its error O(h^2) (O(h^3)) stays, but is small, because D hardly changes in the noise where
    sampling begins.

    Args:
        points: values of D in the predictor's polynomial, 1 to 3.
        corrector: whether each step is repeated with D at its end.
        tau: fresh noise, 0 (none) to 1 (as much as DDPM) or more.
        between: the noise-to-signal ratios (low, high) between which a step that starts there adds fresh noise.
        rule: B of UniPC for polynomials through two values; None for the exact integral.
    """

    processes: ClassVar = (Gaussian,)
    points: int
    corrector: bool = False
    tau: float = 0.0
    between: tuple[float, float] = (0.0, float("inf"))
    rule: Rule | None = field(default=b2, repr=False)

    def __post_init__(self) -> None:
        _check(self.points)
        if not self.tau >= 0:
            raise ValueError(f"tau = {self.tau:g} must be at least 0: 0 adds no noise, 1 as much as DDPM")

    @property
    def order(self) -> int | None:
        """The order of convergence."""
        return None if self.tau else self.points + self.corrector

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
        schedule = denoiser.process.schedule
        alpha_t, alpha_s, kept, fresh = _linear(schedule, (t, s), self.tau, self.between)

        seen = Seen(t, x, denoiser(x, t, **cond))
        if self.corrector and state:
            before = state[0].t
            gain = self._integral(schedule, (seen, *state), before, t) - self._integral(schedule, state, before, t)
            x = x + like(alpha_t, x) * gain
        state = (seen, *state)[: self.points]

        x_s = like(kept, x) * x + like(alpha_s, x) * self._integral(schedule, state, t, s)
        if self.tau > 0:
            x_s = x_s + like(fresh, x) * noise(x)
        return x_s, state

    def _integral(self, schedule: Schedule, seen: State, t: Tensor, s: Tensor) -> Tensor:
        """The integral of the step from `t` to `s`, of the polynomial through the answers `seen`."""
        w = _weights(schedule, (t, s, *(one.t for one in seen)), self.tau, self.between, self.rule)
        return _sum(w, [one.mean for one in seen])


#: DPM-Solver++(2M) (Lu et al. 2022, alg. 2).
dpm_solver_pp_2m = Adams(2)

#: DPM-Solver++(3M). The published code takes half of the integral's quadratic term, which makes it a method of order 2;
#: here the integral is whole and the order 3.
dpm_solver_pp_3m = Adams(3)

#: SDE-DPM-Solver++(2M) (Lu et al. 2022, sec. 6).
sde_dpm_solver_pp_2m = Adams(2, tau=1.0)


def uni_pc(points: int = 2) -> Adams:
    """UniPC with B_2 (Zhao et al. 2023, alg. 1 and 2): `points` values and the corrector, which makes order + 1."""
    return Adams(points, corrector=True)


def sa_solver(points: int = 2, tau: float = 1.0, between: tuple[float, float] = (0.57, 5.1)) -> Adams:
    """SA-Solver (Xue et al. 2023, alg. 1): UniPC with fresh noise at the noise-to-signal ratios `between`.

    By default these lie in the middle of the path, as in the authors' code: 0.2 <= t <= 0.8 on the schedule of Stable
    Diffusion.
    """
    return Adams(points, corrector=True, tau=tau, between=between, rule=b1)


@dataclass(frozen=True)
class DEIS:
    """DEIS with polynomials in log(sigma / alpha) through `points` values of z (Zhang & Chen 2022, eq. 14 and 15).

    The order of the method is `points`; the first step is as in `Adams`.
    """

    processes: ClassVar = (Gaussian,)
    points: int = 3

    def __post_init__(self) -> None:
        _check(self.points)

    @property
    def order(self) -> int:
        """The order of convergence."""
        return self.points

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
        schedule = denoiser.process.schedule
        state = (Seen(t, x, denoiser(x, t, **cond)), *state)[: self.points]
        z = [_noise(schedule, one) for one in state]
        ddim, _ = denoiser.process.posterior(x, state[0].mean, t, s, eta=0.0)
        sigma_s, *w = _weights_of_noise(schedule, (t, s, *(one.t for one in state)))
        return ddim + like(sigma_s, x) * _sum(w, [value - z[0] for value in z]), state


def _noise(schedule: Schedule, seen: Seen) -> Tensor:
    """z = (x - alpha D) / sigma."""
    alpha, sigma = _levels(schedule, (seen.t,))
    return (seen.x - like(alpha, seen.x) * seen.mean) / like(sigma, seen.x)


def _sum(w: Sequence[Tensor | float], values: Sequence[Tensor]) -> Tensor:
    return reduce(operator.add, [like(share, value) * value for share, value in zip(w, values, strict=True)])


# --- coefficients ----------------------------------------------------------------------------------------------------


@once
def _levels(schedule: Schedule, times: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """alpha and sigma of one time."""
    return schedule(times[0])


@once
def _linear(
    schedule: Schedule, times: Sequence[Tensor], tau: float, between: tuple[float, float]
) -> tuple[Tensor, ...]:
    """alpha_t, alpha_s and the shares of x_t and of the noise in x_s, from the times t and s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(schedule, times)
    kept = (sigma_s * alpha_t / (alpha_s * sigma_t)) ** _tau(schedule, times[0], tau, between) ** 2
    return alpha_t, alpha_s, sigma_s / sigma_t * kept, sigma_s * (1 - kept**2).clamp(min=0).sqrt()


@once
def _weights(
    schedule: Schedule, times: Sequence[Tensor], tau: float, between: tuple[float, float], rule: Rule | None
) -> tuple[Tensor, ...]:
    """The `weights` of values of D in the step from t to s, from the times t and s and the times of the values."""
    return _between(schedule, times, 1 + _tau(schedule, times[0], tau, between) ** 2, rule)


@once
def _weights_of_noise(schedule: Schedule, times: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """sigma_s, and the `weights` of values of z in the step from t to s, from t, s and the times of the values."""
    return schedule(times[1])[1], *_between(schedule, times, -1.0)


def _tau(schedule: Schedule, t: Tensor, tau: float, between: tuple[float, float]) -> Tensor:
    alpha, sigma = schedule(t)
    return tau * ((sigma >= between[0] * alpha) & (sigma <= between[1] * alpha)).to(t.dtype)


def _between(
    schedule: Schedule, times: Sequence[Tensor], c: Tensor | float, rule: Rule | None = None
) -> tuple[Tensor, ...]:
    start, end, *nodes = (schedule.log_snr(t) / 2 for t in times)
    return weights([node - start for node in nodes], end - start, c, rule).unbind(-1)
