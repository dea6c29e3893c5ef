"""Denoisers: networks that return the posterior mean E[x_0 | x_t], whatever they predict inside.

Sampling needs only the posterior mean: the score is (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2 (Tweedie), and the
noise estimate is (x_t - alpha_t E[x_0 | x_t]) / sigma_t. What the network itself predicts is a parameterization, a pure
function

    (alpha, sigma) -> (c_skip, c_out)    with    x_0 = c_skip x_t + c_out F,

so that nothing else in the package asks which one is in use:

    epsilon   F = eps                                                   Ho et al. 2020, eq. 15
    x         F = x_0
    v         F = (alpha eps - sigma x_0) / sqrt(alpha^2 + sigma^2)     Salimans & Ho 2022, arXiv:2202.00512, app. D
    flow      F = eps - x_0                                             Lipman et al. 2022, eq. 23; rectified flow
    karras    F of unit variance when x_0 has variance sigma_data^2     Karras et al. 2022, table 1 and app. B.6
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .categorical import Categorical
from .processes import Gaussian, Process
from .schedules import Schedule, like, once

Parameterization = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
P = TypeVar("P", bound=Process, covariant=True)


class PosteriorMean(Protocol[P]):
    """What solvers need: a process, and a call that returns E[x_0 | x_t] (B, ...); for tokens, their probabilities.

    A denoiser that also has a raw variance returns both from `predict`; see the function of that name.
    """

    @property
    def process(self) -> P: ...

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor: ...


def predict(denoiser: PosteriorMean, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return E[x_0 | x_t] and the raw variance output (B, ...) each; None for a denoiser that gives the mean alone."""
    both = getattr(denoiser, "predict", None)
    return both(x_t, t, **cond) if both else (denoiser(x_t, t, **cond), None)


def epsilon(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the noise: x_0 = (x_t - sigma F) / alpha. Ill-posed as alpha -> 0."""
    return 1 / alpha, -sigma / alpha


def x(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the data: x_0 = F."""
    return torch.zeros_like(alpha), torch.ones_like(sigma)


def v(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the angular velocity: x_0 = alpha x_t - sigma F where alpha^2 + sigma^2 = 1."""
    square = alpha**2 + sigma**2
    return alpha / square, -sigma / square.sqrt()


def flow(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the straight velocity F = eps - x_0: x_0 = x_t - sigma F where alpha + sigma = 1."""
    return 1 / (alpha + sigma), -sigma / (alpha + sigma)


def karras(sigma_data: float = 0.5) -> Parameterization:
    """Predict EDM's preconditioned target, for data of standard deviation `sigma_data`."""

    def parameterization(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        variance = (alpha * sigma_data) ** 2 + sigma**2
        return alpha * sigma_data**2 / variance, sigma * sigma_data / variance.sqrt()

    parameterization.__name__ = f"karras({sigma_data:g})"
    return parameterization


def to_x(parameterization: Parameterization, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return x_0 (B, ...) from a prediction made at the noise (alpha, sigma), each () or (B,)."""
    c_skip, c_out = parameterization(alpha, sigma)
    return like(c_skip, x_t) * x_t + like(c_out, x_t) * prediction


def from_x(parameterization: Parameterization, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the prediction (B, ...) that stands for `x_0` at the noise (alpha, sigma); sigma must be above 0."""
    c_skip, c_out = parameterization(alpha, sigma)
    return (x_0 - like(c_skip, x_t) * x_t) / like(c_out, x_t)


def convert(
    prediction: Tensor,
    x_t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    source: Parameterization,
    target: Parameterization,
) -> Tensor:
    """Return, as a prediction of `target`, what `prediction` says as one of `source`; sigma must be above 0."""
    skip_source, out_source = source(alpha, sigma)
    skip_target, out_target = target(alpha, sigma)
    # not through x_0: the difference of the two skips loses fewer digits if the noise is small
    x_share, share = (skip_source - skip_target) / out_target, out_source / out_target
    return like(x_share, x_t) * x_t + like(share, x_t) * prediction


def noise_level(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise level as the network sees it: 1000 (2 / pi) atan(sigma / alpha), in [0, 1000].

    It is the time, in thousandths, at which the cosine schedule has the same noise: bounded, smooth and independent of
    the schedule, so that a network trained under one schedule can be sampled under another.
    """
    return 2000 / math.pi * torch.atan2(sigma, alpha)


class Denoiser(nn.Module):
    """E[x_0 | x_t] = c_skip x_t + c_out F(c_in x_t, noise level), for any network, process and parameterization.

    c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2) shows the network inputs of unit variance at every time (Karras et
    al. 2022, eq. 7).

    Args:
        network: called as network(c_in x_t (B, C, ...), noise level (B,), **cond) -> (B, C, ...), or (B, 2C, ...) when
            the variance is learned. Where ``cond`` has planes (B, P, ...), it sees (B, C + P, ...) and not ``planes``.
        process: the process that made x_t.
        parameterization: what the network predicts.
        sigma_data: standard deviation of the data, in units of x_0.
        learned_variance: whether the second half of the network's channels is the variance of Nichol & Dhariwal 2021.

    Raises:
        ValueError: when the parameterization divides by an alpha(1) below 1e-4 (epsilon on the cosine schedule).
    """

    def __init__(
        self,
        network: nn.Module,
        process: Gaussian,
        parameterization: Parameterization,
        sigma_data: float = 1.0,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        alpha, sigma = process.schedule(torch.ones((), dtype=torch.float64))
        if parameterization(alpha, sigma)[0].abs() > 1e4:
            name = getattr(parameterization, "__name__", repr(parameterization))
            raise ValueError(
                f"parameterization {name} is ill-posed on the schedule {process.schedule}: it divides by "
                f"alpha(1) = {alpha:.1e}, below the limit of 1e-4; predict v, x or flow instead"
            )

        self.network = network
        self.process = process
        self.schedule = process.schedule  # a learned schedule is a module, and so becomes a part of this one
        self.parameterization = parameterization
        self.sigma_data = sigma_data
        self.learned_variance = learned_variance

    def around(self, network: nn.Module) -> "Denoiser":
        """The same denoiser around another network."""
        return Denoiser(network, self.process, self.parameterization, self.sigma_data, self.learned_variance)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        """Return E[x_0 | x_t] (B, C, ...) for the state `x_t` at the time `t`, () or (B,)."""
        return self.predict(x_t, t, **cond)[0]

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return E[x_0 | x_t] (B, C, ...) and the raw variance output (B, C, ...), None unless it is learned."""
        c_in, level, c_skip, c_out = _scales(self.process.schedule, (t,), self.parameterization, self.sigma_data)
        dtype = x_t.dtype if x_t.is_floating_point() else torch.float32  # whole numbers would round what follows
        levels = torch.as_tensor(level, dtype=dtype, device=x_t.device).expand(len(x_t))

        # planes (B, P, ...) are more channels beside those of x
        shown, planes = like(c_in, x_t) * x_t, cond.pop("planes", None)
        if planes is not None:
            shown = torch.cat([shown, planes.to(shown)], dim=1)

        # a network under autocast may answer in half precision, which is too coarse to combine with x_t
        prediction = self.network(shown, levels, **cond).to(dtype)

        variance = None
        if self.learned_variance:
            prediction, variance = prediction.chunk(2, dim=1)
        return like(c_skip, x_t) * x_t + like(c_out, x_t) * prediction, variance


@once
def _scales(
    schedule: Schedule, times: Sequence[Tensor], parameterization: Parameterization, sigma_data: float
) -> tuple[Tensor, ...]:
    """c_in, the noise level, c_skip and c_out at one time."""
    alpha, sigma = schedule(times[0])
    c_in = ((alpha * sigma_data) ** 2 + sigma**2).rsqrt()
    return c_in, noise_level(alpha, sigma), *parameterization(alpha, sigma)


class TokenDenoiser(nn.Module):
    """p(x_0 | x_t), the posterior mean of one-hot tokens, from a network that returns logits.

    Under a process that masks, a token that is not masked is the token of the data, whatever the network says (Sahoo et
    al. 2024, arXiv:2406.07524, sec. 3.2.3).

    Args:
        network: called as network(x_t (B, L) ids, noise level (B,), **cond) -> logits (B, L, K). The level is
            1000 (1 - a_t), in [0, 1000], and float32.
        process: the process that made x_t.
    """

    def __init__(self, network: nn.Module, process: Categorical) -> None:
        super().__init__()
        self.network = network
        self.process = process

    def around(self, network: nn.Module) -> "TokenDenoiser":
        """The same denoiser around another network."""
        return TokenDenoiser(network, self.process)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        """Return the probabilities (B, L, K), float32, for the state `x_t` at the time `t`, () or (B,)."""
        levels = (1000 * (1 - self.process.kept(t))).to(x_t.device, torch.float32).expand(len(x_t))

        # a network under autocast may answer in half precision, which is too coarse for probabilities
        found = torch.softmax(self.network(x_t, levels, **cond).float(), -1)
        if self.process.mask is None:
            return found
        masked = x_t == self.process.mask
        known = F.one_hot(torch.where(masked, 0, x_t), self.process.tokens)
        return torch.where(masked[..., None], found, known.to(found))
