"""Folders of files, pictures or arrays: flat, by class, with caption files, with tables such as metadata.jsonl.

A file that pairs with a picture by its stem, is named like a picture or looks like captions is read, or is a fault. All
other files are counted by kind.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sfumato.data import names, stacks
from sfumato.data.captions import Pairs, read_captions
from sfumato.data.faults import LAYOUTS, DataError, Fault
from sfumato.data.formats import EXTENSIONS, FURTHER
from sfumato.data.groups import column_of
from sfumato.data.layout import Layout, layout_of
from sfumato.data.listing import Listing, kinds
from sfumato.data.metadata import lent_by, read_tables, table_names, unread
from sfumato.data.records import Asked, Record, Source, check_inside, count, order_classes, others, shortened
from sfumato.errors import unknown

_TABLE_FIX = "Make it metadata.jsonl or metadata.csv with file_name and text (see the layouts), or move it away"


def read_pictures(root: Path, found: Listing, asked: Asked) -> Source:
    """The `Source` of the files that `found` lists.

    Args:
        asked: the group's column is one of tables, or a key of the JSON beside pictures.

    Raises:
        DataError: there is no picture, a table is damaged, or the folders are parts of which none is to be trained on;
            files may be stacks or samples; a column that names second pictures is not there.
    """
    if not found.pictures and not found.faults and not any(_is_like_picture(name) for name in found.others):
        raise _nothing(root, found)
    every, column = found.pictures, column_of(asked.group)
    lent = lent_by(root, found.tables, every, asked.pictures) if asked.pictures else set()
    pictures = {name: record for name, record in every.items() if name not in lent}
    arrays = {name: path for name, path in found.arrays.items() if name in pictures}
    stacked, understood = _are_stacks(pictures, arrays, asked)
    beside = _beside_stacks(root, found, arrays) if stacked else {}

    keys = {name: names.key(name) for name in pictures}
    layout = layout_of(root, keys.values())
    if layout.aside:
        pictures = {name: record for name, record in pictures.items() if layout.uses(keys[name])}
    tables = [name for name in found.tables if layout.uses(name)]
    texts = {name: path for name, path in found.texts.items() if layout.uses(names.key(name))}
    rest = [name for name in found.others if layout.uses(names.key(name))]
    faults = [fault for fault in found.faults if layout.uses(names.key(fault.path))]

    refused = (fault.path for fault in faults)
    said = read_tables(root, tables, every, refused, column, asked.pictures) if tables else None
    owned = any(layout.prefix.startswith(_folder(table)) for table in tables)  # by a table above the folders of classes
    described = {name: record for name, record in said.described.items() if name in pictures} if said else {}
    pairs = Pairs(pictures) if texts or rest else Pairs(())
    second = said.named - said.described.keys() if said else set()  # of other pictures: no samples of their own
    pictures = {name: record for name, record in pictures.items() if name not in second}
    captions = read_captions(texts, {**pictures, **described}, pairs, column)
    described |= captions.described

    labels = _labels(pictures, keys, layout) if layout.classes and not owned else {}
    strays = layout.strays if not owned else frozenset()
    records = [_labelled(described.get(name, record), labels.get(name)) for name, record in pictures.items()]
    missing = _undescribed(pictures, described, tables, bool(captions.described))
    faults += [*(said.faults if said else []), *captions.faults, *missing]
    faults += [_stray(name) for name in (pictures if strays else ()) if keys[name] in strays]
    unread_files, unread_faults = _unread([*rest, *captions.unread], pairs)

    columns = (said.columns if said else set()) | captions.columns
    if asked.pictures:
        _demand_columns(root, asked.pictures, columns)
        records = [_with_conditions(record, said.beside if said else {}, every, asked.pictures) for record in records]
    if stacked:
        records, more, understood = stacks.expanded(records, arrays, beside, asked.array, column)
        columns |= more
    ignored = kinds(unread_files) + Counter({".json without a caption": captions.silent})
    return Source(
        root,
        _kind(tables, bool(labels), bool(captions.described)),
        records,
        order_classes(record.label for record in records),
        (*faults, *unread_faults),
        (
            *([understood] if understood else []),
            *layout.remarks,
            *(
                [f"left aside: {len(second):,} that other columns name (conditions of the kind picture)"]
                if second
                else []
            ),
            *others(ignored, unread(columns, column, *asked.pictures)),
        ),
        tuple(sorted(columns)),
        "array" if pictures and len(arrays) == len(pictures) else "picture",
    )


# ---- stacks, and second pictures


def _are_stacks(pictures: Mapping[str, Record], arrays: Mapping[str, Path], asked: Asked) -> tuple[bool, str]:
    """Whether the arrays are stacks; beside pictures, each array is a sample of its own."""
    if len(arrays) != len(pictures):
        return False, ""
    return stacks.are_stacks(arrays, asked.stacked, asked.array)


def _beside_stacks(root: Path, found: Listing, arrays: Mapping[str, Path]) -> dict[str, Path]:
    """The tables and captions of stacks, taken out of what `found` lists."""
    stems = {stacks.stem_of(name) for name in arrays}
    beside = {name: path for name, path in found.texts.items() if names.extension(name) == ".txt"}
    beside |= {name: root / name for name in found.others if names.extension(name) in stacks.BESIDE}
    beside = {name: path for name, path in beside.items() if names.stem(name) in stems}
    for path in beside.values():
        check_inside(root, path)
    found.others = [name for name in found.others if name not in beside]
    found.texts = {name: path for name, path in found.texts.items() if name not in beside}
    return beside


def _demand_columns(root: Path, wanted: Iterable[str], columns: Iterable[str]) -> None:
    """A DataError for a condition whose column no table has."""
    for column in wanted:
        if column not in columns:
            error = unknown("column", column, columns)
            fix = error.fix or "write metadata.csv with file_name and that column, a second picture for each row"
            raise DataError(f"conditions: {error.message} of the tables in {root}", fix)


def _with_conditions(
    record: Record, beside: Mapping[str, Mapping[str, str]], every: Mapping[str, Record], columns: tuple[str, ...]
) -> Record:
    """`record` with its second pictures; one that lacks some is a fault already."""
    named = beside.get(record.locator, {})
    return replace(record, beside=tuple(every[named[c]] for c in columns)) if len(named) == len(columns) else record


def _kind(tables: list[str], classes: bool, captioned: bool) -> str:
    """The layout in words: "class folders with caption files"."""
    parts = (["class folders"] if classes else []) + ([table_names(tables)] if tables else [])
    parts += ["caption files"] if captioned else []
    return " with ".join(parts) or "flat folder"


def _folder(name: str) -> str:
    """The folder of a file with a slash at its end, "" for the root."""
    return name[: name.rfind("/") + 1]


# ---- classes


def _labels(pictures: Iterable[str], keys: Mapping[str, str], layout: Layout) -> dict[str, str]:
    """The class of every picture that lies in a folder of `layout.prefix`: the folder's name."""
    start = len(layout.prefix)
    labels, same = {}, {}
    for name in pictures:
        key = keys[name]
        if key not in layout.strays:
            label = key[start : key.index("/", start)]
            labels[name] = same.setdefault(label, label)  # one text a class, not one a picture
    return labels


def _labelled(record: Record, label: str | None) -> Record:
    return record if label is None or record.label is not None else record.labelled(label)


def _stray(name: str) -> Fault:
    fix = "Move it into the folder of its class, or away"
    return Fault(name, "no class", "it lies beside the folders of the classes", fix)


# ---- what is missing, and what was not read


def _undescribed(
    pictures: Mapping[str, Record], described: Mapping[str, Record], tables: list[str], captioned: bool
) -> list[Fault]:
    """Faults for the pictures without a description, if others have one."""
    if not described:
        return []
    faults = []
    for name in pictures:
        if name in described:
            continue
        if tables:
            table = PurePosixPath(tables[0]).name
            fix = f'Add {{"file_name": {json.dumps(name)}, "text": "..."}} to {table}, or move the picture away'
            faults.append(Fault(name, "caption missing", f"no line of {table} names it", fix))
        elif captioned:
            fix = f"Write {PurePosixPath(names.stem(name)).name}.txt beside it (an empty file means: no caption)"
            faults.append(Fault(name, "caption missing", "other pictures here have a caption file", fix))
    return faults


def _unread(files: list[str], pairs: Pairs) -> tuple[list[str], list[Fault]]:
    """(files that are only counted by kind, faults for files that should have been read)."""
    passed, faults = [], []
    for name in files:
        kind = names.extension(name)
        paired = pairs.of(name)
        if names.is_about(name) and not paired:
            continue
        if _is_like_picture(name):
            if not paired:
                faults.append(Fault(name, "not read", f"pictures of the kind {kind} are not read", "Convert it to PNG"))
                continue
        elif names.is_like_captions(name):
            faults.append(Fault(name, "not read", "it looks like captions or classes", _TABLE_FIX))
            continue
        elif paired and kind not in names.BESIDE:
            fix = f"Write what it says of the picture into {PurePosixPath(names.stem(name)).name}.txt, or move it away"
            faults.append(
                Fault(name, "not read", f"it pairs with {paired[0]}, and {kind or 'no'} files are not read", fix)
            )
            continue
        passed.append(name)
    return passed, faults


def _is_like_picture(name: str) -> bool:
    return names.extension(name) in names.UNREAD


def _nothing(root: Path, found: Listing) -> DataError:
    ignored = found.kinds()
    if not ignored:
        return DataError(f"{root} is empty", f"put pictures into it.\n{LAYOUTS}")
    return DataError(
        f"{root} holds no pictures or arrays, only {count(ignored.total(), 'other file')} "
        f"({shortened(sorted(ignored), 6)})",
        f"put pictures into it; they end in {', '.join(sorted({*EXTENSIONS, *FURTHER}))}.\n{LAYOUTS}",
    )
