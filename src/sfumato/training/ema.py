"""Exponential moving averages with a power-function profile (Karras et al. 2024, EDM2, section 3.1 and eq. 123-126).

A track of relative width sigma_rel weighs the past by (tau / t)^gamma: its window grows with the run, so the start is
forgotten and one number fits runs of any length. Two tracks are kept; the saved model names the one it uses.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma of the profile with relative width ``sigma_rel`` in (0, 0.28] (EDM2 eq. 126)."""
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def decay(sigma_rel: float, step: int) -> float:
    """How much of the average survives step number ``step`` >= 1: (1 - 1/step)^(gamma + 1) (EDM2 eq. 127)."""
    return (1 - 1 / step) ** (gamma_of(sigma_rel) + 1)


class EMA:
    """Averages of named parameters, one per relative width.

    Args:
        parameters: name -> tensor, the live weights (only read).
        widths: relative widths sigma_rel, one track each.
    """

    def __init__(self, parameters: Mapping[str, Tensor], widths: tuple[float, ...]) -> None:
        self.parameters, self.widths = parameters, tuple(widths)
        self.tracks = [{k: v.detach().clone() for k, v in parameters.items()} for _ in self.widths]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move every track towards the live weights, after optimizer step number ``step`` >= 1."""
        live = [v.detach() for v in self.parameters.values()]
        for sigma_rel, track in zip(self.widths, self.tracks, strict=True):
            fraction = 1 - decay(sigma_rel, step)
            torch._foreach_lerp_(list(track.values()), live, fraction)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped(self, track: int) -> Iterator[None]:
        """A context in which the model has the weights of ``track``."""
        self._exchange(track)
        try:
            yield
        finally:
            self._exchange(track)

    @torch.no_grad()
    def _exchange(self, track: int) -> None:
        for name, live in self.parameters.items():
            kept = live.detach().clone()
            live.data.copy_(self.tracks[track][name])
            self.tracks[track][name].copy_(kept)
