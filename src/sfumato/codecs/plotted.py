"""How numbers on a grid are seen: signals as lines, fields and slices side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 128, 80  # pixels of a signal's picture; several channels share at most four heights
FINER = 4  # lines are drawn this much larger and then reduced, so that they are smooth
GAP = 1  # pixels between slices


def lines(signals: np.ndarray) -> Image.Image:
    """Signals (C, L), of which 0 is the lowest and 1 the highest value shown, as lines, one below the other.

    Where there are more values than columns, a line fills what its values of a column cover, so that no peak is lost.
    """
    channels, length = signals.shape
    high = FINER * max(1, min(HEIGHT, 4 * HEIGHT // channels))
    wide = FINER * WIDTH
    sheet = Image.new("L", (wide, channels * high), 255)
    draw = ImageDraw.Draw(sheet)
    for c, signal in enumerate(signals.clip(0, 1)):
        heights = c * high + FINER + (1 - signal) * (high - 2 * FINER - 1)
        places = (np.arange(length) + 0.5) * wide / length
        if length > wide:
            parts = np.array_split(heights, wide)
            ends = np.array([(part.min(), part.max()) for part in parts])
            places, heights = np.arange(wide).repeat(2), ends.ravel()
        points = list(zip(places.tolist(), heights.tolist(), strict=True))
        if length == 1:
            points = [(0.0, points[0][1]), (float(wide), points[0][1])]
        draw.line(points, fill=0, width=FINER + 2)
    return sheet.resize((WIDTH, sheet.height // FINER), Image.Resampling.BOX)


def beside(slices: Sequence[np.ndarray]) -> Image.Image:
    """Slices uint8 (H, W) of any sizes in a row on white."""
    width = sum(s.shape[1] for s in slices) + GAP * (len(slices) - 1)
    row = Image.new("L", (width, max(s.shape[0] for s in slices)), 255)
    x = 0
    for s in slices:
        row.paste(Image.fromarray(s), (x, 0))
        x += s.shape[1] + GAP
    return row


def below(rows: Sequence[Image.Image]) -> Image.Image:
    """Grey pictures below each other on white."""
    sheet = Image.new("L", (max(r.width for r in rows), sum(r.height for r in rows) + GAP * (len(rows) - 1)), 255)
    y = 0
    for r in rows:
        sheet.paste(r, (0, y))
        y += r.height + GAP
    return sheet
