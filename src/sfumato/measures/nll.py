"""The negative log likelihood of pictures under a model, by three methods, in bits per dimension.

Two numbers are upper bounds for the discrete values themselves: the bound of a chain of T steps and the bound of
infinitely many. The third is the value of the probability-flow ODE for values that are dequantised by uniform noise
over each value's bin, whose width the codec names. By Jensen's inequality it is also an upper bound on the bits of the
discrete values under the ODE's density (Theis et al. 2016, arXiv:1511.01844, eq. 6). The mathematics is in
`sfumato.diffusion.bound` and `sfumato.diffusion.likelihood`.

All draws are keyed by (seed, picture, place), so the numbers are the same for any batch size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.diffusion import grids
from sfumato.diffusion.bound import Bound, ContinuousBound, Entropies, continuous_bound, decoder_of, discrete_bound
from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.likelihood import Likelihood, ode_likelihood
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.reverse import large, learned
from sfumato.diffusion.schedules import Discrete, Schedule, Shifted
from sfumato.diffusion.wrapping import Wrapped
from sfumato.errors import UserError
from sfumato.keyed import generator
from sfumato.material import Pictures
from sfumato.model import Model
from sfumato.report import Report

BATCH = 16  # pictures at once
DRAWS = 100  # draws of time and noise for each picture, for the continuous bound
MILLE = 1000  # parts of the ODE's path in which progress is counted


@dataclass(frozen=True, eq=False)
class NLL:
    """What was measured, picture by picture (B,), in bits per dimension."""

    bound: Bound
    continuous: ContinuousBound
    ode: Likelihood


@dataclass(frozen=True, eq=False)
class InDouble(Wrapped[Gaussian]):
    """A denoiser with float64 states and answers on the CPU, while the network computes as always.

    Coefficients that nearly cancel then lose no digits.
    """

    denoiser: Denoiser

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return E[x_0 | x_t] and the raw variance output or None."""
        device = next(self.denoiser.network.parameters()).device
        t = t if t.ndim == 0 else t.to(device, torch.float32)
        mean, raw = self.denoiser.predict(x_t.to(device, torch.float32), t, **cond)
        return mean.to("cpu", torch.float64), None if raw is None else raw.to("cpu", torch.float64)


def chain(schedule: Schedule, steps: int) -> Tensor:
    """The times of the chain (steps + 1,): evenly spaced for a schedule of betas, otherwise even in log-SNR."""
    inner = schedule.schedule if isinstance(schedule, Shifted) else schedule
    return (grids.uniform if isinstance(inner, Discrete) else grids.log_snr)(schedule, steps)


@torch.no_grad()
def nll(model: Model, pictures: Pictures, steps: int, probes: int, seed: int, report: Report) -> NLL:
    """The three values for each picture.

    Args:
        model: in evaluation mode.
        pictures: from `pictures_for`.
        steps: T of the discrete bound.
        probes: random sign vectors for each picture for the divergence of the ODE.
        seed: decides all draws.
        report: gets the progress of each of the three.

    Raises:
        UserError: the values are continuous, or some are beyond those that the model knows.
    """
    width = bin_of(model.codec, pictures.x_0)
    decoder = decoder_of(width, model.codec.bounds)
    denoiser = InDouble(model.denoiser)
    variance = learned if model.denoiser.learned_variance else large
    times = chain(denoiser.process.schedule, steps)
    total = len(pictures.keys)
    parts = []
    for start in range(0, total, BATCH):
        keys = pictures.keys[start : start + BATCH]
        x_0 = pictures.x_0[start : start + BATCH].double()
        condition = model.conditioner(pictures.conditions[start : start + BATCH])

        def tell(task: str, done: float, whole: int, start: int = start, here: int = len(keys)) -> None:
            report.progress(task, int(start * whole + done * here), total * whole)

        bound = discrete_bound(
            denoiser,
            x_0,
            times,
            Normal(seed, "bound", keys, x_0.shape[1:]),
            variance,
            decoder,
            progress=lambda done, whole, tell=tell: tell("bound", done, whole),
            **condition,
        )
        continuous = continuous_bound(
            denoiser,
            x_0,
            times[-2],
            stack(keys, lambda key: torch.rand(DRAWS, generator=generator(seed, "times", key), dtype=torch.float64)),
            Normal(seed, "continuous", keys, x_0.shape[1:]),
            variance,
            decoder,
            progress=lambda done, whole, tell=tell: tell("continuous bound", done, whole),
            **condition,
        )
        ode = ode_likelihood(
            denoiser,
            dequantised(x_0, width, seed, keys),
            torch.stack([signs(seed, k, keys, x_0.shape[1:]) for k in range(probes)]),
            progress=lambda share, tell=tell: tell("probability-flow ODE", share * MILLE, MILLE),
            **condition,
        )
        parts.append(NLL(bound, continuous, ode))
    return joined(parts, width)


def bin_of(codec: Codec, x_0: Tensor) -> float:
    """The width of a stored value in units of x.

    Raises:
        UserError: the values are continuous; or some of x_0 lie beyond the codec's bounds, where a law over the values
            within has no probability to give.
    """
    if codec.bin is None:
        raise UserError(
            "nll: the values of these data are continuous, and bits per dimension are of discrete ones",
            fix="leave the metric nll out, or store the data as whole numbers",
        )
    low, high = codec.bounds or (-math.inf, math.inf)
    beyond = ((x_0 < low - codec.bin / 2) | (x_0 > high + codec.bin / 2)).flatten(1).any(1)
    if beyond.any():
        raise UserError(
            f"nll: {int(beyond.sum())} of {len(x_0)} hold values that the training had not, of no probability",
            fix="leave the metric nll out, or give data of the same range",
        )
    return codec.bin


# --- draws -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normal:
    """Standard normal noise (B, *shape) of a step, keyed by (seed, purpose, picture, step)."""

    seed: int
    purpose: str
    keys: Sequence[int]
    shape: Sequence[int]

    def __call__(self, step: int) -> Tensor:
        def one(key: int) -> Tensor:
            g = generator(self.seed, self.purpose, key, step)
            return torch.randn(tuple(self.shape), generator=g, dtype=torch.float64)

        return stack(self.keys, one)


def stack(keys: Sequence[int], one: Callable[[int], Tensor]) -> Tensor:
    """(B, ...) from one draw a key."""
    return torch.stack([one(key) for key in keys])


def signs(seed: int, probe: int, keys: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Random signs (B, *shape)."""

    def one(key: int) -> Tensor:
        return torch.randint(0, 2, tuple(shape), generator=generator(seed, "signs", key, probe)).double() * 2 - 1

    return stack(keys, one)


def dequantised(x_0: Tensor, width: float, seed: int, keys: Sequence[int]) -> Tensor:
    """Discrete values with uniform noise over the bin of each, which is `width` wide."""

    def one(key: int) -> Tensor:
        return torch.rand(x_0.shape[1:], generator=generator(seed, "dequantise", key), dtype=torch.float64) * 2 - 1

    return x_0 + width / 2 * stack(keys, one)


# --- batches ---------------------------------------------------------------------------------------------------------


def joined(parts: Sequence[NLL], width: float) -> NLL:
    """Join the results of the batches; the density of dequantised values becomes bits of values of this bin."""
    bounds, entropies = [part.bound for part in parts], [part.bound.entropies for part in parts]
    first = entropies[0]
    bound = Bound(
        times=bounds[0].times,
        prior=torch.cat([b.prior for b in bounds]),
        kl=torch.cat([b.kl for b in bounds]),
        decoder=torch.cat([b.decoder for b in bounds]),
        entropies=Entropies(
            kl=torch.cat([e.kl for e in entropies]),
            prior=first.prior,
            last=first.last,
            first=first.first,
            ends=torch.cat([e.ends for e in entropies]),
        ),
    )
    continuous = ContinuousBound(
        *(
            torch.cat([getattr(part.continuous, name) for part in parts])
            for name in ("prior", "diffusion", "decoder", "error")
        )
    )
    ode = Likelihood(
        torch.cat([part.ode.probes for part in parts], dim=1) - math.log2(width),
        max(part.ode.evaluations for part in parts),
    )
    return NLL(bound, continuous, ode)
