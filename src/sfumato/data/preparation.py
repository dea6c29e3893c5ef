"""One pass from files to a training set: read, hash, check, decode, fit, write.

Files are read once, in parallel, and written in the order of the source, so that the result does not depend on the
number of workers. Nothing is half done: the set is written aside and renamed when it is whole.

What is done with faults is in `sfumato.data.policies`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data import manifest
from sfumato.data.cropping import crop_loss
from sfumato.data.dataset import FAULTS, INDEX, PICTURES, Dataset
from sfumato.data.faults import DataError, Fault, listing, tally
from sfumato.data.listing import MARKER
from sfumato.data.policies import POLICIES, check_enough, enforce, quarantine
from sfumato.data.readers import LIMITS, Picture, Unusable, read
from sfumato.data.records import Record, Source
from sfumato.durable import sync_folder, write_array, write_durably

FORMAT = 1  # of the cache; raised when the pixels or rows that the same files give change

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
    pixels: np.ndarray | None
    fault: Fault | None


def scan(
    source: Source, size: int = 32, channels: int = 3, workers: int | None = None, progress: Progress | None = None
) -> Report:
    """Look at every picture as `prepare` would, and write nothing."""
    rows, faults = [], list(source.faults)
    refused = {fault.path for fault in faults}
    with contextlib.closing(_examine(source, size, channels, workers, progress)) as results:
        for result in results:
            if result.fault:
                faults.append(result.fault)
            elif result.row and result.row["path"] not in refused:
                rows.append(result.row)
    return Report(
        found=source.describe(),
        pictures=len(rows),
        faults=tuple(faults),
        notes=_notes(rows, size, channels),
        duplicates=len(rows) - len({row["sha256"] for row in rows}),
        bytes=len(rows) * size * size * channels,
        cropped=crop_loss([row["size"] for row in rows]),
    )


def prepare(
    source: Source,
    size: int,
    channels: int = 3,
    cache_dir: str | Path = "prepared",
    policy: str = "stop",
    workers: int | None = None,
    progress: Progress | None = None,
    accept: Callable[[str], None] = lambda manifest_hash: None,
) -> Dataset:
    """The `Dataset` of `source` at size x size pixels, made in `cache_dir`, or found there if nothing changed since.

    Args:
        channels: 3 (RGB) or 1 (grey).
        cache_dir: receives pictures.npy, manifest.jsonl, index.json, faults.json; its earlier content is replaced.
            Quarantined files go to `quarantine` beside it.
        policy: "stop", "skip" or "quarantine" (see `sfumato.data.policies`).
        workers: threads that decode; by default one a processor, at most 8.
        progress: called with (pictures done, pictures in all).
        accept: told the hash of the manifest; what it raises leaves the cache, and every file, as it was.

    Raises:
        DataError: faults under the policy, too few pictures, no space. The message names files, reasons and fixes, and
            `faults.json` in `cache_dir` keeps the whole list.
    """
    cache = Path(cache_dir)
    if policy not in POLICIES:
        raise ValueError(f"policy = {policy!r} is none of {', '.join(POLICIES)}")
    if channels not in (1, 3):
        raise ValueError(f"channels = {channels} must be 3 (RGB) or 1 (grey)")
    if size < 1:
        raise ValueError(f"size = {size} must be at least 1 pixel")

    signature = _signature(source, size, channels)
    ready = _reuse(cache, signature)
    if ready is not None and (not ready.index["faults"] or ready.index.get("policy") == policy != "stop"):
        accept(ready.manifest_hash)
        if progress:
            progress(len(source.records), len(source.records))
        return ready

    cache.parent.mkdir(parents=True, exist_ok=True)
    _check_space(cache.parent, len(source.records) * size * size * channels)
    with writing_aside(cache) as aside:
        rows, faults = _write(source, size, channels, workers, progress, aside)
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
            "size": size,
            "channels": channels,
            "pictures": len(rows),
            "classes": list(source.classes),
            "faults": dict(Counter(fault.kind for fault in faults)),
            "notes": _notes(rows, size, channels),
            "duplicates": len(rows) - len({row["sha256"] for row in rows}),
            "cropped": crop_loss([row["size"] for row in rows]),
        }
        write_durably(aside / INDEX, index)
        put_in_place(aside, cache)
    return Dataset(cache)


# ---- the pass


def _examine(
    source: Source, size: int, channels: int, workers: int | None, progress: Progress | None
) -> Generator[_Result, None, None]:
    """A result a record, in order."""
    records = source.records
    work = partial(_one, size=size, channels=channels)
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), "sfumato-data") as pool:
        for start in range(0, len(records), _BLOCK):
            for index, result in enumerate(pool.map(work, records[start : start + _BLOCK]), start + 1):
                yield result
                if progress and (index % 64 == 0 or index == len(records)):
                    progress(index, len(records))


def _one(record: Record, size: int, channels: int) -> _Result:
    try:
        if record.size is not None and record.size > LIMITS.file_bytes:
            words = f"{record.size:,} bytes, limit {LIMITS.file_bytes:,}"
            return _Result(None, None, Fault(record.locator, "too large", words, "Scale it down or delete it"))
        data = record.open()
        picture: Picture = read(data, record.locator, size, channels)
    except Unusable as error:
        return _Result(None, None, error.at(record.locator))
    except OSError as error:
        words = error.strerror or str(error)
        return _Result(None, None, Fault(record.locator, "unreadable", words, "Make it readable or delete it"))
    digest = hashlib.sha256(data).hexdigest()
    return _Result(manifest.row(record, digest, len(data), picture), picture.pixels, None)


def _write(
    source: Source, size: int, channels: int, workers: int | None, progress: Progress | None, aside: Path
) -> tuple[list[dict[str, Any]], list[Fault]]:
    """Decode everything into `aside`/pictures.npy; the rows and faults."""
    faults = list(source.faults)
    refused = {fault.path for fault in faults}
    rows: list[dict[str, Any]] = []
    shape = (size, size, channels)
    pixels = write_array(aside / PICTURES, np.uint8, (max(1, len(source.records)), *shape))
    with contextlib.closing(_examine(source, size, channels, workers, progress)) as results:
        for result in results:
            if result.fault:
                faults.append(result.fault)
            elif result.row and result.row["path"] not in refused:  # a picture refused while listing stays refused
                pixels[len(rows)] = result.pixels
                rows.append(result.row)

    if len(rows) != len(pixels):  # a shorter array has another header: copy what was filled
        shorter = write_array(aside / "shorter.npy", np.uint8, (len(rows), *shape))
        for start in range(0, len(rows), 4096):
            shorter[start : min(start + 4096, len(rows))] = pixels[start : min(start + 4096, len(rows))]
        (aside / "shorter.npy").replace(aside / PICTURES)
        pixels = shorter
    pixels.flush()
    return rows, faults


# ---- the cache


def _signature(source: Source, size: int, channels: int) -> str:
    """Changes when the listing (names, sizes, times, captions, labels) or a setting does."""
    said = hashlib.sha256(repr((FORMAT, size, channels, source.layout, source.classes)).encode())
    for r in source.records:
        said.update(
            repr((r.locator, r.stamp, r.captions, r.label, r.licence, r.source, *_group(r))).encode(
                "utf-8", "surrogatepass"
            )
        )
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
    if needed * 2 > free:  # twice: leaving faults out copies the pictures once
        raise DataError(
            f"{folder}: {needed / 1e9:.1f} GB of prepared pictures (and as much again while writing) do not fit into "
            f"{free / 1e9:.1f} GB of free space",
            "free some, or choose a smaller data.size",
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
    """`aside` becomes `cache`. Between the two renames there is no cache, which only means that it is made again."""
    old = cache.with_name(f"{cache.name}.partial-old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(aside)
    if cache.exists():
        cache.rename(old)
    aside.rename(cache)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(cache.parent)


def _notes(rows: list[dict[str, Any]], size: int, channels: int) -> dict[str, int]:
    """How many pictures were converted, by kind. The last two depend on the settings, and so are in no row."""
    notes = Counter(note for row in rows for note in row.get("notes", ()))
    notes["enlarged"] = sum(min(row["size"]) < size for row in rows)
    notes["grey to RGB"] = sum(row["mode"] in ("1", "L", "LA", "I;16", "I") for row in rows) if channels == 3 else 0
    return {kind: notes[kind] for kind in sorted(notes) if notes[kind]}
