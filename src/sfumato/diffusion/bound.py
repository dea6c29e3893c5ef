"""The variational bound on -log p(x_0), discrete and continuous, in bits per dimension.

On a grid of times 1 = t_T > ... > t_1 > 0, where time 0 is the data, the bound has three parts (Ho et al. 2020, eq. 5):

    L_T = KL(q(x_T | x_0) || p(x_T)),    p(x_T) = N(0, sigma_T^2)
    L_i = KL(q(x_i | x_{i+1}, x_0) || p(x_i | x_{i+1}))    for i = T-1 .. 1
    L_0 = -log p(x_0 | x_1)

Conditional entropies give the same number. By Bayes' rule for the chain each L_i is a cross entropy minus what the
step forwards adds, so the sum telescopes (Sohl-Dickstein et al. 2015, arXiv:1503.03585, eq. 12 to 14; H_i is
H_q(X_i | X_0), and H_p the entropy of the prior):

    sum L_i = sum (E[-log p(x_i | x_{i+1})] - H_q(X_{i+1} | X_i)) - H_1 + H_T
    bound   = sum L_i + H_p + H_1 - H_T + ends,    ends = (E[-log p(x_T)] - H_p) + (L_0 - H_1)

Their bound -K is this one with ends = 0: they take the two end points as matched.

With ever more steps the sum becomes an integral over log-SNR, and the variance of the steps drops out (Kingma et al.
2021 (VDM), arXiv:2107.00630, eq. 17 and 18):

    L_inf = 1/2 E int SNR |x_0 - E[x_0 | x_t]|^2 d log-SNR.

Every expectation over q is one draw for each example and step. Bounds are means over dimensions, one number for each
example (B,).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .denoisers import PosteriorMean, predict
from .processes import Gaussian
from .reverse import Variance, large, log_fresh, log_variances, moments
from .schedules import like

LOG_2, LOG_2_PI = math.log(2), math.log(2 * math.pi)
Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_0, mean, log variance) -> log p(x_0), elementwise
Noise = Callable[[int], Tensor]  # number of the step -> standard normal noise, like x_0
Progress = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True)
class Discretized:
    """The log probability of discrete values, evenly spaced: the Gaussian over each value's bin, whose outermost bins
    reach to infinity (Ho et al. 2020, eq. 13).

    Args:
        bin: the distance of neighbouring values.
        bounds: the least and the largest value; None: there are none, and every bin has two ends.
    """

    bin: float = 2 / 255
    bounds: tuple[float, float] | None = (-1.0, 1.0)

    def __call__(self, x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Elementwise."""
        half = self.bin / 2
        inverse_std = torch.exp(-log_variance / 2)
        below, above = (x_0 - half - mean) * inverse_std, (x_0 + half - mean) * inverse_std
        if self.bounds is not None:
            below = torch.where(x_0 < self.bounds[0] + half, -math.inf, below)
            above = torch.where(x_0 > self.bounds[1] - half, math.inf, above)

        # both ends on the side of the smaller tail, where the difference of two probabilities keeps its digits
        right = below + above > 0
        low, high = (torch.special.log_ndtr(torch.where(right, *pair)) for pair in ((-above, below), (-below, above)))
        return high + (-torch.expm1(low - high)).log()


discretized = Discretized()  # 8-bit values in [-1, 1]


def decoder_of(bin: float | None, bounds: tuple[float, float] | None) -> "Decoder":
    """What p(x_0 | x_1) is for values of this bin, see ``Discretized``; None: the density of continuous ones."""
    return density if bin is None else Discretized(bin, bounds)


def density(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The log density of continuous values."""
    return -(LOG_2_PI + log_variance + (x_0 - mean) ** 2 * torch.exp(-log_variance)) / 2


def term(
    process: Gaussian,
    x_0: Tensor,
    x_t: Tensor,
    mean: Tensor,
    raw: Tensor | None,
    t: Tensor,
    s: Tensor,
    variance: Variance = large,
    decoder: Decoder = discretized,
) -> Tensor:
    """Return one term of the bound (B,): L_i of the step from `t` to `s`, or L_0 where s = 0.

    Args:
        process: the process that made `x_t`.
        x_0: the data (B, ...).
        x_t: a draw of q(x_t | x_0).
        mean: the denoiser's E[x_0 | x_t].
        raw: its raw variance output, or None.
        t: times () or (B,).
        s: earlier times, like `t`.
        variance: which variance p has.
        decoder: what p(x_0 | x_1) is.
    """
    mean_p, log_p = moments(process, x_t, mean, raw, t, s, variance)
    kl = _divergence(*_posterior(process, x_t, x_0, t, s), mean_p, log_p)

    data = like(s, x_t) == 0
    # a harmless variance where the decoder is not asked, so that no gradient is lost to an overflow there
    nll = -decoder(x_0, mean_p, torch.where(data, log_p, 0.0))
    return _bits(torch.where(data, nll, kl), x_0)


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound on a grid of T + 1 times, in bits per dimension.

    Attributes:
        times: the grid (T + 1,), from 1 to 0.
        prior: L_T (B,).
        kl: L_{T-1} .. L_1 (B, T - 1); place i holds the step from times[i] to times[i + 1].
        decoder: L_0 (B,).
        entropies: the other form.
    """

    times: Tensor
    prior: Tensor
    kl: Tensor
    decoder: Tensor
    entropies: "Entropies"

    @property
    def total(self) -> Tensor:
        """L_T + sum L_i + L_0 (B,)."""
        return self.prior + self.kl.sum(1) + self.decoder


@dataclass(frozen=True, eq=False)
class Entropies:
    """The bound by conditional entropies, in bits per dimension (differential entropies may be below 0).

    Attributes:
        kl: the sum of the L_i (B,), by cross entropies of the steps back and entropies of the steps forwards.
        prior: H_p(X_T) ().
        last: H_q(X_T | X_0) ().
        first: H_q(X_1 | X_0) ().
        ends: (B,) the difference between the costs of prior and decoder and the entropies; 0 for matched end points.
    """

    kl: Tensor
    prior: Tensor
    last: Tensor
    first: Tensor
    ends: Tensor

    @property
    def total(self) -> Tensor:
        """The bound (B,)."""
        return self.kl + self.prior + self.first - self.last + self.ends


@torch.no_grad()
def discrete_bound(
    denoiser: PosteriorMean[Gaussian],
    x_0: Tensor,
    times: Tensor,
    noise: Noise,
    variance: Variance = large,
    decoder: Decoder = discretized,
    progress: Progress = lambda done, total: None,
    **cond: Tensor | None,
) -> Bound:
    """Return the bound of the chain that visits `times`.

    Args:
        denoiser: returns E[x_0 | x_t], and by `predict` the raw variance output when it has one.
        x_0: data (B, ...); float64 keeps the two forms equal to many digits.
        times: the grid (T + 1,), strictly decreasing to 0, T at least 2; times[0] has the prior.
        noise: gives the noise with which x_t of step i is drawn; steps count from 0.
        variance: which variance p has.
        decoder: what p(x_0 | x_1) is: `Discretized` for discrete data, `density` for continuous data.
        progress: told of every step.
        cond: the condition, passed to the denoiser.

    Raises:
        ValueError: when `times` is not such a grid.
    """
    if times.ndim != 1 or len(times) < 3 or times[-1] != 0 or (times.diff() >= 0).any():
        raise ValueError(f"times must be three or more strictly decreasing numbers to 0, got {times.tolist()[:9]}")

    process, total = denoiser.process, len(times) - 1
    kl, cross, decoded = [], [], x_0
    for i, (t, s) in enumerate(pairwise(times)):
        x_t = process.forward(x_0, t, noise(i))
        mean, raw = predict(denoiser, x_t, t, **cond)
        mean_p, log_p = moments(process, x_t, mean, raw, t, s, variance)
        if s == 0:
            decoded = _bits(-decoder(x_0, mean_p, log_p), x_0)
        else:
            pair = (*_posterior(process, x_t, x_0, t, s), mean_p, log_p)
            kl.append(_bits(_divergence(*pair), x_0))
            cross.append(_bits(_cross_entropy(*pair), x_0))
        progress(i + 1, total)

    _, sigma = process.schedule(times)
    t, s = times[:-2], times[1:-1]
    forwards = _entropy(2 * sigma[:-2].log() + log_fresh(process, t, s)).sum() / LOG_2  # all H_q(X_t | X_s)
    last, first = _entropy(2 * sigma[0].log()) / LOG_2, _entropy(2 * sigma[-2].log()) / LOG_2

    prior_cross = _prior_cross_entropy(process, x_0, times[0])
    entropies = Entropies(
        kl=torch.stack(cross, 1).sum(1) - forwards - first + last,
        prior=last,
        last=last,
        first=first,
        ends=prior_cross - last + decoded - first,
    )
    return Bound(times, prior_kl(process, x_0, times[0]), torch.stack(kl, 1), decoded, entropies)


@dataclass(frozen=True, eq=False)
class ContinuousBound:
    """The bound of infinitely many steps, in bits per dimension.

    Attributes:
        prior: L_T (B,).
        diffusion: L_inf (B,).
        decoder: L_0 (B,), from the least noise.
        error: the standard error (B,) of `diffusion` over its draws of time and noise.
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor
    error: Tensor

    @property
    def total(self) -> Tensor:
        """L_T + L_inf + L_0 (B,)."""
        return self.prior + self.diffusion + self.decoder


@torch.no_grad()
def continuous_bound(
    denoiser: PosteriorMean[Gaussian],
    x_0: Tensor,
    t_min: Tensor,
    u: Tensor,
    noise: Noise,
    variance: Variance = large,
    decoder: Decoder = discretized,
    progress: Progress = lambda done, total: None,
    **cond: Tensor | None,
) -> ContinuousBound:
    """Return the continuous-time bound between the times `t_min` and 1, by Monte Carlo over log-SNR in strata.

    Its error comes from the differences of neighbouring strata.

    Args:
        denoiser: as in `discrete_bound`.
        x_0: data (B, ...).
        t_min: the time () of the least noise, from which the decoder starts.
        u: uniform numbers (B, n), one for each example and stratum, n at least 2.
        noise: gives the noise of stratum i, and for i = n the noise of the decoder.
        variance: which variance the decoder has.
        decoder: what p(x_0 | x_1) is.
        progress: told of every stratum.
        cond: the condition, passed to the denoiser.
    """
    process, n = denoiser.process, u.shape[1]
    one = torch.ones_like(t_min)
    low, high = process.schedule.log_snr(one), process.schedule.log_snr(t_min)

    found = []
    for i in range(n):
        log_snr = low + (high - low) * (i + u[:, i]) / n
        t = process.schedule.time_of(log_snr)
        mean, _ = predict(denoiser, process.forward(x_0, t, noise(i)), t, **cond)
        found.append((high - low) / 2 * log_snr.exp() * _bits((x_0 - mean) ** 2, x_0))
        progress(i + 1, n)

    strata = torch.stack(found, 1)
    error = (strata.diff(dim=1).square().mean(1) / 2 / n).sqrt()

    x_t = process.forward(x_0, t_min, noise(n))
    mean, raw = predict(denoiser, x_t, t_min, **cond)
    mean_p, log_p = moments(process, x_t, mean, raw, t_min, torch.zeros_like(t_min), variance)
    decoded = _bits(-decoder(x_0, mean_p, log_p), x_0)
    return ContinuousBound(prior_kl(process, x_0, one), strata.mean(1), decoded, error)


def prior_kl(process: Gaussian, x_0: Tensor, t: Tensor) -> Tensor:
    """Return L_T (B,): what the prior N(0, sigma_t^2) costs because it leaves out alpha_t x_0."""
    alpha, sigma = process.schedule(t)
    return _bits((like(alpha / sigma, x_0) * x_0) ** 2 / 2, x_0)


def _posterior(process: Gaussian, x_t: Tensor, x_0: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of q(x_s | x_t, x_0)."""
    return process.posterior(x_t, x_0, t, s)[0], like(log_variances(process, t, s)[0], x_t)


def _prior_cross_entropy(process: Gaussian, x_0: Tensor, t: Tensor) -> Tensor:
    """Return E[-log p(x_T)] (B,) over q(x_T | x_0)."""
    alpha, sigma = process.schedule(t)
    log_variance = like(2 * sigma.log(), x_0)
    return _bits(_cross_entropy(like(alpha, x_0) * x_0, log_variance, torch.zeros_like(x_0), log_variance), x_0)


def _divergence(mean_q: Tensor, log_q: Tensor, mean_p: Tensor, log_p: Tensor) -> Tensor:
    """Return KL(q || p) of two Gaussians, elementwise, in nats."""
    gap = log_q - log_p
    return (torch.expm1(gap) - gap + (mean_q - mean_p) ** 2 * torch.exp(-log_p)) / 2


def _cross_entropy(mean_q: Tensor, log_q: Tensor, mean_p: Tensor, log_p: Tensor) -> Tensor:
    """Return E_q[-log p] of two Gaussians, elementwise, in nats."""
    return (LOG_2_PI + log_p + torch.exp(log_q - log_p) + (mean_q - mean_p) ** 2 * torch.exp(-log_p)) / 2


def _entropy(log_variance: Tensor) -> Tensor:
    """Return the entropy of a Gaussian, elementwise, in nats."""
    return (LOG_2_PI + 1 + log_variance) / 2


def _bits(nats: Tensor, x_0: Tensor) -> Tensor:
    """Return the mean over dimensions (B,) in bits of `nats`, which broadcasts to `x_0` (B, ...)."""
    return nats.expand_as(x_0).flatten(1).mean(1) / LOG_2
