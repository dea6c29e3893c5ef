"""The description of a picture (captions, class, licence, source, group), joined from all files that describe it.

Several files may describe one picture: a caption file, a line of metadata.jsonl, the JSON beside it. Captions add up,
but the same caption is not added twice. Two different classes for one picture are a contradiction, and a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sfumato.data.records import Record
from sfumato.data.texts import clean_captions

CAPTION_KEYS = ("text", "caption", "captions", "prompt")
_ONCE = {"label": "label", "licence": "licence", "license": "licence", "source": "source"}  # key -> field of a record
KEYS = (*CAPTION_KEYS, *_ONCE)


class Contradiction(ValueError):
    """Two different values for something that a picture has only once."""


def with_captions(record: Record, texts: Iterable[str]) -> Record:
    """`record` with the captions added that it does not have yet."""
    return replace(record, captions=_together(record, texts))


def _together(record: Record, texts: Iterable[str]) -> tuple[str, ...]:
    captions = clean_captions(texts)
    if not record.captions:
        return captions
    return record.captions + tuple(caption for caption in captions if caption not in record.captions)


def with_row(record: Record, row: Mapping[str, Any], column: str = "") -> Record:
    """`record` with what `row` says about the picture; the value of `column` becomes its group.

    Raises:
        Contradiction: the row gives another class, licence, source or group than an earlier file.
        ValueError: a value has the wrong type.
    """
    said: dict[str, Any] = {}
    texts: list[str] = []
    for key, value in row.items():
        if key in CAPTION_KEYS:
            texts += _texts(key, value)
        if key in _ONCE:
            _say(said, record, _ONCE[key], _word(key, value))
        if key == column:
            _say(said, record, "group", _word(key, value))
    if texts:
        said["captions"] = _together(record, texts)
    return replace(record, **said) if said else record


def _say(said: dict[str, Any], record: Record, field: str, value: str | None) -> None:
    before = said.get(field, getattr(record, field))
    if value is None:
        return
    if before is not None and before != value:
        raise Contradiction(f"it has two values of {field}: {before!r} and {value!r}")
    said[field] = value


def _texts(key: str, value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f'"{key}" is {value!r}, a string or a list of strings is expected')
    return texts


def _word(key: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, (str, int, float)):
        raise ValueError(f'"{key}" is {value!r}, a word or a number is expected')
    return str(value).encode("utf-8", "replace").decode("utf-8")
