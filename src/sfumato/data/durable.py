"""Writes that are on disk when they return."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_durably(path: Path, content: bytes | str | dict[str, Any]) -> None:
    """Write bytes, ASCII text or JSON, and flush to the disk."""
    if isinstance(content, dict):
        content = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True)
    with path.open("wb") as stream:
        stream.write(content if isinstance(content, bytes) else content.encode("ascii"))
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
