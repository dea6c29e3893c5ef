"""What a centre crop takes away. This is said before training, because the parts that are cut off are never learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LOST = 0.1  # share of a picture's area; a smaller loss is not mentioned


def crop_loss(sizes: Sequence[Sequence[int]], width: int = 1, height: int = 1) -> str:
    """How much a crop to the shape width : height loses of how many pictures, in words; "" if it loses nothing.

    Args:
        sizes: (width, height) of every picture.
    """
    if not len(sizes):
        return ""
    ratio = np.array(sizes, float).reshape(-1, 2) @ np.diag([1 / width, 1 / height])
    lost = 1 - ratio.min(1) / ratio.max(1)
    much = lost[lost >= LOST]
    if not len(much):
        return ""
    return (
        f"cut to the centre: {len(much):,} of {len(sizes):,} pictures lose {LOST:.0%} of their area or more "
        f"(half of these {np.median(much):.0%} or more, the most {much.max():.0%}); see them with `sfumato data show`"
    )
