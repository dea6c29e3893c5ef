"""NumPy's files within bounds: the header is checked before a value is read, and nothing is ever unpickled.

A header may claim anything: objects, which only running code could read; a terabyte in a file of 80 bytes; a negative
side. An .npz is a zip, of which each member says how large it is unpacked. So the bytes that a header asks for are
compared with those that are there, and what is compressed is unpacked up to a limit.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from sfumato.data.readers import FILE_BYTES, Unusable
from sfumato.errors import shown

HEADER_BYTES = 64 * 2**10  # a header beyond this is none: NumPy itself stops at 10,000 characters
DIRECTORY_BYTES = 16 * 2**20  # the list of a zip's members
AGAIN = "Save it again with numpy.save"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_ODD = (ValueError, SyntaxError, TokenError, TypeError, OverflowError, RecursionError, struct.error, KeyError)


@dataclass(frozen=True)
class Header:
    """What stands before the values of a .npy.

    Attributes:
        shape: sides of the array.
        dtype: of its values.
        fortran: whether the first axis runs fastest.
        offset: bytes before the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def bytes(self) -> int:
        """Of the header and the values."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def header(start: bytes, size: int, words: bool = False) -> Header:
    """The header of a .npy, found to agree with its size.

    Args:
        start: the first HEADER_BYTES of the file, or all of it.
        size: bytes of the whole file.
        words: whether texts are welcome, too: labels are.

    Raises:
        Unusable: it is none, holds what are no numbers, or claims other bytes than there are.
    """
    stream = io.BytesIO(start[:HEADER_BYTES])
    try:
        version = npy.read_magic(stream)
        shape, fortran, dtype = _HEADERS[version](stream)
    except _ODD as error:
        raise Unusable("array", f"its header cannot be read ({shown(str(error))})", AGAIN) from None
    demand_numbers(dtype, shape, words)
    found = Header(tuple(shape), dtype, bool(fortran), stream.tell())
    if found.bytes != size:
        claim = f"the header claims {found.bytes:,} bytes ({told(dtype, shape)}), and there are {size:,}"
        raise Unusable("truncated" if found.bytes > size else "array", claim, "Copy it again from where it came from")
    return found


def demand_numbers(dtype: np.dtype, shape: Sequence[int], words: bool = False) -> None:
    """Unusable, with the reason, unless an array of such a header holds real numbers, or texts where those will do."""
    if dtype.hasobject:
        raise Unusable(
            "array", "it holds Python objects, which are not read, for reading them could run any code", "Save numbers"
        )
    if dtype.kind == "c":
        raise Unusable("array", f"it holds complex numbers ({dtype})", "Save real and imaginary part as two channels")
    if dtype.kind not in ("biufUS" if words else "biuf"):
        raise Unusable("array", f"it holds {shown(str(dtype))}, which are no numbers", "Save numbers")
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise Unusable("array", f"it holds {dtype}, which other machines cannot read", "Save it as float64")
    if any(type(side) is not int or side < 0 for side in shape):
        raise Unusable("array", f"its shape {shown(tuple(shape))} cannot be", AGAIN)
    if 0 in shape:
        raise Unusable("empty", f"its shape {tuple(shape)} has no values", "Save it again, or delete it")


def of_npy(data: bytes, words: bool = False) -> np.ndarray:
    """The array of a .npy.

    Args:
        words: see `header`.

    Raises:
        Unusable: see `header`.
    """
    found = header(data, len(data), words)
    values = np.frombuffer(data, found.dtype, math.prod(found.shape), found.offset)
    return values.reshape(found.shape, order="F" if found.fortran else "C")


def mapped(path: Path, offset: int = 0, size: int | None = None) -> np.ndarray:
    """The array of a .npy that lies in `path`, or inside it from `offset` on, mapped into memory.

    Raises:
        Unusable: see `header`. OSError: it cannot be read.
    """
    size = path.stat().st_size - offset if size is None else size
    with path.open("rb") as stream:
        stream.seek(offset)
        found = header(stream.read(min(HEADER_BYTES, size)), size)
    return np.memmap(path, found.dtype, "r", offset + found.offset, found.shape, "F" if found.fortran else "C")


# ---- several arrays in a zip


class Zipped:
    """The arrays of an .npz by name; their headers are read, and values when they are asked for.

    Args:
        source: the content, or the path, of the file.

    Raises:
        Unusable: it is damaged, encrypted, or has too many members.
    """

    def __init__(self, source: bytes | Path) -> None:
        self.source = source
        try:
            with self._opened() as stream:
                if _directory_bytes(stream) > DIRECTORY_BYTES:
                    raise Unusable("array", "it lists millions of members", "Save one array a file")
                with zipfile.ZipFile(stream) as packed:
                    names = [info for info in packed.infolist() if not info.is_dir()]
                    self.members = {info.filename.removesuffix(".npy"): info for info in names}
                    self.headers = {name: self._header(packed, info) for name, info in self.members.items()}
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, *_ODD) as error:
            raise Unusable(
                "array", f"it is no zip of arrays ({shown(str(error))})", "Save it with numpy.savez"
            ) from None

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of a name: mapped from a file where it is not compressed, else read up to FILE_BYTES."""
        return self.read(name)

    def read(self, name: str, words: bool = False) -> np.ndarray:
        """The array of a name; of texts only where `words` are welcome."""
        info, found = self.members[name], self.headers[name]
        if isinstance(found, Unusable):
            raise found
        if isinstance(self.source, Path) and info.compress_type == zipfile.ZIP_STORED and not words:
            return mapped(self.source, self._place(info), info.file_size)
        if info.file_size > FILE_BYTES:
            raise Unusable(
                "too large",
                f"{name!r} has {info.file_size:,} bytes unpacked, limit {FILE_BYTES:,} of what is compressed",
                "Save it with numpy.save, or numpy.savez, which do not compress",
            )
        try:
            with self._opened() as stream, zipfile.ZipFile(stream) as packed, packed.open(info) as content:
                return of_npy(content.read(info.file_size), words)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Unusable("truncated", f"{name!r} cannot be unpacked ({error})", "Copy it again") from None

    def _opened(self) -> BinaryIO:
        return self.source.open("rb") if isinstance(self.source, Path) else io.BytesIO(self.source)

    @staticmethod
    def _header(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header | Unusable:
        try:
            with packed.open(info) as content:
                return header(content.read(HEADER_BYTES), info.file_size, words=True)
        except Unusable as error:
            return error

    def _place(self, info: zipfile.ZipInfo) -> int:
        """Where the content of a member begins: behind its own header, which the directory does not measure."""
        with self._opened() as stream:
            stream.seek(info.header_offset)
            start = stream.read(30)
        if len(start) < 30 or start[:4] != b"PK\x03\x04":
            raise Unusable("truncated", f"{info.filename!r} is not where the zip says", "Copy it again")
        return info.header_offset + 30 + sum(struct.unpack("<HH", start[26:30]))


def _directory_bytes(stream: BinaryIO) -> int:
    """How long a zip says that its list of members is, before that is read."""
    size = stream.seek(0, io.SEEK_END)
    start = max(0, size - 2**16 - 22)
    stream.seek(start)
    tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    said = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    far = tail.rfind(b"PK\x06\x07")  # the record of large zips, and where it lies
    if far >= 0:
        stream.seek(min(size, int.from_bytes(tail[far + 8 : far + 16], "little")))
        record = stream.read(56)
        said = max(said if said < 2**32 - 1 else 0, int.from_bytes(record[40:48], "little"))
    stream.seek(0)
    return said


# ---- which of several


LABELS = ("labels", "label", "classes", "class", "targets", "target", "y")
_DATA = ("images", "image", "pictures", "arrays", "array", "samples", "data", "x")


def chosen(shapes: Mapping[str, Sequence[int]], wanted: str, least: int, stored: str) -> str:
    """The name of the array that is the data.

    Args:
        shapes: of all arrays, by name.
        wanted: `data.array`; where it is empty, the only one that can be.
        least: dimensions that the data have at least.
        stored: what a message calls the file: "it", "stack.npz".

    Raises:
        Unusable: there is none, or there are several.
    """
    listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in list(shapes.items())[:8])
    listed += f" and {len(shapes) - 8:,} more" if len(shapes) > 8 else ""
    if wanted:
        if wanted in shapes:
            return wanted
        raise Unusable("array", f"{stored} has no array {wanted!r}, but {listed or 'none'}", "Change data.array")
    possible = [name for name, shape in shapes.items() if len(shape) >= least and name.lower() not in LABELS]
    if len(possible) == 1:
        return possible[0]
    if not possible:
        raise Unusable("array", f"{stored} holds no array of {least} dimensions or more: {listed or 'none'}", AGAIN)
    raise Unusable(
        "array",
        f"{stored} holds {len(shapes):,} arrays: {listed}",
        f"Say which one is the data, e.g. --set data.array={possible[0]}, or save one array a file",
    )


def label_of(names: Sequence[str], data: str) -> str | None:
    """The array that has the labels of the samples in `data`: "labels" for any, "y_train" for "x_train"."""
    words = data.split("_")
    for place, word in enumerate(words):
        if word.lower() in _DATA:
            swapped = ("_".join([*words[:place], label, *words[place + 1 :]]) for label in LABELS)
            if found := next((name for name in swapped if name in names), None):
                return found
    return next((name for name in LABELS if name in names), None)


def told(dtype: np.dtype, shape: Sequence[int]) -> str:
    """ "8 x 8 float32"."""
    return f"{' x '.join(f'{side:,}' for side in shape)} {dtype.name}"
