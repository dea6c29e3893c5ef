"""Files that are whole even if the power fails: the one way in which Sfumato writes what it must not lose."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from sfumato.errors import UserError

BLOCK = 2**20  # bytes to write at once if room cannot be reserved
DAMAGED = "its SHA-256 is not the recorded one"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a failing drive into a UserError that names ``what`` and ``folder``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what} could not be written to {folder}: {error.strerror or error}",
            fix="free some space, and the same command goes on from the last checkpoint; or choose another --out",
        ) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError from an open file name the file, as an error from opening it does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_durably(path: Path, content: bytes | str | dict[str, Any]) -> None:
    """Write bytes, text or JSON, and return when they are on the disk.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    with naming(path), path.open("wb") as stream:
        stream.write(_encoded(content))
        stream.flush()
        os.fsync(stream.fileno())


def write_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """A new ``.npy`` file of zeros, mapped into memory.

    Its whole room on the disk is taken first, because writing into a mapped file on a full disk kills the process with
    a bus error.

    Raises:
        OSError: there is no room; names ``path``, and no file is left.
    """
    array = open_memmap(path, "w+", dtype, shape)
    try:
        with naming(path), path.open("r+b") as stream:
            reserve(stream.fileno(), array.offset, array.nbytes)
    except OSError:
        path.unlink()
        raise
    return array


def open_array(path: Path) -> np.ndarray:
    """A ``.npy`` file mapped into memory, for reading.

    Raises:
        ValueError: it is not such a file, damaged, or shorter than its header says. OSError: it cannot be read.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (SyntaxError, TokenError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header cannot be read ({error})") from error


def reserve(handle: int, start: int, length: int) -> None:
    """Take room on the disk for ``length`` bytes from ``start`` of an open file that holds only zeros there."""
    try:
        os.posix_fallocate(handle, start, max(1, length))
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        for place in range(start, start + length, BLOCK):  # a system that cannot promise room: fill it
            os.pwrite(handle, bytes(min(BLOCK, start + length - place)), place)


def write_atomically(path: Path, content: bytes | str | dict[str, Any]) -> None:
    """Replace a file: whenever the power fails, it is the old one or the new one. A failure leaves no other file."""
    with aside(path, content) as written:
        os.replace(written, path)


def write_new(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and never over another; return its path.

    If a file of that name has other content, the new file gets a number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path, content, f"{os.getpid()}.new") as written:  # other processes may draw into the same folder
        number, free = 1, path
        while not (_moved(written, free) or _holds(free, content)):
            number += 1
            free = path.with_stem(f"{path.stem}-{number}")
    return free


@contextmanager
def aside(path: Path, content: bytes | str | dict[str, Any], ending: str = "new") -> Iterator[Path]:
    """Write the content to a file beside ``path`` that can take its name; at the end, delete what is left of it."""
    short = path.name.encode(errors="surrogateescape")[:200]  # a name may be as long as the file system allows
    beside = path.with_name(f".{os.fsdecode(short)}.{ending}")
    try:
        write_durably(beside, content)
        yield beside
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def _moved(beside: Path, path: Path) -> bool:
    """Give a file another name; False if that name is taken."""
    try:
        os.link(beside, path)  # one step, which fails if the name is taken
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists() or path.is_symlink():
            return False
        os.rename(beside, path)
    return True


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file has this content."""
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _encoded(content: bytes | str | dict[str, Any]) -> bytes:
    if isinstance(content, dict):
        content = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True)
    # File names may hold bytes that are not UTF-8: these must not keep a finished run from writing its card.
    return content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
