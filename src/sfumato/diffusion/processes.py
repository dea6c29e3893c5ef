"""Processes: how data turns into noise, and one step back if the data, or a mean of it, is known.

The sampling loop, guidance and the plain losses know a kind of data only through its `Process`. This file has the
Gaussian process, for real numbers; `categorical.py` has the process of tokens.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .schedules import Schedule, like, once

Noise = Callable[[Tensor], Tensor]  # a state -> noise of its shape, as Process.noise draws it


class Process(Protocol):
    """A process that turns data into noise. States are (B, ...), times are () or (B,)."""

    @property
    def schedule(self) -> Schedule: ...

    def noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Return fresh noise of the shape of a state, as `prior`, `forward` and `bridge` take it."""
        ...

    def prior(self, noise: Tensor) -> Tensor:
        """Return a draw of x_1, the state that sampling starts from."""
        ...

    def forward(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of q(x_t | x_0)."""
        ...

    def bridge(self, x_t: Tensor, mean: Tensor, t: Tensor, s: Tensor, noise: Noise, eta: float = 1.0) -> Tensor:
        """Return a draw of p(x_s | x_t) for s < t: of q(x_s | x_t, x_0), with `mean` for the unknown x_0.

        Args:
            x_t: the state at time t.
            mean: E[x_0 | x_t], a denoiser's answer.
            t: the time of `x_t`.
            s: the earlier time.
            noise: draws noise like `x_t`; called only if the step is random.
            eta: share of fresh noise, 0 to 1 (Bayes' rule for the chain); all values have the same marginals.
        """
        ...

    def error(self, x_0: Tensor, mean: Tensor) -> Tensor:
        """Return how far `mean` is from the data (B,), averaged over dimensions; E[x_0 | x_t] is the best."""
        ...

    def blend(self, null: Tensor, mean: Tensor, scale: Tensor | float) -> Tensor:
        """Return the answer in the direction of `mean`, `scale` times as far from `null` as `mean`."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """The process of a schedule. States are (B, ...), times are () or (B,), `noise` is standard normal like x."""

    schedule: Schedule

    def noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Return standard normal noise of `shape`."""
        return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=device)

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

    def bridge(self, x_t: Tensor, mean: Tensor, t: Tensor, s: Tensor, noise: Noise, eta: float = 1.0) -> Tensor:
        """Return a draw of q(x_s | x_t, x_0) with `mean` instead of x_0; at eta = 0 no noise is drawn."""
        x_s, std = self.posterior(x_t, mean, t, s, eta)
        return x_s + std * noise(x_t) if eta > 0 else x_s

    def error(self, x_0: Tensor, mean: Tensor) -> Tensor:
        """Return the mean squared error (B,)."""
        return (mean - x_0).square().flatten(1).mean(1)

    def blend(self, null: Tensor, mean: Tensor, scale: Tensor | float) -> Tensor:
        """Return the point of the line through `null` and `mean` (Ho & Salimans 2022, eq. 6, whose w is scale - 1)."""
        return null + scale * (mean - null)

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
