"""Reading files that may be damaged or hostile: the size before the content, and every number within bounds.

A file can claim anything: a sparse file has 20 GiB on a disk of 1 GiB, and a short file of nested lists needs a hundred
times its size in memory. Files from outside are read with these functions, so reading costs no more than expected, or
the file is refused in words.
"""

from __future__ import annotations

import json
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import UserError, shown
from sfumato.machine import free_memory

MOST_ENTRIES = 1_000_000  # commas of a JSON text: each may be an object of a hundred bytes in memory
LARGEST_HEADER = 8 * 2**20  # bytes of the names and shapes in a safetensors file
MOST_DIMENSIONS = 8
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def size_of(file: Path, fix: str = "give a file of a usual kind") -> int:
    """The size in bytes of an ordinary file: not a folder, a pipe or a device that never ends.

    Raises:
        UserError: it is not a file. OSError: it is not there.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise UserError(f"{file} is {kind} and no file", fix)
    return status.st_size


def read_bytes(file: Path, limit: int, fix: str = "give another file") -> bytes:
    """The content of a file of at most ``limit`` bytes; a larger file is not read.

    Raises:
        UserError: it is larger, or not a file. OSError: it cannot be read.
    """
    size = size_of(file, fix)
    if size <= limit:
        with file.open("rb") as stream:
            data = stream.read(limit + 1)  # a file may grow, and those of the system say 0
        size = len(data)
        if size <= limit:
            return data
    raise UserError(f"{file}: {size:,} bytes, more than the limit of {limit:,}", fix)


def parse_json(data: bytes | str, entries: int = MOST_ENTRIES) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has more than ``entries`` entries.
    """
    commas = data.count(b",") if isinstance(data, bytes) else data.count(",")
    if commas > entries:
        raise ValueError(f"more than {entries:,} entries")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("lists or groups too deep in each other") from error


def read_json(file: Path, limit: int, fix: str = "give another file") -> Any:
    """The value in a JSON file of at most ``limit`` bytes.

    Raises:
        UserError: it is too large, or not JSON. OSError: it cannot be read.
    """
    data = read_bytes(file, limit, fix)
    try:
        return parse_json(data)
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({shown(str(error))})", fix) from error


@dataclass(frozen=True)
class TensorFile:
    """The header of a safetensors file, checked against the size of the file.

    Attributes:
        shapes: the shape of each tensor by name.
        bytes: the size of the whole file.
    """

    shapes: dict[str, tuple[int, ...]]
    bytes: int

    @property
    def elements(self) -> int:
        return sum(map(math.prod, self.shapes.values()))


def read_tensor_file(file: Path) -> TensorFile:
    """The header of a safetensors file; the tensors are not read.

    Raises:
        ValueError: it is something else, or contradicts itself.
        UserError: it holds more than the free memory, or is not a file. OSError: it cannot be read.
    """
    size = size_of(file)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError(f"its header would have {length:,} bytes")
        header = parse_json(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no group of tensors")
    header.pop("__metadata__", None)
    shapes, ends = {}, [0]
    for name, entry in header.items():
        try:
            shapes[name], end = entry_of(entry, size)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the entry of {shown(name)} cannot be") from error
        ends.append(end)
    if 8 + length + max(ends) != size:
        raise ValueError(f"it has {size:,} bytes, and its header names {8 + length + max(ends):,}")
    free = free_memory()
    if 2 * size > free:  # the file, and the tensors that it becomes
        raise UserError(
            f"{file}: its {size / 2**30:.1f} GiB of weights need twice that in memory, of which {free / 2**30:.1f} GiB "
            "are free",
            "close other programs, or use a machine with more memory",
        )
    return TensorFile(shapes, size)


def entry_of(entry: dict[str, Any], size: int) -> tuple[tuple[int, ...], int]:
    """The shape of a tensor and where it ends, in bytes after the header, of a file of ``size`` bytes."""
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if len(shape) > MOST_DIMENSIONS or not all(type(n) is int and 0 <= n <= size for n in (*shape, start, end)):
        raise ValueError("a number beyond the file")
    if end - start != math.prod(shape) * BYTES[entry["dtype"]]:
        raise ValueError("another size than its shape has")
    return tuple(shape), end
