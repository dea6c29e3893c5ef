"""A denoiser that tells its network which part of the trajectory it is in, by the time and by nothing else."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .denoisers import P, predict
from .wrapping import Wrapped


@dataclass(frozen=True, eq=False)
class InParts(Wrapped[P]):
    """A denoiser that also gives its network `part`, the number () of parts that have begun, on the CPU.

    Args:
        denoiser: its network takes `part`, as `networks.reuse.Reuse` does.
        starts: the times at which a part begins, falling from 1.
    """

    starts: tuple[float, ...]

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return E[x_0 | x_t] (B, ...) and the raw variance output, if there is one."""
        now = t.max().item()
        part = torch.tensor(sum(now <= start for start in self.starts))
        return predict(self.denoiser, x_t, t, part=part, **cond)
