"""Arrays of one shape: signals, fields and volumes on a grid of 1 to 3 dimensions <-> x.

A stored row is the array as its file holds it; only this file knows where its channels are.

Whole numbers are mapped from the range of the data onto [-1, 1], so each keeps its own bin for likelihoods. Real
numbers are centred and divided by twice their standard deviation, which makes sigma_data 1/2; each channel by its own,
since a temperature and a pressure have no common unit.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.codecs.plotted import below, beside, lines
from sfumato.errors import UserError

CHUNK = 4096  # rows that are read together
EXACT = 2**53  # whole numbers up to this are exact in double precision


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
        self._ones = (-1, *[1] * (len(shape) - 1))  # one number a channel, as it is laid on (B, C, *sides)
        self.centre, self.half = np.zeros(shape[0]), np.ones(shape[0])
        self.low, self.high = -np.ones(shape[0]), np.ones(shape[0])

    def fit(self, rows: np.ndarray) -> None:
        """Centre and half width of the range of whole numbers; mean and twice the standard deviation of real ones, a
        channel at a time; and the least and the largest value, between which lines are drawn."""
        parts = [channels_first(rows[i : i + CHUNK], self.channel_axis, 1) for i in range(0, len(rows), CHUNK)]
        axes = (0, *range(2, len(self.shape) + 1))
        self.low = np.min([part.min(axes) for part in parts], axis=0).astype(np.float64)
        self.high = np.max([part.max(axes) for part in parts], axis=0).astype(np.float64)
        if self.whole:
            low, high = self.low.min(), self.high.max()
            if max(abs(low), abs(high)) > EXACT:
                raise UserError(
                    f"data: whole numbers from {low:.4g} to {high:.4g} reach beyond {EXACT:,}, the limit of exact ones",
                    fix="scale them down, or store them as real numbers; replace marks of missing values",
                )
            self.centre = np.full_like(self.low, (low + high) / 2)
            self.half = np.full_like(self.low, max((high - low) / 2, 0.5))
        else:
            count = rows.size / self.shape[0]
            self.centre = np.sum([part.sum(axes, dtype=np.float64) for part in parts], axis=0) / count
            centre = self.centre.reshape(self._ones)
            squares = np.sum([np.square(part - centre, dtype=np.float64).sum(axes) for part in parts], axis=0)
            half = 2 * np.sqrt(squares / count)
            if not np.isfinite(half).all():
                raise UserError(
                    f"data: numbers from {self.low.min():.4g} to {self.high.max():.4g} are too large to be squared",
                    fix="scale them down, below 1e150",
                )
            self.half = np.where(half > 0, half, 1.0)
        self._settle()

    def _settle(self) -> None:
        self.bin = 1 / float(self.half[0]) if self.whole else None
        self.bounds = (-1.0, 1.0) if self.whole else None

    def state(self) -> dict[str, Tensor]:
        return {"range": torch.from_numpy(np.stack([self.centre, self.half, self.low, self.high]))}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.centre, self.half, self.low, self.high = state["range"].double().numpy()
        self._settle()

    @property
    def scaling(self) -> str:
        return f"(x - {self.centre.tolist()}) / {self.half.tolist()}"

    def encode(self, rows: np.ndarray) -> Tensor:
        """Rows (B, ...) -> float32 (B, C, *sides)."""
        x = (self.values(rows) - self.centre.reshape(self._ones)) / self.half.reshape(self._ones)
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    def of_file(self, array: np.ndarray) -> Tensor | None:
        return self.encode(array[None])[0] if array.ndim == len(row_shape(self.shape, self.channel_axis)) else None

    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, C, *sides) -> rows (B, ...); whole numbers are rounded, and cut to the range of the data."""
        values = x.detach().double().cpu().numpy() * self.half.reshape(self._ones) + self.centre.reshape(self._ones)
        if self.whole:
            values = values.round().clip(self.low.min(), self.high.max())
        return np.ascontiguousarray(as_filed(values, self.channel_axis, 1), self.dtype)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """As they are stored, channels first."""
        return channels_first(rows, self.channel_axis, 1).astype(np.float64)

    def picture(self, row: np.ndarray) -> Image.Image:
        """Signals as lines between the least and the largest value of the data, one below the other; a field as a
        picture, of three channels in colour, else a channel beside the other; a volume as its three middle slices, a
        row a channel. Values beyond the range, or twice the standard deviation, are black and white."""
        values = self.values(row[None])[0]
        channels, *sides = values.shape
        if len(sides) == 1:
            span = np.where(self.high > self.low, self.high - self.low, 1.0)
            return lines((values - self.low[:, None]) / span[:, None])
        shown = (values - self.centre.reshape(self._ones)) / self.half.reshape(self._ones)
        shown = (shown.clip(-1, 1) * 127.5 + 127.5).astype(np.uint8)
        if len(sides) == 2:
            return Image.fromarray(np.moveaxis(shown, 0, 2)) if channels == 3 else beside(list(shown))
        return below([beside([np.take(v, side // 2, axis) for axis, side in enumerate(sides)]) for v in shown])

    def files(self, row: np.ndarray, texts: Mapping[str, str]) -> dict[str, bytes]:
        """The array as a .npy, and the texts beside it as JSON."""
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(row), allow_pickle=False)
        note = {".json": texts["sfumato"].encode()} if "sfumato" in texts else {}
        return {".npy": stream.getvalue(), **note}


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
