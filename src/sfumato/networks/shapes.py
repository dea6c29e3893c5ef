"""From the sides of x to the sides of a network, and back: blocks are folded into channels, sides are filled up.

Folding is the pixel-unshuffle of Shi et al. 2016 (arXiv 1609.05158) in 1, 2 or 3 dimensions: blocks of p^d values
become channels, the offset within a block running fastest, the last side's fastest of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def folded(x: Tensor, patch: int) -> Tensor:
    """(B, C, *sides) -> (B, C patch^d, *sides / patch)."""
    if patch == 1:
        return x
    if x.dim() == 4:
        return F.pixel_unshuffle(x, patch)
    dims = x.dim() - 2
    for d in range(dims):  # each side becomes (blocks, offset)
        x = x.unflatten(2 + 2 * d, (-1, patch))
    blocks, offsets = [2 + 2 * d for d in range(dims)], [3 + 2 * d for d in range(dims)]
    return x.permute(0, 1, *offsets, *blocks).flatten(1, 1 + dims)


def unfolded(h: Tensor, patch: int) -> Tensor:
    """(B, C patch^d, *sides) -> (B, C, *sides * patch): the inverse of ``folded``."""
    if patch == 1:
        return h
    if h.dim() == 4:
        return F.pixel_shuffle(h, patch)
    dims = h.dim() - 2
    h = h.unflatten(1, (-1, *[patch] * dims))
    pairs = [place for d in range(dims) for place in (2 + dims + d, 2 + d)]
    h = h.permute(0, 1, *pairs)
    for d in range(dims):
        h = h.flatten(2 + d, 3 + d)
    return h


def filled(x: Tensor, multiple: int) -> Tensor:
    """``x`` (B, C, *sides) with each side filled up to a multiple of ``multiple`` by repeating its last values."""
    spare = [-side % multiple for side in reversed(x.shape[2:])]
    return F.pad(x, [end for n in spare for end in (0, n)], mode="replicate") if any(spare) else x


def cut(x: Tensor, sides: Sequence[int]) -> Tensor:
    """``x`` (B, C, *more) with only its first ``sides`` values on each side, without what ``filled`` added."""
    for d, side in enumerate(sides):
        x = x.narrow(2 + d, 0, side)
    return x
