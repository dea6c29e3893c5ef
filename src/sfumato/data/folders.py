"""Folders of picture files: flat, by class, with caption files, with metadata.jsonl."""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from sfumato.data.faults import LAYOUTS, DataError, Fault
from sfumato.data.readers import EXTENSIONS
from sfumato.data.records import Record, Source, check_inside, clean_captions, count, order_classes

METADATA = "metadata.jsonl"
MADE = "dataset.json"  # written by `sfumato.data.catalogue`
MARKER = ".sfumato"  # a folder that holds this file was written by Sfumato (runs, caches) and is no data
CAPTION_BYTES = 2**16
_HINTS = 20  # nearest names are looked for this often; each search reads every name

_ABOUT_THE_DATA = ("readme", "license", "licence", "copying", "attribution", "credits", "notice", "requirements")


@dataclass
class _Listing:
    """What lies in a folder, by relative name with forward slashes."""

    pictures: dict[str, Record] = field(default_factory=dict)
    texts: dict[str, Path] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_folder(root: Path, expect_pictures: bool = True) -> Source:
    """The `Source` of a folder of picture files. With `expect_pictures`, raises `DataError` if there is none."""
    found = _list(root)
    if not found.pictures and not found.faults:
        if expect_pictures:
            raise _nothing(root, found)
        return Source(root, "flat folder", [])

    if (root / METADATA).is_file():
        return _with_metadata(root, found)

    layout, labels = _labels(found)
    captioned, faults = _captions(found)
    records = [
        replace(record, label=labels.get(name), captions=captioned.get(name, ()))
        for name, record in found.pictures.items()
    ]
    if captioned:
        layout = "caption files" if not labels else f"{layout} with caption files"
    read = {_stem(name) for name in captioned} if captioned else set()
    read |= {_stem(fault.path) for fault in faults}
    unread = [*found.ignored, *(name for name in found.texts if _stem(name) not in read)]
    return Source(root, layout, records, order_classes(labels.values()), (*found.faults, *faults), _others(unread))


# ---- listing


def _list(root: Path) -> _Listing:
    found = _Listing()
    inside = root.resolve()
    for name, path in _walk(root, inside, found):
        extension = os.path.splitext(name)[1].lower()
        if extension not in EXTENSIONS and extension != ".txt":
            found.ignored.append(name)
            continue

        link = False
        try:
            about = os.lstat(path)
            if link := stat.S_ISLNK(about.st_mode):
                path = os.path.realpath(path)
                if not Path(path).is_relative_to(inside):
                    found.faults.append(_leads_out(name))
                    continue
                about = os.stat(path)
        except OSError as error:
            words = "a link to nothing" if link else error.strerror or str(error)
            found.faults.append(Fault(name, "unreadable", words, "Repair or delete it"))
            continue
        if not stat.S_ISREG(about.st_mode):
            found.faults.append(
                Fault(name, "unreadable", "not a regular file (a pipe, socket or folder)", "Move it away")
            )
        elif extension == ".txt":
            found.texts[name] = Path(path)
        else:
            stamp = (about.st_size, about.st_mtime_ns)
            found.pictures[name] = Record(name, partial(_content, path), size=about.st_size, stamp=stamp)
    return found


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _walk(root: Path, inside: Path, found: _Listing) -> Iterator[tuple[str, str]]:
    """(relative name, path) of every file, in an order of its own, without hidden files and Sfumato's own folders.

    Both are texts: of a million files, `Path` objects would be half of the time and most of the memory.
    """
    for here, folders, files in os.walk(root, followlinks=False, onerror=_refuse):
        at_root = Path(here) == root
        if MARKER in files and not at_root:
            folders.clear()
            continue
        prefix = "" if at_root else f"{Path(here).relative_to(root).as_posix()}/"
        for name in folders:
            path = Path(here) / name
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                found.faults.append(_leads_out(prefix + name))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in sorted(files):
            if not name.startswith(".") and not (at_root and name == METADATA):
                yield prefix + name, os.path.join(here, name)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}", "make it readable, or move it out of the data")


def _leads_out(name: str) -> Fault:
    return Fault(name, "link", "it points outside the folder, and nothing outside is read", "Copy the files in instead")


def _nothing(root: Path, found: _Listing) -> DataError:
    others = len(found.ignored) + len(found.texts)
    if not others:
        return DataError(f"{root} is empty", f"put pictures into it.\n{LAYOUTS}")
    kinds = sorted({PurePath(name).suffix.lower() or "no extension" for name in (*found.ignored, *found.texts)})
    return DataError(
        f"{root} holds no pictures, only {count(others, 'other file')} ({', '.join(kinds[:6])})",
        f"put pictures into it; they end in {', '.join(sorted(EXTENSIONS))}.\n{LAYOUTS}",
    )


# ---- labels and caption files


def _labels(found: _Listing) -> tuple[str, dict[str, str]]:
    """Class folders where every picture lies in one of at least two subfolders: the first folder is the class."""
    tops = {name: name.partition("/") for name in found.pictures}
    if all(below for _, _, below in tops.values()) and len({top for top, _, _ in tops.values()}) > 1:
        return "class folders", {name: top for name, (top, _, _) in tops.items()}
    return "flat folder", {}


def _captions(found: _Listing) -> tuple[dict[str, tuple[str, ...]], list[Fault]]:
    """Captions by picture, and the faults of pictures and texts that do not pair. A line of the file is a caption."""
    texts = {_stem(name): name for name in found.texts}
    stems = {name: _stem(name) for name in found.pictures}
    captions: dict[str, tuple[str, ...]] = {}
    faults: list[Fault] = []

    for name, stem in stems.items():
        if stem in texts:
            try:
                captions[name] = _read_caption(found.texts[texts[stem]])
            except (OSError, ValueError) as error:
                reason = f"{PurePosixPath(texts[stem]).name}: {error}"
                faults.append(Fault(name, "caption unreadable", reason, "Save the caption as plain UTF-8 text"))
                captions[name] = ()

    known = set(stems.values())
    orphans = [t for stem, t in texts.items() if stem not in known and not _is_about(t)]
    if not captions and 2 * len(orphans) < len(found.pictures):
        return {}, []  # a stray text file or two beside the pictures: no caption layout

    by_stem = {stem: name for name, stem in stems.items()}
    for number, name in enumerate(orphans):
        hint = _rename_hint(name, by_stem) if number < _HINTS else "Rename or delete it"
        faults.append(Fault(name, "caption orphaned", "no picture has this stem", hint))
    for name, stem in stems.items():
        if stem not in texts:
            fix = f"Write {PurePosixPath(stem).name}.txt beside it (an empty file means: no caption)"
            faults.append(Fault(name, "caption missing", "other pictures here have a caption file", fix))
    return captions, faults


def _read_caption(path: Path) -> tuple[str, ...]:
    if path.stat().st_size > CAPTION_BYTES:
        raise ValueError(f"{path.stat().st_size:,} bytes, limit {CAPTION_BYTES:,}")
    return clean_captions(path.read_bytes().decode("utf-8-sig").splitlines())


def _stem(name: str) -> str:
    """The relative name without its extension."""
    return os.path.splitext(name)[0]


def _others(names: list[str]) -> tuple[str, ...]:
    """The remark about files that were passed by; those about the data (a licence, a readme) are no news."""
    unread = [name for name in names if not _is_about(name) and name != MADE]
    return (f"{count(len(unread), 'other file')} ignored",) if unread else ()


def _is_about(name: str) -> bool:
    return PurePosixPath(name).stem.lower().startswith(_ABOUT_THE_DATA)


def _rename_hint(name: str, by_stem: dict[str, str]) -> str:
    near = difflib.get_close_matches(_stem(name), by_stem, n=1, cutoff=0.5)
    return f"Rename it to {PurePosixPath(near[0]).name}.txt, for {by_stem[near[0]]}" if near else "Rename or delete it"


# ---- metadata.jsonl


def _with_metadata(root: Path, found: _Listing) -> Source:
    check_inside(root, root / METADATA)
    rows = list(_rows(root / METADATA))
    if not any("text" in row or "label" in row for _, row in rows):
        keys = sorted({key for _, row in rows for key in row})
        raise DataError(
            f'{root / METADATA}: no line has "text" (or "label"); found {", ".join(keys) or "no lines at all"}',
            f'write lines like {{"file_name": "cat_1.png", "text": "a grey cat"}}.\n{LAYOUTS}',
        )

    described: dict[str, Record] = {}
    faults = list(found.faults)
    refused = {fault.path for fault in faults}
    for number, row in rows:
        name = PurePosixPath(row["file_name"]).as_posix()
        if name in found.pictures:
            record = described.get(name, found.pictures[name])
            described[name] = replace(
                record,
                captions=record.captions + clean_captions(_texts(row.get("text"), number)),
                label=_optional(row, "label", record.label),
                licence=_optional(row, "licence", _optional(row, "license", record.licence)),
                source=_optional(row, "source", record.source),
            )
        elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            faults.append(Fault(name, "link", f"line {number} points outside the folder", "Copy the picture in"))
        elif name not in refused:
            near = difflib.get_close_matches(name, found.pictures, n=1) if len(faults) < _HINTS else []
            hint = f"Did you mean {near[0]}?" if near else "Correct or delete the line"
            faults.append(Fault(name, "caption orphaned", f"line {number} of {METADATA} names no picture here", hint))
    for name in found.pictures:
        if name not in described:
            fix = f'Add {{"file_name": {json.dumps(name)}, "text": "..."}} to {METADATA}, or move the picture away'
            faults.append(Fault(name, "caption missing", f"no line of {METADATA} names it", fix))

    records = [described.get(name, record) for name, record in found.pictures.items()]
    classes = order_classes(record.label for record in records)
    return Source(root, METADATA, records, classes, tuple(faults), _others([*found.ignored, *found.texts]))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})", "write one JSON object a line") from None
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"]:
                words = f'{path}, line {number}: "file_name" is missing'
                raise DataError(words, 'write lines like {"file_name": "cat_1.png", "text": "a grey cat"}')
            yield number, row


def _texts(value: Any, number: int) -> list[str]:
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f'{METADATA}, line {number}: "text" is {value!r}', "give a string or a list of strings")
    return texts


def _optional(row: dict[str, Any], key: str, default: str | None) -> str | None:
    value = row.get(key)
    return default if value is None else str(value)
