"""Arrays of one shape: signals, fields and volumes on a grid of 1 to 3 dimensions <-> x.

A stored row is the array as its file holds it; only this file knows where its channels are.

Whole numbers are mapped from the range of the data onto [-1, 1], so each keeps its own bin for likelihoods. Real
numbers are centred and divided by twice their standard deviation, which makes sigma_data 1/2.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sfumato.codecs.codec import Codec

CHUNK = 4096  # rows that are read together
LINE_HEIGHT = 64  # height in pixels of a signal's picture


class Arrays(Codec):
    """The codec of arrays.

    Args:
        shape: shape of x_0, (C, *sides).
        dtype: type of a stored value.
        channel_axis: where a stored row has its channels: "none", "first" or "last".
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
        """Rows (B, ...) -> float32 (B, C, *sides)."""
        x = (channels_first(rows, self.channel_axis, 1).astype(np.float64) - self.centre) / self.half
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, C, *sides) -> rows (B, ...); whole numbers are rounded, and cut to the range of the dtype."""
        values = x.detach().double().cpu().numpy() * self.half + self.centre
        if self.whole:
            limits = np.iinfo(self.dtype)
            values = values.round().clip(limits.min, limits.max)
        return np.ascontiguousarray(as_filed(values, self.channel_axis, 1), self.dtype)

    def picture(self, row: np.ndarray) -> Image.Image:
        """A signal as lines, a field as a grey or coloured picture, a volume as its three middle slices."""
        shown = self.encode(row[None])[0].double().numpy().clip(-1, 1) * 127.5 + 127.5
        channels, *sides = shown.shape
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
        """The array as a .npy, and the texts beside it as JSON."""
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(row), allow_pickle=False)
        beside = {".json": texts["sfumato"].encode()} if "sfumato" in texts else {}
        return {".npy": stream.getvalue(), **beside}


def axis_of(shape: Sequence[int]) -> str:
    """Where an array of this shape has its channels: four dimensions have them, and an end of at most 4 entries beside
    longer sides is taken for them; else there are none."""
    if len(shape) == 1:
        return "none"
    others = min(shape[1:]), min(shape[:-1])
    if shape[0] <= 4 < others[0] or (len(shape) == 4 and not shape[-1] <= 4 < others[1]):
        return "first"
    return "last" if shape[-1] <= 4 < others[1] else "none"


def channels_first(values: np.ndarray, axis: str, start: int = 0) -> np.ndarray:
    """A stored row as (C, *sides), or with ``start`` 1 rows (B, ...) as (B, C, *sides)."""
    if axis == "none":
        return np.expand_dims(values, start)
    return np.moveaxis(values, -1, start) if axis == "last" else values


def as_filed(values: np.ndarray, axis: str, start: int = 0) -> np.ndarray:
    """The inverse of ``channels_first``."""
    if axis == "none":
        return values.squeeze(start)
    return np.moveaxis(values, start, -1) if axis == "last" else values


def x_shape(shape: Sequence[int], axis: str) -> tuple[int, ...]:
    """Of x_0, from that of a stored row."""
    return {"none": (1, *shape), "first": (*shape,), "last": (*shape[-1:], *shape[:-1])}[axis]


def row_shape(shape: Sequence[int], axis: str) -> tuple[int, ...]:
    """Of a stored row, from that of x_0."""
    channels, *sides = shape
    return {"none": (*sides,), "first": (channels, *sides), "last": (*sides, channels)}[axis]


def lines(levels: np.ndarray) -> Image.Image:
    """Signals (C, L) of levels 0 to 255 as lines, one below the other."""
    channels, length = levels.shape
    sheet = Image.new("L", (max(2, length), channels * LINE_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for c, signal in enumerate(levels):
        heights = (c + 1) * LINE_HEIGHT - 1 - signal / 255 * (LINE_HEIGHT - 1)
        draw.line([(i, float(h)) for i, h in enumerate(heights)], fill="black")
    return sheet
