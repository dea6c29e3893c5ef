"""From the bytes of one file to one row of a data set: a reader a kind of data.

A reader is a frozen dataclass: its ``repr`` says all that decides what a file becomes, and is part of the signature by
which a prepared data set is found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from sfumato.data.faults import Fault

FILE_BYTES = 256 * 2**20  # a file beyond this is not opened


class Unusable(Exception):
    """A file that is a fault: `kind`, `reason`, `fix` as in `Fault`."""

    def __init__(self, kind: str, reason: str, fix: str):
        super().__init__(f"{kind}: {reason}. {fix}")
        self.kind, self.reason, self.fix = kind, reason, fix

    def at(self, path: str) -> Fault:
        return Fault(path, self.kind, self.reason, self.fix)


@dataclass(frozen=True)
class Row:
    """What a reader makes of a file.

    Attributes:
        values: of the reader's shape and dtype.
        size: of what the file holds: width and height of a picture, the shape of an array.
        mode: how the file stores its values, e.g. Pillow's mode or NumPy's dtype.
        notes: conversions made, which depend on the file alone.
    """

    values: np.ndarray
    size: tuple[int, ...]
    mode: str
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """Reads one kind of file; frozen, and its ``repr`` tells all of its settings."""

    extensions: ClassVar[frozenset[str]]  # of file names, in lower case with the dot

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of one row."""
        ...

    def __call__(self, data: bytes, name: str) -> Row:
        """The row of a file's content; `name` serves for its extension alone.

        Raises:
            Unusable: and nothing else, for any content whatever.
        """
        ...

    def notes(self, row: dict) -> list[str]:
        """Conversions that the manifest's `row` needs under these settings, beside those of the file alone."""
        ...

    def loss(self, rows: Sequence[dict]) -> str:
        """What fitting takes from the files of the manifest's `rows`, in words; empty where that is nothing."""
        ...
