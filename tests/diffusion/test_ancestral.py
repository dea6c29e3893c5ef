"""Ancestral sampling uses a learned variance if there is one; the right variance makes any number of steps exact."""

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Ancestral, Gaussian, Guided, cosine, like, linear_beta, sample
from sfumato.diffusion.reverse import log_variances

V = 0.3  # variance of the data, N(0.5, V)
TIMES = torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64)


class Exact:
    """E[x_0 | x_t] of Gaussian data; `predict` adds the raw output of the reverse step's own variance."""

    def __init__(self, process: Gaussian) -> None:
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        alpha, sigma = (like(v, x_t) for v in self.process.schedule(t))
        return 0.5 + alpha * V / (alpha**2 * V + sigma**2) * (x_t - alpha * 0.5)

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor]:
        s = TIMES[t > TIMES][0]
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.process.schedule(t), self.process.schedule(s)
        # Var(x_s | x_t) of the joint Gaussian of x_s and x_t, whose covariance runs through the chain from s to t
        total_s, total_t = alpha_s**2 * V + sigma_s**2, alpha_t**2 * V + sigma_t**2
        exact = total_s - (alpha_t / alpha_s * total_s) ** 2 / total_t
        small, large = log_variances(self.process, t, s)
        return self(x_t, t), (2 * (exact.log() - small) / (large - small) - 1).expand_as(x_t)


class WithoutVariance(Exact):
    """The same mean, and nothing about the variance."""

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, None]:
        return self(x_t, t), None


def variance_after(denoiser, count: int = 200_000) -> tuple[float, float]:
    """The variance of the samples at the last time, and of the exact marginal."""
    torch.manual_seed(0)
    alpha, sigma = denoiser.process.schedule(TIMES)
    start = alpha[0] * 0.5 + (alpha[0] ** 2 * V + sigma[0] ** 2).sqrt() * torch.randn(count, 1, dtype=torch.float64)
    *_, last = sample(denoiser, start, TIMES, Ancestral())
    return last.x.var().item(), (alpha[-1] ** 2 * V + sigma[-1] ** 2).item()


@pytest.mark.parametrize("schedule", [linear_beta(), cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("guided", [False, True])
def test_the_exact_reverse_variance_keeps_the_marginals_in_three_steps(schedule, guided):
    exact = Exact(Gaussian(schedule))
    found, true = variance_after(Guided(exact, {}, 2.0) if guided else exact)
    without, _ = variance_after(WithoutVariance(Gaussian(schedule)))

    # a variance of 200,000 draws has the relative standard error sqrt(2 / 200,000) = 0.003
    assert found == pytest.approx(true, rel=0.015)
    assert without < 0.95 * true  # the posterior's variance is right for data of one point, and too small here
