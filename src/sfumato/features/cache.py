"""Where features are kept: once for a data set and its settings, whichever folder a report goes to.

Each file is named by the hashes of everything that it was made of (manifest, chosen pictures, settings, weights), so
many evaluations of many models share it. Features can be made again, so the folder is bounded: the most recently used
stay.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from sfumato.user_cache import user_cache

MOST = 2 << 30  # bytes


def feature_cache() -> Path:
    """The folder, which may not exist yet."""
    return user_cache("features")


def used(entry: Path) -> None:
    """Mark the folder as used now."""
    with suppress(OSError):  # a read-only folder is useful as well
        os.utime(entry, ns=(time.time_ns(), entry.stat().st_mtime_ns))


def prune(folder: Path, most: int | None = None) -> None:
    """Delete the least recently used, until at most `most` bytes are left (MOST by default)."""
    entries = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another process prunes, too
            files = [entry] if entry.is_file() else [file for file in entry.rglob("*") if file.is_file()]
            status = entry.stat()
            entries.append((max(status.st_atime, status.st_mtime), sum(file.stat().st_size for file in files), entry))
    excess = sum(size for _, size, _ in entries) - (MOST if most is None else most)
    for _, size, entry in sorted(entries):
        if excess <= 0:
            return
        with suppress(OSError):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            excess -= size
