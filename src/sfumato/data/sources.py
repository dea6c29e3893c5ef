"""Where data come from: one `Source` per layout, recognised by looking, and a sentence that says what was found.

A source lists; it decodes only the headers of arrays. Each `Record` knows how to fetch the bytes of one picture or
array, and its description. Everything that is read lies inside the folder that the user named: links that lead out of
it are faults, and member names of archives are labels, never paths to write to.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path

from sfumato.data import stacks, zarrs
from sfumato.data.catalogue import CATALOGUE, DONE, catalogued
from sfumato.data.faults import LAYOUTS, DataError
from sfumato.data.folders import read_pictures
from sfumato.data.formats import EXTENSIONS
from sfumato.data.groups import column_of, grouped
from sfumato.data.hugging_face import read_hugging_face
from sfumato.data.idx import is_idx, read_idx
from sfumato.data.layout import layout_of
from sfumato.data.listing import Listing, list_folder
from sfumato.data.metadata import unread
from sfumato.data.readers import Unusable
from sfumato.data.records import Asked, Record, Source, count, order_classes, others
from sfumato.data.shards import read_shards

__all__ = ["Record", "Source", "open_source"]


def open_source(path: str | Path, group: str = "", asked: Asked | None = None) -> Source:
    """The `Source` at `path`: a folder in any of the layouts of `LAYOUTS`, a shard, an IDX file, a stack of arrays.

    Args:
        group: which pictures belong together (see `sfumato.data.groups`).
        asked: everything that settings ask for, instead of `group`.

    Raises:
        DataError: there is nothing to train on, with the layouts and the nearest fix; no picture has the group.
        MissingPackage: the data are Zarr, and the package that reads it is not installed.
    """
    asked = asked or Asked(group)
    source = grouped(_recognise(path, asked), asked.group)
    entry = catalogued(source.root)
    if entry is None:
        return source
    licence, origin = entry.licence, ", ".join(package.name for package in entry.packages)
    records = [
        replace(record, licence=record.licence or licence, source=record.source or origin) for record in source.records
    ]
    return replace(source, records=records)


def _recognise(path: str | Path, asked: Asked) -> Source:
    root = Path(os.path.expanduser(path))
    if not root.exists():
        raise DataError(f"{root} does not exist", _nearest(root, str(path)))
    source = _container(root, column_of(asked.group), asked)
    if source is None:
        found = list_folder(root, asked.array)
        if catalogued(root):
            found.texts.pop(DONE, None)
        if not found.shards:
            return read_pictures(root, found, asked)
        source = _shards(root, found, column_of(asked.group))
    if asked.pictures:
        raise DataError(
            f"conditions: the column {asked.pictures[0]!r} shall name second pictures, and {source.layout} has no such",
            "give a folder with metadata.csv or metadata.jsonl, of which a column names them",
        )
    return source


def _container(root: Path, column: str, asked: Asked) -> Source | None:
    """The `Source` of a file or folder that holds many samples as a whole; None for a folder of files."""
    if root.is_file():
        return _file(root.resolve(), column, asked)  # the user named it, wherever it leads
    if zarrs.is_store(root):
        return _stack(root.resolve(), column, asked)
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return read_hugging_face(root, column)
    idx = [path for path in (root / name for name in sorted(os.listdir(root)) if "idx3" in name) if is_idx(path)]
    # The part to train on; the other is for measuring, and is opened by its file name.
    return read_idx(next((path for path in idx if "train" in path.name), idx[0])) if idx else None


def _file(path: Path, column: str, asked: Asked) -> Source:
    """The `Source` of a single file."""
    if path.suffix == ".tar":
        return read_shards(path.parent, [path.name], column=column)
    if is_idx(path):
        return read_idx(path)
    if stacks.is_stackable(path.name) or (path.suffix.lower() == ".zip" and zarrs.holds_store(path)):
        return _stack(path, column, asked)
    if path.suffix.lower() in EXTENSIONS:
        raise DataError(f"{path} is one picture", f"give the folder that holds it, with more beside it.\n{LAYOUTS}")
    if path.suffix.lower() in (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        raise DataError(f"{path} is a packed archive", f"unpack it into a folder and give that.\n{LAYOUTS}")
    raise DataError(f"{path} is a file of no known layout", f"give a folder.\n{LAYOUTS}")


def _stack(path: Path, column: str, asked: Asked) -> Source:
    """The `Source` of one file or Zarr store, of which the first axis is the samples."""
    if asked.stacked is False:
        raise DataError(
            f"data.stacked: false, and {path} is one file, which is then one sample",
            "set data.stacked to true, or give a folder with more files",
        )
    files = {path.name: path}
    stacks.are_stacks(files, asked.stacked, asked.array)
    try:
        record = Record(path.name, path.read_bytes, stamp=zarrs.stamp(path))
    except Unusable as error:
        raise DataError(f"{path}: {error.reason}", error.fix) from None
    beside = {
        each.name: each
        for each in (path.with_name(stacks.stem_of(path.name) + ending) for ending in stacks.BESIDE)
        if each.is_file()
    }
    records, columns, understood = stacks.expanded([record], files, beside, asked.array, column)
    remarks = (understood, *others({}, unread(columns, column)))
    classes = order_classes(record.label for record in records)
    return Source(path.parent, "stack", records, classes, (), remarks, tuple(sorted(columns)), "array")


def _shards(root: Path, found: Listing, column: str) -> Source:
    """The `Source` of a folder of shards, of which those of other parts (test, val) are left aside."""
    if found.pictures:
        raise DataError(
            f"{root} holds both {count(len(found.shards), '.tar shard')} and "
            f"{count(len(found.pictures), 'loose picture')}",
            "move one kind into a folder of its own",
        )
    if found.tables:
        raise DataError(
            f"{root} holds both {count(len(found.shards), '.tar shard')} and {found.tables[0]}, which is not read then",
            "write the captions into the shards, or move the table away",
        )
    layout = layout_of(root, found.shards)
    source = read_shards(root, [name for name in found.shards if layout.uses(name)], found.faults, column)
    remarks = layout.remarks if layout.aside else ()
    return replace(source, remarks=(*remarks, *others(found.kinds()), *source.remarks))


def _nearest(path: Path, said: str) -> str:
    if said in CATALOGUE:
        return f"sfumato data get {said}"
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "give a folder of pictures"
