"""A picture of one shape made to one of another: cut at the centre, laid on a border, or distorted."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

FITS = ("crop", "pad", "stretch")


def fit(image: Image.Image, size: tuple[int, int], how: str, empty: Any = None) -> Image.Image:
    """A picture of (width, height) = `size`: the centre cut out, the whole on a border, or the whole distorted, each in
    one filter. A border has the colour `empty`; by default that of most of the picture's own border, or transparent."""
    width, height = image.size
    wide, high = size
    if (width, height) == size:
        return image
    box = (0.0, 0.0, float(width), float(height))
    if how == "crop":
        cut_wide, cut_high = min(width, height * wide / high), min(height, width * high / wide)
        left, top = (width - cut_wide) / 2, (height - cut_high) / 2
        box = (left, top, left + cut_wide, top + cut_high)
    if how != "pad":
        return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)

    scale = min(wide / width, high / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=3.0)
    canvas = Image.new(image.mode, size, border(small) if empty is None else empty)
    canvas.paste(small, ((wide - inner[0]) // 2, (high - inner[1]) // 2))
    return canvas


def border(image: Image.Image) -> Any:
    """The median colour of a picture's outermost pixels; transparent where the picture has alpha."""
    if image.mode == "RGBA":
        return (0, 0, 0, 0)
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(edge, axis=0)
    return float(colour) if image.mode == "F" else tuple(int(c) for c in np.atleast_1d(colour))
