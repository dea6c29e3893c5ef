"""Zarr stores, by the package of the extra `arrays`: folders that end in .zarr, and zips of them.

A store may come from anywhere. Its metadata name codecs, and among those that the package knows is one that unpickles,
which can run any code; so codecs are a closed list. Shapes, chunks and what a chunk says that it unpacks to are bounded
before anything is unpacked, and a link that leads out of the store is refused.
"""

from __future__ import annotations

import math
import os
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.faults import DataError
from sfumato.data.readers import FILE_BYTES, Unusable
from sfumato.data.readers.npy import demand_numbers
from sfumato.errors import MissingPackage, shown

MARKS = frozenset(("zarr.json", ".zarray", ".zgroup"))  # a folder that holds one of these is a store
PACKED = ".zarr.zip"
META_BYTES = 4 * 2**20
KEPT_BYTES = 2 * FILE_BYTES  # unpacked chunks that are kept, for samples are asked for one after the other
MOST_ARRAYS = 1000  # of one store that are looked at
CODECS = frozenset((
    "bytes", "transpose", "crc32c", "sharding_indexed", "gzip", "zlib", "zstd", "blosc", "shuffle", "delta",
    "fixedscaleoffset", "astype", "bitround",
))  # fmt: skip
_FIX = "Save it again with zarr, with one of its usual compressors"


def is_store(folder: Path) -> bool:
    """Whether a folder is a store: by its name, or by what lies in it."""
    return folder.name.lower().endswith(".zarr") or any((folder / mark).is_file() for mark in MARKS)


def is_packed(name: str) -> bool:
    """Whether a file is a zip of a store, by its name."""
    return name.lower().endswith(PACKED)


def holds_store(path: Path) -> bool:
    """Whether a zip holds a store."""
    try:
        with zipfile.ZipFile(path) as packed:
            return any(name.rpartition("/")[2] in MARKS for name in packed.namelist()[:100])
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def stamp(path: Path) -> tuple[int, ...]:
    """Files, bytes and newest time of a store: they change when the store does.

    Raises:
        Unusable: a link in it leads out of it.
    """
    files = bytes_ = newest = 0
    for about in [path.stat()] if path.is_file() else _files(path):
        files, bytes_, newest = files + 1, bytes_ + about.st_size, max(newest, about.st_mtime_ns)
    return files, bytes_, newest


def _files(folder: Path) -> Iterator[os.stat_result]:
    inside = str(folder.resolve())
    for here, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(here, name)
            if os.path.islink(path) and os.path.commonpath([inside, os.path.realpath(path)]) != inside:
                raise Unusable("link", f"{name} leads out of the store, and nothing outside is read", "Copy it in")
        yield from (os.stat(os.path.join(here, name)) for name in names)


@dataclass(frozen=True)
class Stored:
    """One array of a store; its samples lie along the first axis where it is a stack.

    Attributes:
        array: of the package zarr.
        lock, chunks: unpacked stretches of the first axis, the newest last.
    """

    array: Any
    lock: threading.Lock
    chunks: OrderedDict[int, np.ndarray]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @cached_property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype)

    def whole(self) -> np.ndarray:
        """The array, up to FILE_BYTES.

        Raises:
            Unusable: it is larger, or damaged.
        """
        self._demand(self.shape, "the array")
        return self._read(...)

    def __getitem__(self, index: int) -> np.ndarray:
        """One entry of the first axis; the chunks that it lies in are kept for its neighbours."""
        long = (self.array.shards or self.array.chunks)[0]
        start = index // long * long
        with self.lock:
            if start not in self.chunks:
                self._demand((min(long, self.shape[0]), *self.shape[1:]), "a stretch of chunks along the first axis")
                self.chunks[start] = self._read(slice(start, start + long))
                while len(self.chunks) > 1 and sum(chunk.nbytes for chunk in self.chunks.values()) > KEPT_BYTES:
                    self.chunks.popitem(last=False)
            self.chunks.move_to_end(start)
            return self.chunks[start][index - start]

    def _demand(self, shape: Sequence[int], what: str) -> None:
        size = math.prod(shape) * self.dtype.itemsize
        if size > FILE_BYTES:
            words = f"{what} has {size:,} bytes unpacked, limit {FILE_BYTES:,}"
            raise Unusable("too large", words, "Save it with smaller chunks, or split it")

    def _read(self, where: Any) -> np.ndarray:
        try:
            return np.asarray(self.array[where])
        except Unusable:
            raise
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything
            raise Unusable("damaged", f"it cannot be unpacked ({shown(str(error))})", "Copy it again") from None


def open_store(path: Path) -> dict[str, Stored | Unusable]:
    """The arrays of a store by their paths in it, "" for a store that is one array; what is no array that can be read
    is the reason.

    Raises:
        MissingPackage: zarr is not installed.
        Unusable: it is no store, or its metadata cannot be read.
    """
    zarr = _package()
    try:
        opened = zarr.open(_checked(zarr, path), mode="r", path=_root(path), use_consolidated=False)
        arrays = {"": opened} if isinstance(opened, zarr.Array) else _members(opened)
    except (Unusable, DataError):
        raise
    except Exception as error:  # noqa: BLE001 - what parses metadata may raise anything
        reason = shown(str(error) or type(error).__name__, 200)
        raise Unusable("array", f"it is no Zarr store that can be read ({reason})", "Save it again with zarr") from None
    return {name: _known(array) for name, array in arrays.items()}


def _package() -> Any:
    try:
        import zarr
        import zarr.storage
    except ImportError:
        raise MissingPackage("sfumato[arrays]", "reading Zarr") from None
    return zarr


def _members(group: Any) -> dict[str, Any]:
    found = {}
    for name, member in group.members(max_depth=8, use_consolidated_for_children=False):
        if hasattr(member, "shape"):
            found[name] = member
        if len(found) > MOST_ARRAYS:
            raise Unusable("array", f"it holds more than {MOST_ARRAYS:,} arrays", "Give a smaller store")
    return found


def _known(array: Any) -> Stored | Unusable:
    """The array, or why it is not read."""
    try:
        demand_numbers(np.dtype(array.dtype), array.shape)
        odd = sorted(set(_codecs(array.metadata.to_dict())) - CODECS)
        if odd:
            raise Unusable("array", f"it is packed by {', '.join(map(shown, odd))}, which is not read", _FIX)
        outer, inner = array.shards or array.chunks, array.chunks
        parts = math.prod(-(-a // max(1, b)) for a, b in zip(outer, inner, strict=True))
        if min((*outer, *inner), default=1) < 1 or parts > 2**20:
            raise Unusable("array", f"its chunks {shown(inner)} cannot be", _FIX)
        size = math.prod(outer) * np.dtype(array.dtype).itemsize
        if size > FILE_BYTES:
            words = f"a chunk has {size:,} bytes unpacked, limit {FILE_BYTES:,}"
            raise Unusable("too large", words, "Save it with smaller chunks")
    except Unusable as error:
        return error
    store = array.store_path.store
    store.largest = max(store.largest, 2 * size + META_BYTES)
    return Stored(array, threading.Lock(), OrderedDict())


def _codecs(said: Any) -> Iterator[str]:
    """The names of all codecs in the metadata of an array, of both versions of the format."""
    if not isinstance(said, dict):
        return
    for key in ("compressor", "filters", "codecs", "index_codecs"):
        entries = said.get(key) or ()
        for entry in entries if isinstance(entries, list | tuple) else (entries,):
            name = str(entry.get("id") or entry.get("name")) if isinstance(entry, dict) else str(entry)
            yield name.removeprefix("numcodecs.")
            if isinstance(entry, dict):
                yield from _codecs(entry.get("configuration"))


# ---- the store, bounded


def _root(path: Path) -> str:
    """Where in a zip the store begins: at its root, or in its only folder."""
    if path.is_dir():
        return ""
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
    if any(name in MARKS for name in names):
        return ""
    tops = {name.partition("/")[0] for name in names}
    return tops.pop() if len(tops) == 1 else ""


def _checked(zarr: Any, path: Path) -> Any:
    """The store at a path, of which every read is bounded."""
    if path.is_dir():
        store = zarr.storage.LocalStore(path, read_only=True)
    else:
        with zipfile.ZipFile(path) as packed:
            large = max((info.file_size for info in packed.infolist()), default=0)
        if large > FILE_BYTES:
            raise Unusable("too large", f"a member has {large:,} bytes unpacked, limit {FILE_BYTES:,}", _FIX)
        store = zarr.storage.ZipStore(path, mode="r")

    class Bounded(zarr.storage.WrapperStore):
        """Refuses what would unpack to more than a chunk can hold."""

        largest = META_BYTES

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            if byte_range is None and path.is_dir():
                _demand_size(path / key)
            found = await super().get(key, prototype, byte_range)
            if found is not None and key.rpartition("/")[2] not in (*MARKS, ".zattrs", ".zmetadata"):
                size = unpacked(found.to_bytes(), self.largest)
                if size > self.largest:
                    words = f"the chunk {shown(key)} unpacks to {size:,} bytes or more, and its shape has fewer"
                    raise Unusable("too large", words, "Copy it again from where it came from")
            return found

    return Bounded(store)


def _demand_size(file: Path) -> None:
    try:
        size = file.stat().st_size
    except OSError:
        return  # a chunk that is not there holds the fill value
    limit = META_BYTES if file.name in MARKS else FILE_BYTES
    if size > limit:
        raise Unusable("too large", f"{file.name} has {size:,} bytes, limit {limit:,}", _FIX)


def unpacked(data: bytes, limit: int) -> int:
    """Bytes that a chunk says it unpacks to; what is not compressed, or does not say it, counts with its own.

    What gzip and zlib make is counted, up to `limit`, for they do not say it.
    """
    if data[:4] == b"\x28\xb5\x2f\xfd":  # Zstandard, RFC 8878, section 3.1.1.1
        flag, single = data[4] >> 6, data[4] >> 5 & 1
        length = (1 if single else 0, 2, 4, 8)[flag]
        at = 5 + (not single) + (0, 1, 2, 4)[data[4] & 3]
        size = int.from_bytes(data[at : at + length], "little") + (256 if flag == 1 else 0)
        return size if length else limit + 1
    if data[:2] == b"\x1f\x8b" or (data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0):
        packed, size = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
        try:
            while size <= limit and not packed.eof:
                part = packed.decompress(data if not size else packed.unconsumed_tail, 2**20)
                size += len(part)
                if not part:
                    break
        except zlib.error:
            return size or len(data)
        return size
    if (
        len(data) >= 16 and data[0] in (1, 2) and int.from_bytes(data[12:16], "little") in (len(data), len(data) - 4)
    ):  # Blosc, perhaps with a checksum
        return int.from_bytes(data[4:8], "little")
    return len(data)
