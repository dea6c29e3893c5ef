"""The manifest: what a data set was made of, one JSON line for each record, and the SHA-256 that names it.

A row: path, sha256 (of the file), bytes, size ([width, height] of a picture, the shape of an array), mode, and where
known label, captions, licence, source, group, notes (conversions made). The lines are canonical (sorted keys, ASCII),
so equal data have equal hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sfumato.data.readers import Row
from sfumato.data.records import Record

NAME = "manifest.jsonl"


def row(record: Record, digest: str, size: int, read: Row, beside: dict[str, Any] | None = None) -> dict[str, Any]:
    """The manifest's line of one record; unknown values are left out.

    Args:
        beside: path and sha256 of its second pictures, by the names of their conditions.
    """
    values = {
        "path": record.locator,
        "sha256": digest,
        "bytes": size,
        "size": list(read.size),
        "mode": read.mode,
        "label": record.label,
        "captions": list(record.captions),
        "licence": record.licence,
        "source": record.source,
        "group": record.group,
        "notes": list(read.notes),
        "beside": beside or None,
    }
    return {key: value for key, value in values.items() if value not in (None, [])}


def encode(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows -> the bytes of the file. It is ASCII, because file names may hold bytes that are not UTF-8."""
    return b"".join(
        json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
        for values in rows
    )


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a manifest file, in the order of the pictures."""
    with path.open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
