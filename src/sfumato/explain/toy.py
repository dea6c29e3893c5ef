"""Data in the plane whose posterior mean is known exactly: a mixture of narrow Gaussians, which can follow any curve.

For x_0 ~ sum_k w_k N(c_k, s^2 I), with S_t = alpha_t^2 s^2 + sigma_t^2,

    q(x_t)       = sum_k w_k N(x_t; alpha_t c_k, S_t I)
    E[x_0 | x_t] = sum_k r_k(x_t) (c_k + alpha_t s^2 / S_t (x_t - alpha_t c_k)),
    r_k(x_t)     = w_k N(x_t; alpha_t c_k, S_t I) / q(x_t)

(Bayes' rule for a Gaussian, once for each k), and the score follows by Tweedie's formula. At s = 0 it is the posterior
mean of a finite data set.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import like


@dataclass(frozen=True, eq=False)
class Mixture:
    """The exact denoiser of the mixture of N(centres[k], std^2 I); weights (K,) sum to 1, centres are (K, D)."""

    process: Gaussian
    centres: Tensor
    weights: Tensor
    std: float

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        """Return E[x_0 | x_t] (B, D) for the state `x_t` at the time `t`, () or (B,)."""
        alpha, variance, residue = self._at(x_t, t)
        means = self.centres + alpha * self.std**2 / variance * residue
        shares = self._log_weighted(variance, residue).softmax(-1)
        return (shares[..., None] * means).sum(1)

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log q(x_t) (B,)."""
        _, variance, residue = self._at(x_t, t)
        return self._log_weighted(variance, residue).logsumexp(-1)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return grad log q(x_t) = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2 (B, D); sigma_t must be above 0."""
        alpha, sigma = (like(v, x_t) for v in self.process.schedule(t))
        return (alpha * self(x_t, t) - x_t) / sigma**2

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return `n` data points x_0 (n, D)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.centres[k] + self.std * torch.randn(
            n, self.centres.shape[1], generator=generator, dtype=self.centres.dtype
        )

    @property
    def mean(self) -> Tensor:
        """E[x_0] (D,)."""
        return self.weights @ self.centres

    @property
    def covariance(self) -> Tensor:
        """Cov[x_0] (D, D)."""
        residue = self.centres - self.mean
        return residue.T @ (self.weights[:, None] * residue) + self.std**2 * torch.eye(len(self.mean)).to(residue)

    def _at(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha and S, () or (B, 1, 1), and x_t - alpha c (B, K, D)."""
        x_t = x_t[:, None]
        alpha, sigma = (like(v, x_t) for v in self.process.schedule(t))
        return alpha, (alpha * self.std) ** 2 + sigma**2, x_t - alpha * self.centres

    def _log_weighted(self, variance: Tensor, residue: Tensor) -> Tensor:
        """log w_k N(x_t; alpha c_k, S I) (B, K)."""
        scale = torch.as_tensor(2 * math.pi * variance).log() * residue.shape[-1] / 2
        squares = (residue**2 / (2 * variance)).sum(-1)
        return self.weights.log() - (scale[..., 0] if scale.ndim else scale) - squares


def two_moons(process: Gaussian, each: int = 12) -> Mixture:
    """Two interlocking half circles of `each` narrow Gaussians, in [-1.3, 1.3]^2."""
    angle = torch.linspace(0, math.pi, each, dtype=torch.float64)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    lower = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], 1)
    weights = torch.full((2 * each,), 0.5 / each, dtype=torch.float64)
    return Mixture(process, 0.85 * torch.cat([upper, lower]), weights, std=0.07)
