"""Objectives: what a denoiser is trained for, in three separate parts.

    loss = E_t E_{x_0, eps} [ w(t) |D(alpha_t x_0 + sigma_t eps, t) - x_0|^2 ]

The minimiser is the posterior mean for every positive weight w and every law of t; the two only decide where a
network of finite size spends its effort. A weight is a function (alpha, sigma) -> w. A mean squared error on another
target is the same loss: an error of F is an error of x_0 divided by c_out, so that its weight is 1 / c_out^2. A time
law is a function that takes uniform numbers u in (0, 1) to times, so that the caller owns the randomness (and may
stratify it).

References: Ho et al. 2020, eq. 14; Hang et al. 2023 (min-SNR), arXiv:2303.09556; Karras et al. 2022, table 1;
Esser et al. 2024 (logit-normal), arXiv:2403.03206, eq. 19.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .denoisers import PosteriorMean
from .schedules import Schedule

Weight = Callable[[Tensor, Tensor], Tensor]
TimeLaw = Callable[[Tensor], Tensor]


def simple(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The simple loss of DDPM, the mean squared error of the noise: w = SNR."""
    return (alpha / sigma) ** 2


def uniform_x(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The mean squared error of the data: w = 1."""
    return torch.ones_like(alpha)


def v_weight(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The mean squared error of v: w = 1 + SNR (over alpha^2 + sigma^2 = 1, w = 1 / sigma^2)."""
    return (alpha**2 + sigma**2) / sigma**2


def flow_weight(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The mean squared error of the velocity eps - x_0: w = ((alpha + sigma) / sigma)^2."""
    return ((alpha + sigma) / sigma) ** 2


def min_snr(gamma: float = 5.0) -> Weight:
    """The min-SNR weighting: w = min(SNR, `gamma`), so that nearly clean pictures do not drown the rest."""

    def weight(alpha: Tensor, sigma: Tensor) -> Tensor:
        return simple(alpha, sigma).clamp(max=gamma)

    return weight


def edm(sigma_data: float = 0.5) -> Weight:
    """The weighting of EDM, the mean squared error of its unit-variance target: w = 1 / sigma_data^2 + SNR."""

    def weight(alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma_data**-2 + simple(alpha, sigma)

    return weight


def uniform(u: Tensor) -> Tensor:
    """Times as uniform as `u` (B,), kept 1e-5 from both ends: at t = 0 the SNR is infinite, and so are most weights."""
    return u.clamp(1e-5, 1 - 1e-5)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeLaw:
    """Times whose logit is normal: the middle of the path more often than its ends. A higher `mean` is more noise."""

    def law(u: Tensor) -> Tensor:
        return torch.sigmoid(mean + std * torch.special.ndtri(uniform(u)))

    return law


def log_normal(schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> TimeLaw:
    """The law of EDM: log(sigma / alpha) is normal, whatever the schedule; what falls beyond its ends stays at them."""

    def law(u: Tensor) -> Tensor:
        return schedule.time_of(-2 * (mean + std * torch.special.ndtri(uniform(u))))

    return law


def denoising_loss(
    denoiser: PosteriorMean, x_0: Tensor, t: Tensor, noise: Tensor, weight: Weight, **cond: Tensor | None
) -> Tensor:
    """Return the weighted squared error of the denoised data, averaged over pixels: one number per example (B,).

    Args:
        denoiser: returns E[x_0 | x_t].
        x_0: data (B, ...).
        t: times (B,) with sigma_t > 0, drawn by a time law.
        noise: standard normal, like `x_0`.
        weight: the weight of each noise level.
        cond: the condition, passed to the denoiser.
    """
    x_t = denoiser.process.forward(x_0, t, noise)
    error = (denoiser(x_t, t, **cond) - x_0).square().flatten(1).mean(1)
    return weight(*denoiser.process.schedule(t)) * error
