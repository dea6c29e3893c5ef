"""Tensors of another size in one to three dimensions, without aliasing.

Bicubic interpolation with a filter as wide as the reduction demands (that of Pillow), one pair of sides at a time: the
filter is separable, so that the order of the sides is of no account.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resized(x: Tensor, sides: Sequence[int]) -> Tensor:
    """``x`` (B, C, *any) at ``sides``."""
    sides = tuple(sides)
    if tuple(x.shape[2:]) == sides:
        return x
    if x.dim() == 4:
        return F.interpolate(x, sides, mode="bicubic", antialias=True)
    if x.dim() == 3:
        return F.interpolate(x[:, :, None], (1, *sides), mode="bicubic", antialias=True)[:, :, 0]
    first, *others = sides
    planes = F.interpolate(x.flatten(1, 2), tuple(others), mode="bicubic", antialias=True)
    planes = planes.unflatten(1, x.shape[1:3]).flatten(3)  # (B, C, depth, H W)
    planes = F.interpolate(planes, (first, planes.shape[3]), mode="bicubic", antialias=True)
    return planes.unflatten(3, tuple(others))
