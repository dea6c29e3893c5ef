"""Where pictures come from: one `Source` per layout, recognised by looking, and a sentence that says what was found.

A source lists; it decodes nothing. Each `Record` knows how to fetch the bytes of one picture and what is said of it.
Everything read lies inside the folder that the user named: links that lead out of it are faults, and member names of
archives are labels, never paths to write to.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path

from sfumato.data.catalogue import CATALOGUE, DONE, catalogued
from sfumato.data.faults import LAYOUTS, DataError
from sfumato.data.folders import read_pictures
from sfumato.data.formats import EXTENSIONS
from sfumato.data.groups import column_of, grouped
from sfumato.data.hugging_face import read_hugging_face
from sfumato.data.idx import is_idx, read_idx
from sfumato.data.layout import layout_of
from sfumato.data.listing import Listing, list_folder
from sfumato.data.records import Record, Source, count, others
from sfumato.data.shards import read_shards

__all__ = ["Record", "Source", "open_source"]


def open_source(path: str | Path, group: str = "") -> Source:
    """The `Source` at `path`: a folder in any of the layouts of `LAYOUTS`, a .tar shard or an IDX file.

    Args:
        group: which pictures belong together (see `sfumato.data.groups`).

    Raises:
        DataError: there is nothing to train on, with the layouts and the nearest fix; no picture has the group.
    """
    source = grouped(_recognise(path, group), group)
    entry = catalogued(source.root)
    if entry is None:
        return source
    licence, origin = entry.licence, ", ".join(package.name for package in entry.packages)
    records = [
        replace(record, licence=record.licence or licence, source=record.source or origin) for record in source.records
    ]
    return replace(source, records=records)


def _recognise(path: str | Path, group: str) -> Source:
    root, column = Path(os.path.expanduser(path)), column_of(group)
    if not root.exists():
        raise DataError(f"{root} does not exist", _nearest(root, str(path)))
    if root.is_file():
        return _file(root.resolve(), column)  # the user named it, wherever it leads
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return read_hugging_face(root, column)

    idx = [path for path in (root / name for name in sorted(os.listdir(root)) if "idx3" in name) if is_idx(path)]
    if idx:
        # The part to train on; the other is for measuring, and is opened by its file name.
        return read_idx(next((path for path in idx if "train" in path.name), idx[0]))
    found = list_folder(root)
    if catalogued(root):
        found.texts.pop(DONE, None)
    if found.shards:
        return _shards(root, found, column)
    return read_pictures(root, found, column)


def _file(path: Path, column: str) -> Source:
    """The `Source` of a single file."""
    if path.suffix == ".tar":
        return read_shards(path.parent, [path.name], column=column)
    if is_idx(path):
        return read_idx(path)
    if path.suffix.lower() in EXTENSIONS:
        raise DataError(f"{path} is one picture", f"give the folder that holds it, with more beside it.\n{LAYOUTS}")
    if path.suffix.lower() in (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        raise DataError(f"{path} is a packed archive", f"unpack it into a folder and give that.\n{LAYOUTS}")
    raise DataError(f"{path} is a file of no known layout", f"give a folder.\n{LAYOUTS}")


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
