"""Objectives: what a denoiser is trained for; `laws` says at which times it is trained.

    loss = E_t E_{x_0, eps} [ w(t) |D(alpha_t x_0 + sigma_t eps, t) - x_0|^2 ]

The minimiser is the posterior mean for every positive weight w and every law of t; the two only decide where a
network of finite size spends its effort. A weight is a function (alpha, sigma) -> w. A mean squared error on another
target is the same loss: an error of F is an error of x_0 divided by c_out, so its weight is 1 / c_out^2.

A network with a learned variance is also trained for the variational bound, whose terms (see `bound`) belong to the
steps i / T of a chain:

    L_vlb    = L_T + T E_i [L_{i-1}]                    i uniform in 1..T, or as often as `importance` says
    L_hybrid = L_simple + 0.001 L_vlb                   in which L_vlb teaches the variance alone

References: Ho et al. 2020, eq. 14; Hang et al. 2023 (min-SNR), arXiv:2303.09556; Karras et al. 2022, table 1;
Nichol & Dhariwal 2021 (hybrid), arXiv:2102.09672, eq. 16.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .bound import Decoder, discretized, prior_kl, term
from .denoisers import PosteriorMean, predict
from .processes import Gaussian
from .reverse import Variance, learned

Weight = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[..., Tensor]  # (denoiser, x_0, t, noise, **cond) -> (B,)


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


def denoising_loss(
    denoiser: PosteriorMean, x_0: Tensor, t: Tensor, noise: Tensor, weight: Weight, **cond: Tensor | None
) -> Tensor:
    """Return the weighted error of the denoised data, averaged over pixels or tokens: one number per example (B,).

    The process defines the error: squared for numbers, the cross-entropy for tokens.

    Args:
        denoiser: returns E[x_0 | x_t].
        x_0: data (B, ...).
        t: times (B,) with sigma_t > 0, drawn by a time law.
        noise: noise of the process, like `x_0`.
        weight: the weight of each noise level.
        cond: the condition, passed to the denoiser.
    """
    process = denoiser.process
    error = process.error(x_0, denoiser(process.forward(x_0, t, noise), t, **cond))
    return weight(*process.schedule(t)) * error


def chain_step(t: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Return the two ends (i / T, (i - 1) / T) of the step of a chain of `T` in which the times `t` (B,) fall.

    A step contains its later end: t = i / T is in step i, and t = 0 in the first step.
    """
    i = (t * T - 1e-3).ceil().clamp(1, T)  # a node that was rounded up is still in its step
    return i / T, (i - 1) / T


def vlb_loss(
    denoiser: PosteriorMean[Gaussian],
    x_0: Tensor,
    t: Tensor,
    noise: Tensor,
    T: int = 1000,
    variance: Variance = learned,
    decoder: Decoder = discretized,
    **cond: Tensor | None,
) -> Tensor:
    """Return an estimate of the variational bound from one of its terms, in bits per dimension, for each example (B,).

    For uniform `t` its mean is the bound; for times drawn by importance, its weighted mean is. It is also
    differentiable in a learned schedule.

    Args:
        denoiser: returns E[x_0 | x_t], and by `predict` the raw variance output.
        x_0: data (B, ...).
        t: times (B,), moved to the later end of their step of the chain.
        noise: standard normal, like `x_0`.
        T: steps of the chain.
        variance: which variance the steps have.
        decoder: what p(x_0 | x_1) is.
        cond: the condition, passed to the denoiser.
    """
    process, (t, s) = denoiser.process, chain_step(t, T)
    x_t = process.forward(x_0, t, noise)
    mean, raw = predict(denoiser, x_t, t, **cond)
    return T * term(process, x_0, x_t, mean, raw, t, s, variance, decoder) + prior_kl(process, x_0, torch.ones_like(t))


def hybrid_loss(
    denoiser: PosteriorMean[Gaussian],
    x_0: Tensor,
    t: Tensor,
    noise: Tensor,
    weight: Weight,
    T: int = 1000,
    share: float = 1e-3,
    decoder: Decoder = discretized,
    **cond: Tensor | None,
) -> Tensor:
    """Return the weighted squared error plus `share` times the bound (B,).

    The bound's gradient reaches only the variance. L_T is left out, because it does not depend on the network.

    Args:
        denoiser: returns by `predict` E[x_0 | x_t] and the raw variance output.
        x_0: data (B, ...).
        t: times (B,), moved to the later end of their step of the chain.
        noise: standard normal, like `x_0`.
        weight: the weight of each noise level in the squared error; `simple` in the paper.
        T: steps of the chain.
        share: lambda of the paper.
        decoder: what p(x_0 | x_1) is.
        cond: the condition, passed to the denoiser.
    """
    process, (t, s) = denoiser.process, chain_step(t, T)
    x_t = process.forward(x_0, t, noise)
    mean, raw = predict(denoiser, x_t, t, **cond)

    error = process.error(x_0, mean)
    vlb = T * term(process, x_0, x_t, mean.detach(), raw, t, s, learned, decoder)
    return weight(*process.schedule(t)) * error + share * vlb
