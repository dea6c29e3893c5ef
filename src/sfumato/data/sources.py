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

from sfumato.data.catalogue import CATALOGUE, catalogued
from sfumato.data.containers import is_idx, read_hugging_face, read_idx, read_shards
from sfumato.data.faults import LAYOUTS, DataError
from sfumato.data.folders import read_folder
from sfumato.data.readers import EXTENSIONS
from sfumato.data.records import Record, Source, count

__all__ = ["Record", "Source", "open_source"]


def open_source(path: str | Path) -> Source:
    """The `Source` at `path`: a folder in any of the layouts of `LAYOUTS`, a .tar shard or an IDX file.

    Raises `DataError` when there is nothing there to train on, showing the layouts and the nearest fix.
    """
    source = _recognise(path)
    entry = catalogued(source.root)
    if entry is None:
        return source
    licence, origin = entry.licence, ", ".join(package.name for package in entry.packages)
    records = [
        replace(record, licence=record.licence or licence, source=record.source or origin) for record in source.records
    ]
    return replace(source, records=records)


def _recognise(path: str | Path) -> Source:
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"{root} does not exist", _nearest(root, str(path)))
    if root.is_file():
        root = root.resolve()  # the user named it, wherever it leads
        if root.suffix == ".tar":
            return read_shards(root.parent, [root])
        if is_idx(root):
            return read_idx(root)
        if root.suffix.lower() in EXTENSIONS:
            raise DataError(f"{root} is one picture", f"give the folder that holds it, with more beside it.\n{LAYOUTS}")
        if root.suffix.lower() in (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
            raise DataError(f"{root} is a packed archive", f"unpack it into a folder and give that.\n{LAYOUTS}")
        raise DataError(f"{root} is a file of no known layout", f"give a folder.\n{LAYOUTS}")

    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return read_hugging_face(root)

    names = sorted(os.listdir(root))
    shards = [p for p in (root / name for name in names if name.endswith(".tar")) if p.suffix and p.is_file()]
    idx = [p for p in (root / name for name in names if "idx3" in name) if is_idx(p)]
    if idx:
        # The part to train on; the other is for measuring, and is opened by its file name.
        return read_idx(next((p for p in idx if "train" in p.name), idx[0]))
    train, others = _parts(root)
    if train is not None and not shards:
        source = read_folder(train)
        return replace(
            source, remarks=(*source.remarks, f"from {train.name}, left aside: {', '.join(others) or 'none'}")
        )
    source = read_folder(root, expect_pictures=not shards)
    if not shards:
        return source
    if source.records:
        raise DataError(
            f"{root} holds both {count(len(shards), '.tar shard')} and {count(len(source.records), 'loose picture')}",
            "move one kind into a folder of its own",
        )
    return read_shards(root, shards)


def _parts(root: Path) -> tuple[Path | None, list[str]]:
    """(the train folder, names of the other parts) where `root` holds nothing but train, test, val folders."""
    with os.scandir(root) as found:
        entries = [entry for entry in found if not entry.name.startswith(".")]
    folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    if "train" not in folders or not folders <= {"train", "test", "val", "valid", "validation"}:
        return None, []
    extensions = {os.path.splitext(entry.name)[1] for entry in entries}
    if ".jsonl" in extensions or any(extension.lower() in EXTENSIONS for extension in extensions):
        return None, []
    return root / "train", sorted(folders - {"train"})


def _nearest(path: Path, said: str) -> str:
    if said in CATALOGUE:
        return f"sfumato data get {said}"
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "give a folder of pictures"
