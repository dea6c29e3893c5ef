"""The learned reverse process p(x_s | x_t), s < t: one Gaussian for each step, whose mean the denoiser gives.

It is the mean of the posterior q(x_s | x_t, x_0) with E[x_0 | x_t] instead of x_0. Two fixed variances bracket the best
one (Ho et al. 2020, sec. 3.2), with r^2 = SNR_t / SNR_s and V = alpha^2 + sigma^2:

    small    sigma_s^2 (1 - r^2)               beta-tilde, the posterior's own: right for data of one point
    large    sigma_t^2 (1 - r^2) V_s / V_t     the chain's beta (where V = 1): right for data N(0, I)

A learned variance is between them in the logarithm, by the raw output v of the network (Nichol & Dhariwal 2021,
arXiv:2102.09672, eq. 15, and (v + 1) / 2 as in their code):

    log variance = f log large + (1 - f) log small,    f = (v + 1) / 2.

Time 0 is the data itself, alpha = 1 and sigma = 0, also on schedules that keep a little noise there. The small variance
of the step to the data is zero, which gives no density. It is replaced by half of the large variance, which equals the
small variance of the step before if the first two betas are equal.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .denoisers import PosteriorMean, predict
from .processes import Gaussian, Noise
from .schedules import like

# (log small, log large, raw output or None) -> log variance
Variance = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def small(log_small: Tensor, log_large: Tensor, raw: Tensor | None) -> Tensor:
    """The variance of the posterior, beta-tilde."""
    return log_small


def large(log_small: Tensor, log_large: Tensor, raw: Tensor | None) -> Tensor:
    """The variance of the chain, beta."""
    return log_large


def learned(log_small: Tensor, log_large: Tensor, raw: Tensor | None) -> Tensor:
    """The network's own: `small` where its raw output is -1, `large` where it is 1."""
    if raw is None:
        raise ValueError("the denoiser has no learned variance; take the small or the large one")
    share = (raw + 1) / 2
    return share * log_large + (1 - share) * log_small


def reverse(
    denoiser: PosteriorMean[Gaussian],
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    variance: Variance = large,
    **cond: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return mean (B, ...) and log variance (broadcasts to x_t) of p(x_s | x_t).

    Args:
        denoiser: returns E[x_0 | x_t], and by `predict` the raw variance output when it has one.
        x_t: the state (B, ...).
        t: its time, () or (B,).
        s: the earlier time, like `t`; 0 is the data.
        variance: `small`, `large` or `learned`.
        cond: the condition, passed to the denoiser.
    """
    mean, raw = predict(denoiser, x_t, t, **cond)
    return moments(denoiser.process, x_t, mean, raw, t, s, variance)


def moments(
    process: Gaussian, x_t: Tensor, x_0: Tensor, raw: Tensor | None, t: Tensor, s: Tensor, variance: Variance
) -> tuple[Tensor, Tensor]:
    """Mean and log variance of p(x_s | x_t) as in `reverse`, from the denoiser's answers: x_0 and `raw`."""
    mean, _ = process.posterior(x_t, x_0, t, s)
    mean = torch.where(like(s, x_t) == 0, x_0, mean)
    log_small, log_large = (like(v, x_t) for v in log_variances(process, t, s))
    return mean, variance(log_small, log_large, raw)


def learned_bridge(
    process: Gaussian, x_t: Tensor, mean: Tensor, raw: Tensor, t: Tensor, s: Tensor, noise: Noise
) -> Tensor:
    """Return a draw of p(x_s | x_t) as `Gaussian.bridge` does, with the learned variance; none at the last step."""
    x_s, std = process.posterior(x_t, mean, t, s)
    _, log_variance = moments(process, x_t, mean, raw, t, s, learned)
    return x_s + torch.where(like(s, x_t) > 0, torch.exp(log_variance / 2), std) * noise(x_t)


def log_variances(process: Gaussian, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the small and the large variance of the step from `t` to `s`, of their shape."""
    schedule, data = process.schedule, s == 0
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    fresh = torch.where(data, 0.0, log_fresh(process, t, s))

    total_s = torch.where(data, 1.0, alpha_s**2 + sigma_s**2)
    log_large = fresh + 2 * sigma_t.log() + total_s.log() - (alpha_t**2 + sigma_t**2).log()
    log_small = torch.where(data, log_large - math.log(2), fresh + 2 * sigma_s.log())
    return log_small, log_large


def log_fresh(process: Gaussian, t: Tensor, s: Tensor) -> Tensor:
    """Return log(1 - SNR_t / SNR_s): the share of the variance sigma_t^2 that is added between `s` and `t`."""
    schedule = process.schedule
    return (-torch.expm1(schedule.log_snr(t) - schedule.log_snr(s))).log()
