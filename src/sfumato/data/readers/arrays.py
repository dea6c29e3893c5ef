"""NumPy files: one array a file, all of one shape and dtype. Nothing is ever unpickled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sfumato.data.readers import Row, Unusable


@dataclass(frozen=True)
class NumPyArrays:
    """The reader of arrays.

    Args:
        shape: of a row, (C, *sides).
        kind: the dtype, as NumPy names it.
        channel_axis: "none", "first" or "last": where a file's array has its channels.
    """

    shape: tuple[int, ...]
    kind: str
    channel_axis: str
    extensions: ClassVar[frozenset[str]] = frozenset((".npy", ".npz"))

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.kind)

    def notes(self, row: dict) -> list[str]:
        return []

    def loss(self, rows: Sequence[dict]) -> str:
        return ""

    def __call__(self, data: bytes, name: str) -> Row:
        values = opened(data)
        row = channels_first(values, self.channel_axis)
        if row.shape != self.shape or row.dtype != self.dtype:
            raise Unusable(
                "array",
                f"it holds {values.dtype} of shape {values.shape}, and other files {self.kind} of shape {self.shape}",
                "Give all arrays one shape and one dtype",
            )
        if not np.isfinite(row).all():
            raise Unusable("array", "it holds NaN or infinity", "Replace them by numbers")
        return Row(np.ascontiguousarray(row), tuple(values.shape), str(values.dtype))


def opened(data: bytes) -> np.ndarray:
    """The one array of a .npy or .npz file.

    Raises:
        Unusable: it holds none, several, or what are no numbers.
    """
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            if len(found.files) != 1:
                raise Unusable("array", f"it holds {len(found.files)} arrays", "Save one array a file")
            found = found[found.files[0]]
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise Unusable("array", f"it cannot be read as NumPy's ({error})", "Save it again with numpy.save") from None
    if found.dtype.kind not in "iuf" or not 1 <= found.ndim <= 4:
        raise Unusable(
            "array", f"it holds {found.dtype} in {found.ndim} dimensions", "Save numbers in 1 to 4 dimensions"
        )
    return found


def channels_first(values: np.ndarray, axis: str) -> np.ndarray:
    """A file's array as (C, *sides)."""
    if axis == "none":
        return values[None]
    return np.moveaxis(values, -1, 0) if axis == "last" else values


def axis_of(shape: Sequence[int]) -> str:
    """Where an array of this shape has its channels: four dimensions have them, and an end of at most 4 entries beside
    longer sides is taken for them; else there are none."""
    if len(shape) == 1:
        return "none"
    others = min(shape[1:]), min(shape[:-1])
    if shape[0] <= 4 < others[0] or (len(shape) == 4 and not shape[-1] <= 4 < others[1]):
        return "first"
    return "last" if shape[-1] <= 4 < others[1] else "none"
