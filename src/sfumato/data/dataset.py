"""A prepared data set: rows of one shape in a memory map, with captions, labels and groups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.bounded import read_json
from sfumato.data import groups, manifest
from sfumato.data.faults import DataError
from sfumato.data.records import count
from sfumato.durable import open_array
from sfumato.errors import UserError, shown

ROWS = "rows.npy"
INDEX = "index.json"
FAULTS = "faults.json"
LARGEST_INDEX = 64 * 2**20  # bytes


class Dataset:
    """N rows of one shape, as `prepare` wrote them.

    Attributes:
        rows: read-only memory map (N, ...); of pictures (N, height, width, channels), uint8 or uint16.
        beside: the rows of second pictures, by the names of their conditions, each as long as `rows`.
        captions: a tuple of captions for each row, possibly empty.
        labels: a class index for each row, or None if not every row has one.
        classes: names of the classes, by index.
        groups: the name of a group for each row, or None if there are no groups.
        manifest_hash: SHA-256 of manifest.jsonl, which names the data.
        index: what `prepare` recorded: layout, shape, dtype, counts, signature.
        folder: the folder of all its files.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self._open()
        except DataError:
            raise
        except (UserError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(
                f"{self.folder} is damaged or was changed: {shown(str(error))}", "delete it, and it is made anew"
            ) from error

    def _open(self) -> None:
        self.index: dict[str, Any] = read_json(self.folder / INDEX, LARGEST_INDEX)
        self.rows: np.ndarray = open_array(self.folder / ROWS)
        self.beside: dict[str, np.ndarray] = {
            name: open_array(self.folder / beside_file(name)) for name in texts(self.index.get("beside", []))
        }
        if any(len(rows) != len(self.rows) for rows in self.beside.values()):
            raise DataError(f"{self.folder} is incomplete or was changed", "delete it, and it is made anew")
        self.manifest_hash = manifest.file_hash(self.folder / manifest.NAME)
        if self.manifest_hash != self.index["manifest_hash"] or len(self.rows) != self.index["rows"]:
            raise DataError(f"{self.folder} is incomplete or was changed", "delete it, and it is made anew")
        self.classes = texts(self.index["classes"])

        numbers = {name: index for index, name in enumerate(self.classes)}
        self.captions: list[tuple[str, ...]] = []
        labels: list[int | None] = []
        hashes: list[str] = []
        names: list[str | None] = []
        for values in manifest.read(self.folder / manifest.NAME):
            self.captions.append(texts(values.get("captions", ())))
            label = values.get("label")
            labels.append(numbers.get(label) if isinstance(label, str) else None)
            hashes.append(values["sha256"])
            group = values.get("group")
            names.append(group if isinstance(group, str) else None)
        if len(labels) != len(self):
            raise ValueError(f"{len(labels):,} rows of the manifest for {len(self):,} pictures")
        self.labels = None if not labels or None in labels else [n for n in labels if n is not None]
        self.groups = None if not names or None in names else [name for name in names if name is not None]
        # 52 bits of each hash: exact in a double, and even over [0, 1).
        self._places = np.array([int(digest[:13], 16) / 16**13 for digest in hashes])
        self.describe()  # fails if the index is damaged

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def manifest(self) -> list[dict[str, Any]]:
        """The manifest's rows (see `sfumato.data.manifest`), read from disk."""
        return list(manifest.read(self.folder / manifest.NAME))

    def split(self, validation: float) -> tuple[np.ndarray, np.ndarray]:
        """(train, validation): two int64 arrays of indices, disjoint, together all of them.

        The side of a picture depends on the hash of its own file: adding files moves none, and identical files land on
        the same side, whatever their names. A share of about `validation` (in [0, 1)) is held out; above 0 it is at
        least one picture, and one picture always remains to train on. If there are groups, each group is on one side as
        a whole (see `sfumato.data.groups`).
        """
        if not 0 <= validation < 1:
            raise ValueError(f"validation = {validation} must be in [0, 1): the fraction of pictures held out")
        if self.groups is not None:
            held_out = groups.held_out(self.groups, validation)
            return np.flatnonzero(~held_out), np.flatnonzero(held_out)
        held_out = self._places < validation
        if validation > 0 and not held_out.any():
            held_out = self._places == self._places.min()
        if held_out.all():
            held_out = self._places != self._places.max()
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def describe(self) -> str:
        """The data set in words: what was found, what was left out and why, conversions, repetitions."""
        lines = [self.index["found"]]
        if self.index["faults"]:
            kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(self.index["faults"].items()))
            lines.append(f"left out: {sum(self.index['faults'].values()):,} ({kinds}); see {self.folder / FAULTS}")
        if self.index["notes"]:
            lines.append("converted: " + ", ".join(f"{kind} {n:,}" for kind, n in self.index["notes"].items()))
        if self.index.get("cropped"):
            lines.append(self.index["cropped"])
        if self.index["duplicates"]:
            lines.append(f"duplicates: {count(self.index['duplicates'], 'file')} the same as another")
        *sides, last = self.rows.shape[1:]
        shape = " x ".join(map(str, (*reversed(sides), last)))
        lines.append(f"ready: {len(self):,} of {shape} ({self.rows.dtype})")
        return "\n".join(lines)


def beside_file(name: str) -> str:
    """The file of the second pictures of a condition; its name has letters, digits, dashes and underscores."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
        raise ValueError(f"{shown(name)} is no name of a condition")
    return f"beside-{name}.npy"


def texts(values: Any) -> tuple[str, ...]:
    """A list of texts, unchanged; a TypeError for anything else."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{shown(values)} is no list of texts")
    return tuple(values)
