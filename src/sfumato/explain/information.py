"""How much a noisy pixel says about the clean one, and the time after which it says almost nothing.

For a pixel x_0 of variance v seen through x_t = alpha_t x_0 + sigma_t eps, the mutual information in bits is at most

    I(x_0; x_t) = 1/2 log2(1 + n v SNR_t),    SNR_t = alpha_t^2 / sigma_t^2,    n = 1,

and exactly this for a Gaussian pixel: of all distributions of one variance the Gaussian gets the most through a
Gaussian channel (Shannon 1948, theorem 17; Cover & Thomas 2006, sec. 9.1). For `n` pixels of the same value the
signal-to-noise ratio counts n times, because their average has 1 / n of the noise. Solved for the log-SNR,

    I = b    at    log-SNR = log((2^(2 b) - 1) / (n v)).

So n = side^2 moves the log-SNR at which a flat picture is lost by 2 log(side): the resolution shift of Hoogeboom et
al. 2023 (arXiv:2301.11093, sec. 3.1).
"""

import math

import torch
from torch import Tensor

from sfumato.diffusion.schedules import Schedule

GONE = 0.01  # bits that count as nothing


def information(variance: float, log_snr: Tensor, pixels: int = 1) -> Tensor:
    """Return I(x_0; x_t) in bits, of the shape of `log_snr`.

    Args:
        variance: variance of the clean pixel.
        log_snr: 2 log(alpha_t / sigma_t).
        pixels: number of pixels with the same value.
    """
    return torch.log1p(pixels * variance * log_snr.exp()) / (2 * math.log(2))


def log_snr_where_gone(variance: float, pixels: int = 1, bits: float = GONE) -> float:
    """Return the log-SNR at which `bits` are left."""
    return math.log((2 ** (2 * bits) - 1) / (pixels * variance))


def time_gone(schedule: Schedule, variance: float, pixels: int = 1, bits: float = GONE) -> float | None:
    """Return the time after which fewer than `bits` are left, or None if more are left at t = 1."""
    wanted = torch.tensor(log_snr_where_gone(variance, pixels, bits), dtype=torch.float64)
    if schedule.log_snr(torch.ones((), dtype=torch.float64)) > wanted:
        return None
    return float(schedule.time_of(wanted))


def signal_share(schedule: Schedule, t: Tensor) -> Tensor:
    """Return alpha_bar_t = alpha_t^2 / (alpha_t^2 + sigma_t^2), the share of the signal, for any schedule."""
    return torch.sigmoid(schedule.log_snr(t))


def chain_betas(schedule: Schedule, T: int = 1000) -> Tensor:
    """Return the betas (T,) of the DDPM chain of `T` steps with the SNR of any schedule at t = i / T.

    beta_i = 1 - alpha_bar_i / alpha_bar_(i - 1); for a chain of T steps these are its own.
    """
    t = torch.arange(T + 1, dtype=torch.float64) / T
    return -torch.expm1(torch.nn.functional.logsigmoid(schedule.log_snr(t)).diff())
