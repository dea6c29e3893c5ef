"""A denoiser built from another: the one place for everything that changes the answers and keeps the process.

Guidance, clipping, another precision, a measurement that the data must agree with: each is a class with a `predict`
that calls `self.denoiser` and changes its answer. The rest (the process, the call) is the same for all and stands here.
Wrappers nest in any order, and solvers, likelihoods and searches treat them as denoisers.

    @dataclass(frozen=True, eq=False)
    class Halved(Wrapped[P]):
        def predict(self, x_t, t, **cond):
            mean, raw = predict(self.denoiser, x_t, t, **cond)
            return mean / 2, raw
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from .denoisers import P, PosteriorMean


@dataclass(frozen=True, eq=False)
class Wrapped(ABC, Generic[P]):
    """A denoiser built from `denoiser`; a subclass says how, in `predict`."""

    denoiser: PosteriorMean[P]

    @property
    def process(self) -> P:
        """The process of the denoiser."""
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        """Return E[x_0 | x_t] (B, ...) for the state `x_t` at the time `t`, () or (B,)."""
        return self.predict(x_t, t, **cond)[0]

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return E[x_0 | x_t] (B, ...) and the raw variance output, if there is one."""
