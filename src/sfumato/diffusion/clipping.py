"""A denoiser whose means stay within the range of the data.

A mean of pictures in [-1, 1] lies in [-1, 1], but the estimate of a network may not. If the network predicts the noise,
its error becomes sigma / alpha times as large in the picture: 157 times at the beginning of a chain with the linear
schedule. Clipping can only bring an estimate closer to the true mean. DDPM's authors draw in this way (Ho et al. 2020,
their code); Imagen's call it static thresholding (Saharia et al. 2022, arXiv:2205.11487, sec. 2.3).
"""

from dataclasses import dataclass

from torch import Tensor

from .denoisers import P, predict
from .wrapping import Wrapped


@dataclass(frozen=True, eq=False)
class Clipped(Wrapped[P]):
    """A denoiser, guided or not, with E[x_0 | x_t] clipped to [-limit, limit]."""

    limit: float = 1.0

    def predict(self, x_t: Tensor, t: Tensor, **cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the clipped E[x_0 | x_t] (B, ...) and the raw variance output, if there is one."""
        mean, raw = predict(self.denoiser, x_t, t, **cond)
        return mean.clamp(-self.limit, self.limit), raw
