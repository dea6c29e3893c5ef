"""Arrays: one a file, all of one shape and dtype, as NumPy writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sfumato.data.readers import FILE_BYTES, Row, Unusable
from sfumato.data.readers.npy import Zipped, chosen, of_npy, told

MOST_DIMENSIONS = 4  # of a sample: channels and three sides
ENDINGS = frozenset((".npy", ".npz", ".zarr", ".zip"))  # what a Zarr store holds is handed on as a .npy


@dataclass(frozen=True)
class NumPyArrays:
    """The reader of arrays. A row is the array as its file has it, in the machine's byte order.

    Args:
        shape: of a file's array.
        kind: the dtype, as NumPy names it.
        array: which of an .npz with several is the data; empty where there is one.
    """

    shape: tuple[int, ...]
    kind: str
    array: str = ""
    extensions: ClassVar[frozenset[str]] = ENDINGS

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.kind)

    def notes(self, row: dict) -> list[str]:
        return []

    def loss(self, rows: Sequence[dict]) -> str:
        return ""

    def __call__(self, data: bytes, name: str) -> Row:
        values = opened(data, self.array)
        if values.shape != self.shape or stored_as(values.dtype) != self.dtype:
            found, wanted = told(stored_as(values.dtype), values.shape), told(self.dtype, self.shape)
            raise Unusable(
                "shape", f"it holds {found}, and the other files {wanted}", "Give all arrays one shape and one dtype"
            )
        if not np.isfinite(values).all():
            raise Unusable("array", f"it holds {odd_numbers(values)}", "Replace them by numbers")
        notes = ("true and false as 1 and 0",) if values.dtype.kind == "b" else ()
        return Row(np.ascontiguousarray(values, self.dtype), tuple(values.shape), str(values.dtype), notes)


def opened(data: bytes, array: str = "") -> np.ndarray:
    """The array of a .npy or .npz.

    Args:
        data: the file.
        array: which of an .npz with several; empty where there is one.

    Raises:
        Unusable: it holds none, several, or what are no numbers in 1 to 4 dimensions.
    """
    if not data:
        raise Unusable("empty", "the file has 0 bytes", "Copy it again from where it came from, or delete it")
    if len(data) > FILE_BYTES:
        raise Unusable("too large", f"{len(data):,} bytes, limit {FILE_BYTES:,}", "Split it into smaller arrays")
    if data[:2] == b"PK":
        packed = Zipped(data)
        shapes = {name: getattr(found, "shape", ()) for name, found in packed.headers.items()}
        found = packed[chosen(shapes, array, 1, "it") if len(shapes) != 1 or array else next(iter(shapes))]
    else:
        found = of_npy(data)
    if not found.ndim:
        raise Unusable("array", "it holds a single number", f"Save arrays of 1 to {MOST_DIMENSIONS} dimensions")
    if found.ndim > MOST_DIMENSIONS:
        fix = f"Save 1 to {MOST_DIMENSIONS} dimensions a sample; with many samples in a file, set data.stacked to true"
        raise Unusable("array", f"it holds {told(found.dtype, found.shape)}, {found.ndim} dimensions", fix)
    return found


def stored_as(dtype: np.dtype) -> np.dtype:
    """The dtype of a row: the same numbers in the machine's byte order, 0 and 1 for false and true."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")


def odd_numbers(values: np.ndarray) -> str:
    """What is not finite, how much of it, and where the first is: "3 NaN of 64 values, the first at [2, 5]"."""
    kinds = {"NaN": np.isnan(values), "infinite": np.isinf(values)}
    counts = " and ".join(f"{where.sum():,} {name}" for name, where in kinds.items() if where.any())
    first = np.argwhere(kinds["NaN"] | kinds["infinite"])[0].tolist()
    return f"{counts} of {values.size:,} values, the first at {first}"
