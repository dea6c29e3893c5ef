"""Many samples in one file: arrays whose first axis is the samples, as .npy, .npz or Zarr.

`data.stacked` says whether files are stacks. Left to itself ("auto"), one file alone is a stack, for one sample is not
enough to train on; of several files each is a sample. What could be either is refused, and says so.

A stack is mapped into memory, or unpacked a stretch at a time; each of its samples is a record, of which the bytes are
those of a .npy of its own. So a stack and a folder of the same arrays are the same data, by every hash.

What is said of samples lies beside or inside a stack `a.npy`, one entry a sample, in order:

    a.csv, a.tsv, a.jsonl     rows with text, label, licence, source and the group's column
    a.txt                     lines, the captions
    labels                    an array of that name (or y, targets, classes) in an .npz or a Zarr group
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sfumato.data import names, texts, zarrs
from sfumato.data.descriptions import Contradiction, with_captions, with_row
from sfumato.data.faults import DataError
from sfumato.data.metadata import rows_of
from sfumato.data.readers import FILE_BYTES, Unusable
from sfumato.data.readers.npy import Zipped, chosen, label_of, mapped, told
from sfumato.data.records import Record, count
from sfumato.machine import free_memory

ENDINGS = (".npy", ".npz", ".zarr", zarrs.PACKED)
BESIDE = (".csv", ".tsv", ".jsonl", ".txt")
LOOKED_AT = 16  # files whose headers tell whether a folder holds stacks
MOST_CHANNELS = 4  # a first axis of as many may be channels
RECORD_BYTES = 1000  # that one sample takes in memory
CAPTIONS_BYTES = 2**30


@dataclass(frozen=True)
class Arrays:
    """What one file holds: the array that is the data, and the labels of its samples where it has some."""

    values: Any  # with shape, dtype and, along the first axis, entries
    labels: Callable[[], np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)


def is_stackable(name: str) -> bool:
    """Whether a file is one that may be a stack, by its name."""
    return name.lower().endswith(ENDINGS)


def opened(path: Path, array: str, least: int = 1) -> Arrays:
    """The array of a file or store; of several the one that `array` names, or the only one that can be.

    Args:
        path: of a .npy, an .npz or a Zarr store.
        array: `data.array`.
        least: dimensions that the data have at least.

    Raises:
        MissingPackage: zarr is not installed. Unusable: with the reason. OSError: it cannot be read.
    """
    if path.suffix.lower() == ".npy":
        return Arrays(mapped(path))
    packed = Zipped(path) if path.suffix.lower() == ".npz" else None
    held: Mapping[str, Any] = packed.headers if packed else zarrs.open_store(path)
    shapes = {name: getattr(found, "shape", ()) for name, found in held.items()}
    name = next(iter(shapes)) if len(shapes) == 1 and not array else chosen(shapes, array, least, "it")
    reason = held[name]
    if isinstance(reason, Unusable):
        raise reason
    label = label_of(list(shapes), name)
    values = packed[name] if packed else held[name]
    if label is None:
        return Arrays(values)
    return Arrays(values, lambda: packed.read(label, words=True) if packed else _whole(held[label]))


def _whole(array: Any) -> np.ndarray:
    if isinstance(array, Unusable):
        raise array
    return array.whole() if isinstance(array, zarrs.Stored) else array


def whole(path: str, array: str) -> bytes:
    """The array of a Zarr store that is one sample, as the bytes of a .npy.

    Raises:
        Unusable, OSError: as for `opened`.
    """
    return as_npy(_whole(opened(Path(path), array).values))


def as_npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values), allow_pickle=False)
    return stream.getvalue()


# ---- which files are stacks


def are_stacks(files: Mapping[str, Path], stacked: bool | None, array: str) -> tuple[bool, str]:
    """Whether the files of a folder are stacks, and what was understood, for people.

    Args:
        files: arrays by their names.
        stacked: `data.stacked`; None: by the rule above.
        array: `data.array`.

    Raises:
        DataError: they could be either.
    """
    if stacked is not None or not files:
        return bool(stacked), ""
    shown = list(files)[:: max(1, -(-len(files) // LOOKED_AT))]
    shapes: dict[tuple[int, ...], str] = {}
    for name in shown:
        try:
            shapes.setdefault(opened(files[name], array).shape, name)
        except (Unusable, OSError):
            continue  # a fault, which preparing will name
    if len(files) == 1:
        for shape, name in shapes.items():
            if len(shape) > 2 and shape[0] <= MOST_CHANNELS < min(shape[1:]):
                raise _unclear(name, shape, f"may be {shape[0]} samples, or one of {shape[0]} channels")
        return True, ""
    tails = {shape[1:] for shape in shapes}
    first, name = next(iter(shapes.items()), ((), ""))
    if len(shapes) > 1 and len(tails) == 1 and len(first) > 1:
        lengths = ", ".join(str(shape[0]) for shape in list(shapes)[:4])
        raise _unclear(name, first, f"and others differ from it in the first axis alone ({lengths}, ...)")
    if any(len(shape) > 4 for shape in shapes):
        raise _unclear(name, first, "has more dimensions than a sample can have")
    return False, "each file is one sample"


def _unclear(name: str, shape: Sequence[int], words: str) -> DataError:
    sides = " x ".join(f"{side:,}" for side in shape)
    return DataError(
        f"data.stacked: auto, but {name} of {sides} {words}",
        "set data.stacked to true if the samples lie along the first axis; else give all arrays one shape, and more "
        "than one file",
    )


# ---- the samples of stacks


def expanded(
    records: Sequence[Record], files: Mapping[str, Path], beside: Mapping[str, Path], array: str, column: str
) -> tuple[list[Record], set[str], str]:
    """A record for every sample of the stacks among `records`, all columns that tables beside them have, and what was
    understood, for people.

    Args:
        records: of files; what is said of a file is said of all its samples.
        files: the stacks by their names.
        beside: tables and captions by their names.
        array: `data.array`.
        column: whose value is the group.

    Raises:
        DataError: a stack cannot be read, or what lies beside it has another number of entries.
    """
    found: list[Record] = []
    columns: set[str] = set()
    forms: dict[str, int] = {}
    for record in records:
        if record.locator not in files:
            found.append(record)
            continue
        path = files[record.locator]
        try:
            arrays = opened(path, array, 2)
            _demand(arrays)
            samples = _samples(record, arrays)
        except (Unusable, OSError) as error:
            words, fix = (error.reason, error.fix) if isinstance(error, Unusable) else (error.strerror, "")
            raise DataError(f"{path}: {words}", fix or "make it readable") from None
        said = [(name, each) for name, each in beside.items() if names.stem(name) == stem_of(record.locator)]
        for name, each in said:
            samples = _described(samples, each, name, column, columns)
        found += samples
        form = told(np.dtype(arrays.values.dtype), arrays.shape[1:])
        forms[form] = forms.get(form, 0) + 1
    words = ", ".join(f"{form} in {count(n, 'file')}" if len(files) > 1 else form for form, n in forms.items())
    return found, columns, f"samples along the first axis of {_shortly(files)}, each {words}"


def _shortly(files: Mapping[str, Path]) -> str:
    return PurePosixPath(next(iter(files))).name if len(files) == 1 else count(len(files), "file")


def stem_of(name: str) -> str:
    """ "a" for a.npy and a.zarr.zip."""
    return names.stem(names.stem(name)) if zarrs.is_packed(name) else names.stem(name)


def _demand(arrays: Arrays) -> None:
    shape, values = arrays.shape, arrays.values
    if len(shape) < 2:
        raise Unusable(
            "array", f"it holds {told(values.dtype, shape)}: single numbers, and no samples", "Save (N, ...)"
        )
    if len(shape) > 5:
        raise Unusable(
            "array", f"it holds {told(values.dtype, shape)}: samples have at most 4 dimensions", "Reshape it"
        )
    if (needed := shape[0] * RECORD_BYTES) > free_memory() / 2:
        words = f"the list of its {shape[0]:,} samples takes {needed / 2**30:,.1f} GiB of memory"
        raise Unusable("too large", words, "Split it into parts, and train on one")
    plain = isinstance(values, np.memmap) and not values.flags.c_contiguous
    if plain and values.nbytes > FILE_BYTES:
        words = "it is in Fortran order, so that every sample lies all over the file"
        raise Unusable("array", words, "Save numpy.ascontiguousarray of it")


def _samples(record: Record, arrays: Arrays) -> list[Record]:
    labels: Sequence[str | None] = [record.label] * arrays.shape[0]
    if arrays.labels is not None:
        labels = _labels(arrays.labels(), arrays.shape[0])
    size = int(np.prod(arrays.shape[1:])) * np.dtype(arrays.values.dtype).itemsize
    name, said = record.locator, (record.licence, record.source, size, record.stamp, record.group)
    with _no_collection():  # by which half a million records take one second and not four
        return [
            Record(f"{name}/{i}.npy", partial(_sample, arrays.values, i), record.captions, label, *said)
            for i, label in enumerate(labels)
        ]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python does not search for circles of dead objects meanwhile, as it would again and again while many are made."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _sample(values: Any, index: int) -> bytes:
    return as_npy(values[index])


def _labels(values: np.ndarray, samples: int) -> list[str]:
    if values.size != samples or values.dtype.kind not in "iubUS":
        words = f"its labels are {told(values.dtype, values.shape)}, and there are {samples:,} samples"
        raise Unusable("array", words, "Save a whole number or a word for each sample")
    same: dict[Any, str] = {}  # one text a class, not one a sample
    texts_ = {"S": lambda v: v.decode("utf-8", "replace")}.get(values.dtype.kind, str)
    return [same.setdefault(value, texts_(value)) for value in values.ravel().tolist()]


def _described(samples: list[Record], path: Path, name: str, column: str, columns: set[str]) -> list[Record]:
    """`samples` with what the rows of a table, or the lines of a text, say of them, in order."""
    if name.endswith(".txt"):
        with path.open("rb") as stream:
            lines = texts.decode(stream.read(CAPTIONS_BYTES)).splitlines()
        _demand_as_many(path, len(lines), len(samples), "lines")
        return [with_captions(record, [line]) for record, line in zip(samples, lines, strict=True)]
    rows = [row for _, row in rows_of(path)]
    _demand_as_many(path, len(rows), len(samples), "rows")
    described = []
    for number, (record, row) in enumerate(zip(samples, rows, strict=True), 1):
        columns.update(row)
        try:
            described.append(with_row(record, row, column))
        except (Contradiction, ValueError) as error:
            raise DataError(f"{path}, row {number}: {error}", "correct the row") from None
    return described


def _demand_as_many(path: Path, found: int, samples: int, what: str) -> None:
    if found != samples:
        raise DataError(
            f"{path} has {found:,} {what} for the {samples:,} samples of the array beside it",
            "write one for each sample, in their order",
        )
