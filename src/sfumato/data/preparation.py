"""One pass from files to a training set: read, hash, check, decode, fit, write.

Files are read once, in parallel, and written in the order of the source, so the result does not depend on the number of
workers. Nothing is half done: the set is written under another name and renamed when it is whole.

`sfumato.data.policies` decides what happens to faults.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data import manifest
from sfumato.data.dataset import FAULTS, INDEX, ROWS, Dataset, beside_file
from sfumato.data.faults import DataError, Fault, listing, tally
from sfumato.data.listing import MARKER
from sfumato.data.policies import POLICIES, check_enough, enforce, quarantine
from sfumato.data.readers import FILE_BYTES, Reader, Unusable
from sfumato.data.records import Record, Source
from sfumato.durable import sync_folder, write_array, write_durably

FORMAT = 2  # of the cache; raised when the rows that the same files give change

Progress = Callable[[int, int], None]

_BLOCK = 512  # records in flight: bounds memory, and is large enough to keep the workers busy


@dataclass(frozen=True)
class Report:
    """What a scan found: `pictures` usable, `faults`, `notes` by kind, `duplicates`, `bytes` of the prepared set."""

    found: str
    pictures: int
    faults: tuple[Fault, ...]
    notes: dict[str, int]
    duplicates: int
    bytes: int
    cropped: str = ""  # what the crop loses, in words

    def __str__(self) -> str:
        lines = [self.found, f"usable pictures: {self.pictures:,}; faults: {len(self.faults):,}"]
        if self.faults:
            lines[1] += f" ({tally(fault.kind for fault in self.faults)})"
            lines.append(listing(self.faults))
        if self.notes:
            lines.append("to be converted: " + ", ".join(f"{kind} {n:,}" for kind, n in self.notes.items()))
        if self.cropped:
            lines.append(self.cropped)
        if self.duplicates:
            lines.append(f"duplicates: {self.duplicates:,}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Result:
    row: dict[str, Any] | None
    values: np.ndarray | None
    fault: Fault | None
    beside: dict[str, np.ndarray] = field(default_factory=dict)


# By the name of a condition: which of `Record.beside` is its second picture, and what that becomes.
Beside = Mapping[str, tuple[int, Reader]]


def scan(
    source: Source,
    reader: Reader,
    workers: int | None = None,
    progress: Progress | None = None,
    beside: Beside | None = None,
) -> Report:
    """Look at every file as `prepare` would, and write nothing."""
    rows, faults = [], list(source.faults)
    refused = {fault.path for fault in faults}
    with contextlib.closing(_examine(source, reader, workers, progress, beside or {})) as results:
        for result in results:
            if result.fault:
                faults.append(result.fault)
            elif result.row and result.row["path"] not in refused:
                rows.append(result.row)
    return Report(
        found=source.describe(),
        pictures=len(rows),
        faults=tuple(faults),
        notes=_notes(rows, reader),
        duplicates=len(rows) - len({row["sha256"] for row in rows}),
        bytes=len(rows) * row_bytes(reader),
        cropped=reader.loss(rows),
    )


def prepare(
    source: Source,
    reader: Reader,
    cache_dir: str | Path = "prepared",
    policy: str = "stop",
    workers: int | None = None,
    progress: Progress | None = None,
    accept: Callable[[str], None] = lambda manifest_hash: None,
    beside: Beside | None = None,
) -> Dataset:
    """The `Dataset` of `source`, made in `cache_dir`, or found there if nothing changed since.

    Args:
        source: from `open_source`.
        reader: makes a row from a file, e.g. ``Pictures(32)``.
        cache_dir: receives rows.npy, manifest.jsonl, index.json, faults.json; its earlier content is replaced.
            Quarantined files go to `quarantine` beside it.
        policy: "stop", "skip" or "quarantine" (see `sfumato.data.policies`).
        workers: threads that decode; by default one for each processor, at most 8.
        progress: called with (pictures done, pictures in all).
        beside: the readers of second pictures, which become rows of their own.
        accept: called with the hash of the manifest; if it raises, the cache and every file stay as they were.

    Raises:
        DataError: faults under the policy, too few pictures, no space. The message names files, reasons and fixes, and
            `faults.json` in `cache_dir` keeps the whole list.
    """
    cache = Path(cache_dir)
    if policy not in POLICIES:
        raise ValueError(f"policy = {policy!r} is none of {', '.join(POLICIES)}")

    beside = beside or {}
    signature = _signature(source, reader, beside)
    ready = _reuse(cache, signature)
    if ready is not None and (not ready.index["faults"] or ready.index.get("policy") == policy != "stop"):
        accept(ready.manifest_hash)
        if progress:
            progress(len(source.records), len(source.records))
        return ready

    cache.parent.mkdir(parents=True, exist_ok=True)
    readers = (reader, *(each for _, each in beside.values()))
    _check_space(cache.parent, len(source.records) * sum(map(row_bytes, readers)))
    with writing_aside(cache) as aside:
        rows, faults = _write(source, reader, workers, progress, aside, beside)
        report = {"policy": policy, "pictures": len(rows), "faults": [asdict(fault) for fault in faults]}
        try:
            enforce(policy, source, len(rows), faults)
        except DataError as error:
            cache.mkdir(parents=True, exist_ok=True)
            write_durably(cache / MARKER, "")
            write_durably(cache / FAULTS, report)
            raise DataError(f"{error.message}\nthe whole list: {cache / FAULTS}", error.fix, faults) from None
        encoded = manifest.encode(rows)
        accept(hashlib.sha256(encoded).hexdigest())
        if policy == "quarantine":
            quarantine(source, faults, cache.parent / "quarantine")
        check_enough(source, rows)

        write_durably(aside / manifest.NAME, encoded)
        write_durably(aside / FAULTS, report)
        write_durably(aside / MARKER, "")
        index = {
            "format": FORMAT,
            "signature": signature,
            "policy": policy,
            "manifest_hash": hashlib.sha256(encoded).hexdigest(),
            "found": source.describe(),
            "reader": repr(reader),
            "rows": len(rows),
            "beside": sorted(beside),
            "classes": list(source.classes),
            "faults": dict(Counter(fault.kind for fault in faults)),
            "notes": _notes(rows, reader),
            "duplicates": len(rows) - len({row["sha256"] for row in rows}),
            "cropped": reader.loss(rows),
        }
        write_durably(aside / INDEX, index)
        put_in_place(aside, cache)
    return Dataset(cache)


# ---- the pass


def _examine(
    source: Source, reader: Reader, workers: int | None, progress: Progress | None, beside: Beside
) -> Generator[_Result, None, None]:
    """A result a record, in order."""
    records = source.records
    work = partial(_one, reader=reader, beside=beside)
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), "sfumato-data") as pool:
        for start in range(0, len(records), _BLOCK):
            for index, result in enumerate(pool.map(work, records[start : start + _BLOCK]), start + 1):
                yield result
                if progress and (index % 64 == 0 or index == len(records)):
                    progress(index, len(records))


def _one(record: Record, reader: Reader, beside: Beside) -> _Result:
    result = _read(record, reader)
    if result.row is None or not beside:
        return result
    seconds: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    for name, (place, its_reader) in beside.items():
        if place >= len(record.beside):
            words = f"nothing says its {name!r}"
            return _Result(None, None, Fault(record.locator, "condition missing", words, "Add it to its line"))
        second = _read(record.beside[place], its_reader)
        if second.fault:
            words = f"its {name!r}, {second.fault.path}: {second.fault.reason}"
            return _Result(None, None, Fault(record.locator, second.fault.kind, words, second.fault.fix))
        assert second.row is not None and second.values is not None, "what is no fault has both"
        about[name], seconds[name] = {key: second.row[key] for key in ("path", "sha256")}, second.values
    return _Result({**result.row, "beside": about}, result.values, None, seconds)


def _read(record: Record, reader: Reader) -> _Result:
    try:
        if record.size is not None and record.size > FILE_BYTES:
            words = f"{record.size:,} bytes, limit {FILE_BYTES:,}"
            return _Result(None, None, Fault(record.locator, "too large", words, "Scale it down or delete it"))
        data = record.open()
        row = reader(data, record.locator)
    except Unusable as error:
        return _Result(None, None, error.at(record.locator))
    except OSError as error:
        words = error.strerror or str(error)
        return _Result(None, None, Fault(record.locator, "unreadable", words, "Make it readable or delete it"))
    digest = hashlib.sha256(data).hexdigest()
    return _Result(manifest.row(record, digest, len(data), row), row.values, None)


def _write(
    source: Source, reader: Reader, workers: int | None, progress: Progress | None, aside: Path, beside: Beside
) -> tuple[list[dict[str, Any]], list[Fault]]:
    """Decode everything into `aside`/rows.npy, and second pictures beside it; the lines of the manifest, the faults."""
    faults = list(source.faults)
    refused = {fault.path for fault in faults}
    rows: list[dict[str, Any]] = []
    many = max(1, len(source.records))
    readers = {ROWS: reader, **{beside_file(name): each for name, (_, each) in beside.items()}}
    files = {name: write_array(aside / name, each.dtype, (many, *each.shape)) for name, each in readers.items()}
    with contextlib.closing(_examine(source, reader, workers, progress, beside)) as results:
        for result in results:
            if result.fault:
                faults.append(result.fault)
            elif result.row and result.row["path"] not in refused:  # what was refused while listing stays refused
                files[ROWS][len(rows)] = result.values
                for name, second in result.beside.items():
                    files[beside_file(name)][len(rows)] = second
                rows.append(result.row)

    for name, values in files.items():
        _cut(aside / name, values, len(rows))
    return rows, faults


def _cut(path: Path, values: np.ndarray, length: int) -> None:
    """The file at `path`, mapped as `values`, with its first `length` rows alone, on the disk."""
    if length != len(values):  # a shorter array has another header: copy what was filled
        shorter = write_array(path.with_name("shorter.npy"), values.dtype, (length, *values.shape[1:]))
        for start in range(0, length, 4096):
            shorter[start : min(start + 4096, length)] = values[start : min(start + 4096, length)]
        path.with_name("shorter.npy").replace(path)
        values = shorter
    assert isinstance(values, np.memmap), "write_array maps"
    values.flush()


# ---- the cache


def row_bytes(reader: Reader) -> int:
    """Of one row."""
    return math.prod(reader.shape) * reader.dtype.itemsize


def _signature(source: Source, reader: Reader, beside: Beside) -> str:
    """Changes when the listing (names, sizes, times, captions, labels) or a setting does."""
    said = hashlib.sha256(repr((FORMAT, reader, source.layout, source.classes)).encode())
    for r in source.records:
        said.update(
            repr((r.locator, r.stamp, r.captions, r.label, r.licence, r.source, *_group(r))).encode(
                "utf-8", "surrogatepass"
            )
        )
        for other in r.beside:
            said.update(repr((other.locator, other.stamp)).encode("utf-8", "surrogatepass"))
    if beside:
        said.update(repr(sorted(beside.items())).encode())
    for fault in source.faults:
        said.update(repr(fault).encode("utf-8", "surrogatepass"))
    return said.hexdigest()


def _group(record: Record) -> tuple[str, ...]:
    return () if record.group is None else (record.group,)


def _reuse(cache: Path, signature: str) -> Dataset | None:
    """The data set in `cache` if it was made from the same listing and settings and is whole, else None."""
    try:
        index = json.loads((cache / INDEX).read_text(encoding="utf-8"))
        return Dataset(cache) if index.get("signature") == signature else None
    except (OSError, ValueError, KeyError, DataError):
        return None  # absent, or damaged: it is made anew


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed * 2 > free:  # twice: leaving faults out copies the rows once
        raise DataError(
            f"{folder}: {needed / 1e9:.1f} GB of prepared data (and as much again while writing) do not fit into "
            f"{free / 1e9:.1f} GB of free space",
            "free some, or choose a smaller codec.size",
        )


@contextlib.contextmanager
def writing_aside(cache: Path) -> Iterator[Path]:
    """A folder beside `cache` to write to, gone afterwards unless renamed; those that dead processes left go too."""
    for left in cache.parent.iterdir():
        owner = left.name.rpartition("-")[2]
        if left.name.startswith(f"{cache.name}.partial-") and owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    aside = cache.with_name(f"{cache.name}.partial-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def put_in_place(aside: Path, cache: Path) -> None:
    """Let `aside` become `cache`. A kill between the two renames leaves no cache, which is then made again."""
    old = cache.with_name(f"{cache.name}.partial-old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(aside)
    if cache.exists():
        cache.rename(old)
    aside.rename(cache)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(cache.parent)


def _notes(rows: list[dict[str, Any]], reader: Reader) -> dict[str, int]:
    """How many records were converted, by kind."""
    notes = Counter(note for row in rows for note in (*row.get("notes", ()), *reader.notes(row)))
    return {kind: notes[kind] for kind in sorted(notes)}
