"""Hugging Face datasets on disk: folders written by `datasets.save_to_disk`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from sfumato.data import names
from sfumato.data.descriptions import CAPTION_KEYS
from sfumato.data.faults import LAYOUTS, DataError
from sfumato.data.records import Record, Source, check_inside, order_classes, shortened
from sfumato.data.texts import clean_captions
from sfumato.errors import MissingPackage


def read_hugging_face(root: Path, column: str = "") -> Source:
    """The `Source` of a folder written by `datasets.save_to_disk`: its picture column, captions, labels, and the groups
    in the column `column`."""
    try:
        import datasets
    except ImportError:
        raise MissingPackage("datasets", f"{root}, a Hugging Face dataset,") from None

    check_inside(root, *root.rglob("*"))
    try:
        table = datasets.load_from_disk(str(root))
    except Exception as error:  # Arrow, JSON and the file system each have their own
        raise DataError(
            f"{root} looks like a Hugging Face dataset and cannot be opened: {error}", "save it again"
        ) from error
    part, left = "", []
    if isinstance(table, datasets.DatasetDict):
        part = next((str(name) for name in table if names.part(str(name)) == names.TRAIN), str(next(iter(table), "")))
        if not part:
            raise DataError(f"{root} is a Hugging Face dataset without a split", "save it with at least a train split")
        left = sorted(str(name) for name in table if name != part)
        table = table[part]

    features = table.features
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not pictures:
        raise DataError(
            f"{root}: no column holds pictures (found {', '.join(features)})",
            "cast one with dataset.cast_column(NAME, datasets.Image()) and save it again",
        )
    picture = pictures[0]
    raw = table.select_columns([picture]).cast_column(picture, datasets.Image(decode=False))
    text = next((name for name in CAPTION_KEYS if name in features), None)
    kinds = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label = next(iter(kinds), "label" if "label" in features else None)

    captions = table[text][:] if text else [None] * len(table)
    labels = _labels(table, label, features[label].names if kinds else None) if label else [None] * len(table)
    groups = [_word(value) for value in table[column][:]] if column in features else [None] * len(table)
    state = (root / part / "state.json").stat()
    stamp = (state.st_size, state.st_mtime_ns)
    records = [
        Record(
            locator=f"{part or 'row'}/{index}",
            fetch=partial(_cell, raw, index, picture),
            captions=clean_captions(_strings(caption)),
            label=name,
            stamp=stamp,
            group=group,
        )
        for index, (caption, name, group) in enumerate(zip(captions, labels, groups, strict=True))
    ]
    if not records:
        raise DataError(f"{root} is a Hugging Face dataset with no rows", LAYOUTS)
    classes = tuple(features[label].names) if kinds else order_classes(labels)
    unread = [name for name in features if name not in (picture, text, label, column)]
    remarks = [f"column {picture!r}"]
    remarks += [f"captions from {text!r}"] if text else []
    remarks += [f"classes from {label!r}"] if label else []
    remarks += [f"columns not read: {shortened(unread)}"] if unread else []
    remarks += [f"other splits left aside: {', '.join(left)}"] if left else []
    return Source(root, "Hugging Face dataset", records, classes, (), tuple(remarks), tuple(features))


def _labels(table: Any, column: str, classes: list[str] | None) -> list[str | None]:
    """The class of every row: by its number, or the value itself if the column is not a `ClassLabel`."""
    values = table[column][:]
    if classes is None:
        return [_word(value) for value in values]
    return [None if number is None or number < 0 else classes[number] for number in values]


def _word(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _cell(table: Any, index: int, column: str) -> bytes:
    value = table[index][column]
    if value is None or value["bytes"] is None:
        # A path instead of bytes may point anywhere on the machine; nothing outside the folder is read.
        raise FileNotFoundError("the row holds a path and no bytes: embed the pictures before save_to_disk")
    return value["bytes"]


def _strings(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
