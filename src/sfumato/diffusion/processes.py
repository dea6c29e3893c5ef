"""The Gaussian diffusion process: its prior, its marginals, its Markov chain and its posterior.

With x_t = alpha_t x_0 + sigma_t eps, three families of Gaussians follow from the schedule alone, for any two times:

    marginal    q(x_t | x_0)       = N(alpha_t x_0, sigma_t^2)
    chain       q(x_s | x_t)       = N(a x_t, sigma_s^2 - a^2 sigma_t^2),  a = alpha_s / alpha_t,  s > t
    posterior   q(x_s | x_t, x_0)  = N(alpha_s x_0 + sqrt(sigma_s^2 - std^2) z, std^2),  s < t,
                z = (x_t - alpha_t x_0) / sigma_t,
                std = eta sigma_s sqrt(1 - r^2),  r = (sigma_s / alpha_s) / (sigma_t / alpha_t)

At eta = 1 the posterior is Bayes' rule for the chain; every eta in [0, 1] has the same marginals, and eta = 0 keeps
the noise z of x_t and adds none (Song et al. 2020 (DDIM), arXiv:2010.02502, eq. 7, 12 and 16, where alpha_t^2 =
alpha_bar and sigma_t^2 = 1 - alpha_bar; here for any schedule).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedules import Schedule, like, once


@dataclass(frozen=True)
class Gaussian:
    """The process of a schedule. States are (B, ...), times are () or (B,), `noise` is standard normal like x."""

    schedule: Schedule

    def prior(self, noise: Tensor) -> Tensor:
        """Return a draw of x_1, the state that sampling starts from, as sigma_1 `noise` (B, ...).

        The exact x_1 also has alpha_1 x_0, which is left out: alpha_1 / sigma_1 is 0.0064 on the linear schedule, 5e-5
        on the cosine one, 0.0125 under Karras and 0.001 under flow.
        """
        _, sigma = self.schedule(torch.ones((), dtype=torch.float64))
        return like(sigma, noise) * noise

    def forward(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of q(x_t | x_0), in one step from the data (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self.schedule(t)
        return like(alpha, x_0) * x_0 + like(sigma, x_0) * noise

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of q(x_s | x_t) for s > t: the Markov chain itself, towards noise (Ho et al. 2020, eq. 2)."""
        a, std = _chain(self.schedule, (t, s))
        return like(a, x_t) * x_t + like(std, x_t) * noise

    def posterior(self, x_t: Tensor, x_0: Tensor, t: Tensor, s: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return the mean (B, ...) and the standard deviation () or (B, 1, ...) of q(x_s | x_t, x_0) for s < t.

        Args:
            x_t: the state at time t.
            x_0: the data, or a denoiser's estimate of it.
            t: the time of `x_t`; sigma_t must be above 0.
            s: the earlier time.
            eta: share of fresh noise, 0 (DDIM) to 1 (DDPM, Bayes' rule).
        """
        alpha_t, sigma_t, alpha_s, old, fresh = _posterior(self.schedule, (t, s), eta)
        z = (x_t - like(alpha_t, x_t) * x_0) / like(sigma_t, x_t)
        mean = like(alpha_s, x_t) * x_0 + like(old, x_t) * z
        return mean, like(torch.as_tensor(fresh, dtype=x_t.dtype), x_t)


@once
def _chain(schedule: Schedule, times: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """a and the standard deviation of q(x_s | x_t), from the times t and s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(schedule, times)
    a = alpha_s / alpha_t
    return a, (sigma_s**2 - (a * sigma_t) ** 2).clamp(min=0).sqrt()


@once
def _posterior(schedule: Schedule, times: Sequence[Tensor], eta: float) -> tuple[Tensor, ...]:
    """alpha_t, sigma_t, alpha_s and the deviations of the old and of the fresh noise in x_s, from the times t and s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(schedule, times)
    fresh = eta**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2).clamp(0, 1)
    return alpha_t, sigma_t, alpha_s, sigma_s * (1 - fresh).sqrt(), sigma_s * fresh.sqrt()
