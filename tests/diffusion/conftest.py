"""Exact denoisers: data whose posterior mean E[x_0 | x_t] is known in closed form, so that theorems can be tested.

Everything is float64 and elementwise, so a test sees the method and not the arithmetic.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import (
    Discrete,
    Flow,
    Gaussian,
    Karras,
    Schedule,
    Shifted,
    cosine,
    from_betas,
    like,
    linear_beta,
)

SCHEDULES = {
    "linear": linear_beta(),
    "cosine": cosine(),
    "karras": Karras(),
    "flow": Flow(),
    "betas": from_betas([0.1, 0.3, 0.2, 0.05, 0.5, 0.9]),
    "shifted-linear": Shifted(linear_beta(), 2.0),
    "shifted-flow": Shifted(Flow(), 3.0),
}


class Mixture:
    """The denoiser of the Gaussian mixture sum_k weights_k N(means_k, stds_k^2), for each pixel alone."""

    def __init__(self, process: Gaussian, means: list[float], stds: list[float], weights: list[float]) -> None:
        self.process = process
        self.means, self.stds, self.weights = (torch.tensor(v, dtype=torch.float64) for v in (means, stds, weights))

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        alpha, sigma = (like(v.double(), x_t.double()[..., None]) for v in self.process.schedule(t))
        variance = (alpha * self.stds) ** 2 + sigma**2
        residue = x_t.double()[..., None] - alpha * self.means

        log_p = self.weights.log() - variance.log() / 2 - residue**2 / (2 * variance)
        means = self.means + alpha * self.stds**2 / variance * residue
        return (log_p.softmax(-1) * means).sum(-1).to(x_t.dtype)

    def cdf(self, x_t: Tensor, t: Tensor) -> Tensor:
        """P(X_t <= x_t)."""
        alpha, sigma = self.process.schedule(t)
        std = ((alpha * self.stds) ** 2 + sigma**2).sqrt()
        return (self.weights * torch.special.ndtr((x_t[..., None] - alpha * self.means) / std)).sum(-1)

    def transport(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The exact solution of the probability-flow ODE: in one dimension it keeps quantiles, F_s(x_s) = F_t(x_t)."""
        wanted = self.cdf(x_t, t)
        low, high = torch.full_like(x_t, -1e3), torch.full_like(x_t, 1e3)
        for _ in range(80):
            middle = (low + high) / 2
            below = self.cdf(middle, s) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` data points x_0 (n,)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.means[k] + self.stds[k] * torch.randn(n, generator=generator, dtype=torch.float64)


class Raw:
    """A denoiser with a constant raw variance output."""

    def __init__(self, exact: Mixture, raw: float) -> None:
        self.exact, self.process, self.raw = exact, exact.process, raw

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        return self.exact(x_t, t)

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.exact(x_t, t), torch.full_like(x_t, self.raw)


@pytest.fixture
def with_raw() -> Callable[[Mixture, float], Raw]:
    """An exact denoiser and a raw variance output -> a denoiser with both."""
    return Raw


@pytest.fixture(params=list(SCHEDULES.values()), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """Every schedule in turn."""
    return request.param


@pytest.fixture
def mixture() -> Callable[[Schedule], Mixture]:
    """A skewed mixture of three Gaussians, smooth enough for orders of convergence to show early."""
    return lambda schedule: Mixture(Gaussian(schedule), [-0.8, 0.1, 0.9], [0.3, 0.2, 0.25], [0.3, 0.5, 0.2])


@pytest.fixture
def gaussian_data() -> Callable[[Schedule], Mixture]:
    """One Gaussian, N(0.3, 0.5^2): its denoiser is affine, so that moments can be followed exactly."""
    return lambda schedule: Mixture(Gaussian(schedule), [0.3], [0.5], [1.0])


@pytest.fixture
def nodes() -> Callable[[Schedule], Tensor]:
    """The times of the chain: t = i / T of a discrete schedule, i / 1000 of any other."""

    def times(schedule: Schedule) -> Tensor:
        inner = schedule.schedule if isinstance(schedule, Shifted) else schedule
        T = inner.T if isinstance(inner, Discrete) else 1000
        return torch.arange(T + 1, dtype=torch.float64) / T

    return times


@pytest.fixture
def slope() -> Callable[[list[int], list[float]], float]:
    """The order of convergence: minus the slope of log error over log steps, by least squares."""

    def fit(steps: list[int], errors: list[float]) -> float:
        x = torch.tensor([math.log(n) for n in steps], dtype=torch.float64)
        y = torch.tensor([math.log(e) for e in errors], dtype=torch.float64)
        x, y = x - x.mean(), y - y.mean()
        return float(-(x * y).sum() / (x * x).sum())

    return fit
