"""Texts that come with pictures: one rule for files, members of shards and tables.

Text is UTF-8, with or without a byte order mark, or UTF-16 with one. Anything else is refused: a guess at the encoding
would teach a model words that nobody wrote.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Any

CAPTION_BYTES = 2**16
DETAILS_BYTES = 2**20

TEXT_FIX = "Save it again as plain UTF-8 text"

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes: by its byte order mark, or else UTF-8."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8")


def decode(data: bytes, most: int = CAPTION_BYTES) -> str:
    """The text of at most `most` bytes.

    Raises:
        ValueError: it is too long, in another encoding, or not text at all.
    """
    if len(data) > most:
        raise ValueError(f"{len(data):,} bytes, limit {most:,}")
    return check(data.decode(encoding_of(data)))


def check(text: str) -> str:
    """`text`, unless it holds a NUL: then it was UTF-16 without a mark, or no text."""
    if "\0" in text:
        raise ValueError("it holds zero bytes, as UTF-16 without a byte order mark does")
    return text


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Captions with white space collapsed, empty ones dropped and lone surrogates (which no encoder takes) replaced."""
    encodable = (text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in texts)
    tidy = [" ".join(text.split()) for text in encodable]
    return tuple(text for text in tidy if text)


def details(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        ValueError: it is too long, not text, not JSON, or not an object.
    """
    try:
        row = json.loads(decode(data, DETAILS_BYTES))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is expected, this is {type(row).__name__}")
    return row
