"""Folders of picture files: flat, by class, with caption files, with tables such as metadata.jsonl.

What pairs with a picture by its stem, is named like a picture or looks like captions is read, or is a fault. All other
files are counted by their kinds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sfumato.data import names
from sfumato.data.captions import Pairs, read_captions
from sfumato.data.faults import LAYOUTS, DataError, Fault
from sfumato.data.formats import EXTENSIONS
from sfumato.data.layout import Layout, layout_of
from sfumato.data.listing import Listing, kinds
from sfumato.data.metadata import read_tables, table_names, unread
from sfumato.data.records import Record, Source, count, order_classes, others, shortened

_TABLE_FIX = "Make it metadata.jsonl or metadata.csv with file_name and text (see the layouts), or move it away"


def read_pictures(root: Path, found: Listing, column: str = "") -> Source:
    """The `Source` of the picture files that `found` lists.

    Args:
        column: the column of tables (or the key of JSON beside pictures) whose value is the group.

    Raises:
        DataError: there is no picture, a table is damaged, or the folders are parts of which none is to be trained on.
    """
    if not found.pictures and not found.faults and not any(_is_like_picture(name) for name in found.others):
        raise _nothing(root, found)
    keys = {name: names.key(name) for name in found.pictures}
    layout = layout_of(root, keys.values())
    pictures = found.pictures
    if layout.aside:
        pictures = {name: record for name, record in pictures.items() if layout.uses(keys[name])}
    tables = [name for name in found.tables if layout.uses(name)]
    texts = {name: path for name, path in found.texts.items() if layout.uses(names.key(name))}
    rest = [name for name in found.others if layout.uses(names.key(name))]
    faults = [fault for fault in found.faults if layout.uses(names.key(fault.path))]

    said = read_tables(root, tables, found.pictures, (fault.path for fault in faults), column) if tables else None
    owned = any(layout.prefix.startswith(_folder(table)) for table in tables)  # by a table above the folders of classes
    described = {name: record for name, record in said.described.items() if name in pictures} if said else {}
    pairs = Pairs(pictures) if texts or rest else Pairs(())
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
    ignored = kinds(unread_files) + Counter({".json without a caption": captions.silent})
    return Source(
        root,
        _kind(tables, bool(labels), bool(captions.described)),
        records,
        order_classes(record.label for record in records),
        (*faults, *unread_faults),
        (*layout.remarks, *others(ignored, unread(columns, column))),
        tuple(sorted(columns)),
    )


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
    return record if label is None or record.label is not None else replace(record, label=label)


def _stray(name: str) -> Fault:
    fix = "Move it into the folder of its class, or away"
    return Fault(name, "no class", "it lies beside the folders of the classes", fix)


# ---- what is missing, and what was not read


def _undescribed(
    pictures: Mapping[str, Record], described: Mapping[str, Record], tables: list[str], captioned: bool
) -> list[Fault]:
    """Faults for the pictures that nothing describes where others are described."""
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
    """(files that are no news but by their kinds, faults of those that should have been read)."""
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
        f"{root} holds no pictures, only {count(ignored.total(), 'other file')} ({shortened(sorted(ignored), 6)})",
        f"put pictures into it; they end in {', '.join(sorted(EXTENSIONS))}.\n{LAYOUTS}",
    )
