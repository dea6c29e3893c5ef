"""Times drawn as often as their terms of the bound matter (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 18).

    L_vlb = E_{i ~ p} [L_i / p_i],    p_i proportional to sqrt(E[L_i^2])

has the least noise. E[L_i^2] is the mean over the last ten losses that were seen at step i; until every step has ten,
times are uniform. A thousandth of all draws stays uniform, so that no step is forgotten, as in the authors' code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .laws import Law

UNIFORM = 1e-3


@dataclass(frozen=True, eq=False)
class Importance(Law):
    """The law of times with its memory, two tensors.

    Args:
        history: (T, memory) the last losses at each step of the chain, float64.
        count: (T,) how many losses each step has ever had, int64.
    """

    history: Tensor
    count: Tensor

    @classmethod
    def fresh(cls, T: int = 1000, memory: int = 10) -> "Importance":
        """The uniform law of a chain of `T` steps, which will remember `memory` losses a step."""
        return cls(torch.zeros(T, memory, dtype=torch.float64), torch.zeros(T, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """Return p (T,)."""
        T, memory = self.history.shape
        even = torch.full_like(self.history[:, 0], 1 / T)
        size = self.history.square().mean(1).sqrt()
        if (self.count < memory).any() or not size.any():
            return even
        return (1 - UNIFORM) * size / size.sum() + UNIFORM * even

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return times (B,), each in the middle of its step, and weights 1 / (T p_i) (B,) from uniform numbers `u`."""
        p, T = self.probabilities(), len(self.count)
        step = torch.searchsorted(p.cumsum(0), u.to(p)).clamp(max=T - 1)
        return ((step + 0.5) / T).to(u), (1 / (T * p[step])).to(u)

    def seen(self, t: Tensor, losses: Tensor) -> "Importance":
        T, memory = self.history.shape
        history, count = self.history.clone(), self.count.clone()
        steps = (t.to(history) * T).long().clamp(0, T - 1)
        for step, loss in zip(steps.tolist(), losses.detach().to(history), strict=True):
            history[step, count[step] % memory] = loss
            count[step] += 1
        return Importance(history, count)

    def state(self) -> dict[str, Tensor]:
        return {"history": self.history, "count": self.count}

    def restored(self, state: Mapping[str, Tensor]) -> "Importance":
        return Importance(state["history"], state["count"])
