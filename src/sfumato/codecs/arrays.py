"""Arrays of one shape: signals, fields and volumes on a grid of 1 to 3 dimensions <-> x.

Whole numbers go from the least to the largest value of the data onto [-1, 1], so each keeps a bin of its own for
likelihoods. Real numbers are centred and divided by twice their standard deviation, which makes sigma_data 1/2.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sfumato.codecs.codec import Codec

CHUNK = 4096  # rows that are looked at together
LINE_HEIGHT = 64  # pixels of a signal's picture


class Arrays(Codec):
    """The codec of arrays.

    Args:
        shape: of x_0 and of a stored row, (C, *sides).
        dtype: of a stored value.
        channel_axis: "none", "first" or "last": where a file's array has its channels.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, channel_axis: str = "first"):
        if not 2 <= len(shape) <= 4:
            raise ValueError(f"Arrays: shape {shape} must be channels and 1 to 3 sides")
        self.shape, self.dtype, self.channel_axis = tuple(shape), np.dtype(dtype), channel_axis
        self.whole = np.issubdtype(self.dtype, np.integer)
        self.centre, self.half = 0.0, 1.0

    def fit(self, rows: np.ndarray) -> None:
        """Centre and half width of the range of whole numbers; mean and twice the standard deviation of real ones."""
        parts = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
        if self.whole:
            low, high = float(min(part.min() for part in parts)), float(max(part.max() for part in parts))
            self.centre, self.half = (low + high) / 2, max((high - low) / 2, 0.5)
        else:
            self.centre = sum(part.sum(dtype=np.float64) for part in parts) / rows.size
            squares = sum(np.square(part - self.centre, dtype=np.float64).sum() for part in parts)
            self.half = 2 * float(np.sqrt(squares / rows.size)) or 1.0
        self._settle()

    def _settle(self) -> None:
        self.bin = 1 / self.half if self.whole else None
        self.bounds = (-1.0, 1.0) if self.whole else None

    def state(self) -> dict[str, Tensor]:
        return {"range": torch.tensor([self.centre, self.half], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.centre, self.half = state["range"].tolist()
        self._settle()

    def encode(self, rows: np.ndarray) -> Tensor:
        """(B, C, *sides) of the stored dtype -> float32 (B, C, *sides)."""
        return torch.from_numpy(((rows.astype(np.float64) - self.centre) / self.half).astype(np.float32))

    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, C, *sides) -> the stored dtype: whole numbers rounded, and cut to what the dtype holds."""
        values = x.detach().double().cpu().numpy() * self.half + self.centre
        if self.whole:
            limits = np.iinfo(self.dtype)
            values = values.round().clip(limits.min, limits.max)
        return values.astype(self.dtype)

    def picture(self, row: np.ndarray) -> Image.Image:
        """A signal as lines, a field as a grey or coloured picture, a volume as its three middle slices."""
        shown = ((row.astype(np.float64) - self.centre) / self.half).clip(-1, 1) * 127.5 + 127.5
        channels, *sides = row.shape
        if len(sides) == 1:
            return lines(shown)
        if len(sides) == 2:
            colour = channels == 3
            return Image.fromarray((np.moveaxis(shown, 0, 2) if colour else shown.mean(0)).astype(np.uint8))
        volume = shown.mean(0).astype(np.uint8)
        slices = [np.take(volume, side // 2, axis) for axis, side in enumerate(sides)]
        high = max(s.shape[0] for s in slices)
        return Image.fromarray(np.concatenate([np.pad(s, ((0, high - s.shape[0]), (0, 1))) for s in slices], axis=1))

    def files(self, row: np.ndarray, texts: Mapping[str, str]) -> dict[str, bytes]:
        """The array as its files have it, and the texts beside it as JSON."""
        if self.channel_axis == "none":
            row = row[0]
        elif self.channel_axis == "last":
            row = np.moveaxis(row, 0, -1)
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(row), allow_pickle=False)
        beside = {".json": texts["sfumato"].encode()} if "sfumato" in texts else {}
        return {".npy": stream.getvalue(), **beside}


def lines(levels: np.ndarray) -> Image.Image:
    """Signals (C, L) of levels 0 to 255 as lines, one below the other."""
    channels, length = levels.shape
    sheet = Image.new("L", (max(2, length), channels * LINE_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for c, signal in enumerate(levels):
        heights = (c + 1) * LINE_HEIGHT - 1 - signal / 255 * (LINE_HEIGHT - 1)
        draw.line([(i, float(h)) for i, h in enumerate(heights)], fill="black")
    return sheet
