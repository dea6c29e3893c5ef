"""Noise schedules: how much signal and how much noise there is at each time.

Time runs from t = 0 (data) to t = 1 (noise), and every Gaussian diffusion is

    x_t = alpha_t x_0 + sigma_t eps,    eps ~ N(0, I).

A schedule is the map t -> (alpha_t, sigma_t). The discrete chain of DDPM, the variance-preserving SDE, EDM and flow
matching are the same object with other numbers: up to a rescaling of x_t, only the noise-to-signal ratio
sigma_t / alpha_t matters, usually given as log-SNR = 2 log(alpha_t / sigma_t), which falls as t grows.

References: Ho et al. 2020 (DDPM), arXiv:2006.11239; Nichol & Dhariwal 2021, arXiv:2102.09672; Karras et al. 2022 (EDM),
arXiv:2206.00364; Lipman et al. 2022 (flow matching), arXiv:2210.02747; Hoogeboom et al. 2023 (resolution shift),
arXiv:2301.11093.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import overload

import torch
from torch import Tensor
from torch.func import jvp


@overload
def like(v: Tensor, x: Tensor) -> Tensor: ...
@overload
def like(v: float, x: Tensor) -> float: ...
def like(v: Tensor | float, x: Tensor) -> Tensor | float:
    """Coefficients `v` of shape () or (B,) in the dtype of `x` (B, ...), shaped to multiply it; a number is unchanged.

    If `x` holds integers (token ids), they keep their own dtype, because 0.37 would become 0. A scalar keeps its
    device: a number on the CPU multiplies a tensor on any device without a copy or a wait.
    """
    if not isinstance(v, Tensor):
        return v
    v = v.to(x.dtype) if x.is_floating_point() else v
    return v if v.ndim == 0 else v.reshape(v.shape + (1,) * (x.ndim - v.ndim))


class Schedule(ABC):
    """The map t -> (alpha_t, sigma_t). Times and coefficients are tensors of shape () or (B,) with t in [0, 1].

    Attributes:
        fixed: whether it is hashable and never changes, so that results computed from it may be kept (see `once`).
    """

    fixed = False

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha_t, sigma_t), each of the shape and dtype of `t`."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """Return the time at which the log-SNR is `log_snr`, or the nearest end of [0, 1] if there is none."""

    @abstractmethod
    def normalize(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Rescale (alpha, sigma), ratio unchanged, onto the curve of this family: variance preserving, straight, ..."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Return 2 log(alpha_t / sigma_t), infinite where sigma_t = 0."""
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (alpha, sigma, d alpha/dt, d sigma/dt). The derivatives come from forward-mode differentiation."""
        (alpha, sigma), (dalpha, dsigma) = jvp(self, (t,), (torch.ones_like(t),))[:2]
        return alpha, sigma, dalpha, dsigma


def once(compute: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...] | tuple[float, ...]]:
    """Let a function compute coefficients once for the times of a grid, and not again in every batch and step.

    An operation on a single number takes as long as one on a small picture, and the coefficients of a step need dozens.
    For times () on the CPU and a schedule that is `fixed`, the coefficients are kept as Python numbers: these multiply
    a tensor to the same bits, and belong to no mode of autograd. Otherwise they are computed each time, as tensors.

    Args:
        compute: (schedule, times, *settings) -> coefficients, each () or (B,) like the times; settings are hashable.
    """

    @lru_cache(maxsize=2**12)
    def kept(
        schedule: Schedule, times: tuple[float, ...], dtypes: tuple[torch.dtype, ...], settings: tuple[Hashable, ...]
    ) -> tuple[float, ...]:
        scalars = [torch.tensor(t, dtype=dtype) for t, dtype in zip(times, dtypes, strict=True)]
        return tuple(float(v) for v in compute(schedule, scalars, *settings))

    @wraps(compute)
    def coefficients(schedule: Schedule, times: Sequence[Tensor], *settings: Hashable) -> tuple:
        if schedule.fixed and all(t.ndim == 0 and t.device.type == "cpu" and not t.requires_grad for t in times):
            return kept(schedule, tuple(t.item() for t in times), tuple(t.dtype for t in times), settings)
        return compute(schedule, times, *settings)

    return coefficients


class Discrete(Schedule):
    """The chain of DDPM: x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) eps for i = 1..T, at the times t = i / T.

    alpha_t = sqrt(alpha_bar_i) and sigma_t = sqrt(1 - alpha_bar_i), where alpha_bar_i = prod_{j <= i} (1 - beta_j) and
    alpha_bar_0 = 1 (Ho et al. 2020, eq. 4). Between the nodes log alpha_bar is linear in t, that is, the noise of one
    step arrives at a constant rate. The timestep k = 0..T-1 of published code is i = k + 1 here.

    Args:
        betas: the variances beta_1..beta_T, each in (0, 1).
        name: what error messages call the schedule.

    Raises:
        ValueError: when a beta is outside (0, 1); at 1 nothing of the data would be left.
    """

    fixed = True

    def __init__(self, betas: Sequence[float] | Tensor, name: str | None = None) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64).detach().cpu().clone()

        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must be a non-empty list of numbers, got shape {tuple(betas.shape)}")
        outside = ~((betas > 0) & (betas < 1))
        if outside.any():
            first = int(outside.nonzero()[0])
            raise ValueError(f"betas[{first}] = {betas[first]:g} is outside (0, 1); cap the largest, e.g. at 0.999")

        self.betas = betas
        self.T = len(betas)
        self.name = name or f"from_betas(T={self.T})"
        # decay_i = -log alpha_bar_i grows from 0; kept in double precision because 1 - alpha_bar is tiny near the data
        self._decay = torch.cat([torch.zeros(1, dtype=torch.float64), -torch.log1p(-betas).cumsum(0)])
        self._copies: dict[torch.device, Tensor] = {self._decay.device: self._decay}

    def __repr__(self) -> str:
        return self.name

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        decay = self._table(t.device)
        position = t.to(decay.dtype) * self.T
        node = position.detach().floor().clamp(0, self.T - 1).long()

        decay = torch.lerp(decay[node], decay[node + 1], position - node)
        return torch.exp(-decay / 2).to(t.dtype), torch.sqrt(-torch.expm1(-decay)).to(t.dtype)

    def time_of(self, log_snr: Tensor) -> Tensor:
        decay = self._table(log_snr.device)
        wanted = -torch.nn.functional.logsigmoid(log_snr.to(decay.dtype))  # alpha_bar = sigmoid(log-SNR)
        node = torch.searchsorted(decay, wanted, right=True).sub(1).clamp(0, self.T - 1)

        fraction = (wanted - decay[node]) / (decay[node + 1] - decay[node])
        return ((node + fraction) / self.T).clamp(0, 1).to(log_snr.dtype)

    def normalize(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.sqrt(alpha**2 + sigma**2)
        return alpha / norm, sigma / norm

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple GPUs have no double precision
            self._copies[device] = self._decay.to(device=device, dtype=dtype)
        return self._copies[device]


def linear_beta(beta_min: float = 1e-4, beta_max: float = 0.02, T: int = 1000) -> Discrete:
    """The linear schedule of DDPM: beta_i evenly spaced from `beta_min` to `beta_max` (Ho et al. 2020, sec. 4)."""
    betas = torch.linspace(beta_min, beta_max, T, dtype=torch.float64)
    return Discrete(betas, name=f"linear_beta({beta_min:g}, {beta_max:g}, T={T})")


def cosine(s: float = 0.008, T: int = 1000, max_beta: float = 0.999) -> Discrete:
    """The cosine schedule of improved DDPM (Nichol & Dhariwal 2021, eq. 17).

    alpha_bar_i = f(i / T) / f(0) with f(u) = cos^2((u + s) / (1 + s) pi / 2), each beta_i capped at `max_beta`.
    """
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return Discrete((1 - f[1:] / f[:-1]).clamp(max=max_beta), name=f"cosine(s={s:g}, T={T})")


def from_betas(betas: Sequence[float] | Tensor) -> Discrete:
    """The chain with the user's own variances beta_1..beta_T, each in (0, 1)."""
    return Discrete(betas)


@dataclass(frozen=True)
class Karras(Schedule):
    """The variance-exploding schedule of EDM: alpha = 1 and sigma^(1/rho) linear in t (Karras et al. 2022, eq. 5).

    sigma(0) is `sigma_min`, not zero: the last step needs no special care, and the noise that remains is invisible.

    Args:
        sigma_min: noise at t = 0, in units of x_0.
        sigma_max: noise at t = 1, in units of x_0.
        rho: a larger value spends more of [0, 1] on low noise.
    """

    fixed = True
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho

    def time_of(self, log_snr: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return ((torch.exp(-log_snr / (2 * self.rho)) - low) / (high - low)).clamp(0, 1)

    def normalize(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), sigma / alpha


@dataclass(frozen=True)
class Flow(Schedule):
    """Flow matching: the straight line from data to noise, alpha = 1 - (1 - floor) t and sigma = t.

    Rectified flow and the conditional optimal-transport path of Lipman et al. 2022 (eq. 20). A thousandth of the signal
    is left at t = 1, so that nothing is singular there.
    """

    fixed = True
    floor: float = 1e-3

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - (1 - self.floor) * t, t.clone()

    def time_of(self, log_snr: Tensor) -> Tensor:
        ratio = torch.exp(log_snr / 2)  # alpha / sigma
        return (1 / (ratio + 1 - self.floor)).clamp(0, 1)

    def normalize(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        norm = alpha + (1 - self.floor) * sigma
        return alpha / norm, sigma / norm


@dataclass(frozen=True)
class Shifted(Schedule):
    """The resolution shift: sigma / alpha times `shift`, so that the log-SNR moves by -2 log(shift).

    A picture of n times the side keeps its content under n times the noise, because neighbouring pixels average it
    away (Hoogeboom et al. 2023, sec. 3.1; for flows Esser et al. 2024, arXiv:2403.03206, eq. 23). The curve of the
    family is kept: a variance-preserving schedule stays so, and a straight one stays straight.

    Args:
        schedule: the schedule to shift.
        shift: the factor on the noise-to-signal ratio, above 0; 1 changes nothing, 2 suits twice the side.
    """

    schedule: Schedule
    shift: float

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift = {self.shift:g} must be above 0; 1 leaves the schedule as it is")

    @property
    def fixed(self) -> bool:
        return self.schedule.fixed

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return self.schedule.normalize(alpha, self.shift * sigma)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self.schedule.time_of(log_snr + 2 * math.log(self.shift))

    def normalize(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.normalize(alpha, sigma)
