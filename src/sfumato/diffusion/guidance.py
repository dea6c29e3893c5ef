"""Classifier-free guidance: a denoiser built from another denoiser.

The guided mean extrapolates from the answer to the null condition towards the answer to the prompt,

    D = D_null + scale (D_cond - D_null)

(Ho & Salimans 2022, arXiv:2207.12598, eq. 6, where their w is scale - 1; the same in epsilon, x_0 or the score, which
are affine in each other). For tokens the line runs through log probabilities; `Process.blend` knows which line to take.
A negative prompt is another null condition. Guidance helps in the middle of the trajectory and harms at its noisy end,
so it may be limited to an interval of times (Kynkaanniemi et al. 2024, arXiv:2404.07724).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoisers import P, predict
from .schedules import like
from .wrapping import Wrapped


@dataclass(frozen=True, eq=False)
class Guided(Wrapped[P]):
    """A guided denoiser; both answers come from one call on a doubled batch.

    Args:
        denoiser: returns E[x_0 | x_t] given a condition.
        null: the condition to move away from, with the fields and shapes of the condition of a call; a batch of one
            serves any batch.
        scale: 0 is the null condition, 1 the condition itself, above 1 guidance proper.
        interval: the times (low, high) between which guidance acts; outside, only the condition is used.
    """

    null: Mapping[str, Tensor | None]
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval = ({low:g}, {high:g}) must be two times with 0 <= low <= high <= 1")

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the guided E[x_0 | x_t] (B, ...) and the raw variance output under the condition, if there is one."""
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        if self.scale == 1 or not inside.any():
            return predict(self.denoiser, x_t, t, **cond)

        both = {
            name: _stack(name, cond.get(name), self.null.get(name), len(x_t)) for name in cond.keys() | self.null.keys()
        }
        twice = t if t.ndim == 0 else torch.cat([t, t])
        means, raws = predict(self.denoiser, torch.cat([x_t, x_t]), twice, **both)
        mean, mean_null = means.chunk(2)

        scale = like(torch.where(inside, self.scale, 1.0), mean) if t.ndim else self.scale
        return self.process.blend(mean_null, mean, scale), None if raws is None else raws.chunk(2)[0]


def _stack(name: str, cond: Tensor | None, null: Tensor | None, batch: int) -> Tensor | None:
    """Return the field `name` of a doubled batch: the condition, then the null condition."""
    if cond is None and null is None:
        return None

    if cond is None or null is None or cond.shape[1:] != null.shape[1:]:
        shapes = [None if value is None else tuple(value.shape[1:]) for value in (cond, null)]
        raise ValueError(
            f"condition field {name!r} has shape {shapes[0]} an example, but the null condition has {shapes[1]}; "
            "make both with the same conditioner, padded to the same length"
        )
    return torch.cat([value.expand(batch, *value.shape[1:]) for value in (cond, null)])
