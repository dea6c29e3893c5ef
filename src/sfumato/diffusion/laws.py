"""Laws of the training times: which noise a network sees how often, and what each loss then counts.

A law turns uniform numbers u in (0, 1) into times and a weight for each, so the caller owns the randomness (and may
stratify it):

    law.draw(u) -> (t, weight)        E[weight(t) f(t)] is what the law estimates of f
    law.seen(t, losses) -> law        the law that also knows these losses; most laws learn nothing

A law is a value. Its `state` holds what it has learned; a checkpoint keeps it and `restored` takes it back. The only
law here that learns is `importance.Importance`.

References: Karras et al. 2022 (EDM), table 1; Esser et al. 2024 (logit-normal), arXiv:2403.03206, eq. 19.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .schedules import Schedule


class Law(ABC):
    """The law of the training times."""

    @abstractmethod
    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return times (B,) in (0, 1) and their weights (B,), like the uniform numbers `u` (B,)."""

    def seen(self, t: Tensor, losses: Tensor) -> Self:
        """Return the law that has also seen `losses` (B,), unweighted, at the times `t` (B,) of `draw`."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Return what the law has learned, by name."""
        return {}

    def restored(self, state: Mapping[str, Tensor]) -> Self:
        """Return the law as it was when `state` was taken."""
        return self


def inner(u: Tensor) -> Tensor:
    """`u` kept 1e-5 from both ends: at t = 0 the SNR is infinite, and so are most weights."""
    return u.clamp(1e-5, 1 - 1e-5)


@dataclass(frozen=True)
class Uniform(Law):
    """Times as uniform as u."""

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return inner(u), torch.ones_like(u)


@dataclass(frozen=True)
class LogitNormal(Law):
    """Times whose logit is normal: the middle of the path more often than its ends. A higher `mean` is more noise."""

    mean: float = 0.0
    std: float = 1.0

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(inner(u))), torch.ones_like(u)


@dataclass(frozen=True)
class LogNormal(Law):
    """The law of EDM: log(sigma / alpha) is normal on any schedule; times beyond its ends are moved to them."""

    schedule: Schedule
    mean: float = -1.2
    std: float = 1.2

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_noise = self.mean + self.std * torch.special.ndtri(inner(u))
        return self.schedule.time_of(-2 * log_noise), torch.ones_like(u)
