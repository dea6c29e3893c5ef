"""What lies in a folder, sorted by what each file could be. Nothing is opened."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sfumato.data import names, stacks, zarrs
from sfumato.data.faults import DataError, Fault
from sfumato.data.formats import is_data
from sfumato.data.readers import Unusable
from sfumato.data.records import Record

MARKER = ".sfumato"  # a folder that holds this file was written by Sfumato (runs, caches) and is not data

_TEXTS = frozenset((*names.CAPTIONS, names.DETAILS))


@dataclass
class Listing:
    """The contents of a folder, by relative name with forward slashes.

    Attributes:
        pictures: names with the ending of data that can be read: pictures, arrays, Zarr stores.
        arrays: the paths of those that may be stacks (see `sfumato.data.stacks`).
        texts: caption files and JSON: name -> path of the file itself.
        tables: names of metadata.jsonl and metadata.csv, in any folder.
        shards: names of .tar files.
        others: names of all other files, except hidden ones.
        faults: links that lead out, pipes, and files that cannot be read.
    """

    pictures: dict[str, Record] = field(default_factory=dict)
    arrays: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, Path] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def kinds(self) -> Counter[str]:
        """The endings of all files but pictures and those about the data, with their numbers."""
        return kinds([name for name in (*self.others, *self.texts, *self.tables) if not names.is_about(name)])


def kinds(files: list[str]) -> Counter[str]:
    """The endings of files, with their numbers."""
    return Counter(names.extension(name) or names.NO_ENDING for name in files)


def list_folder(root: Path, array: str = "") -> Listing:
    """The listing of `root` and all folders below it.

    Args:
        array: `data.array`, by which a Zarr store that is one sample is read.

    Raises:
        DataError: a folder cannot be listed.
    """
    found = Listing()
    inside = root.resolve()
    for name, path, store in _walk(root, inside, found):
        extension = names.extension(name)
        picture, table = is_data(extension), name.rpartition("/")[2] in names.TABLES
        if store or (extension == ".zip" and zarrs.holds_store(Path(path))):
            _add_store(found, name, Path(path), array)
            continue
        if not picture and not table and extension != ".tar" and extension not in _TEXTS:
            found.others.append(name)
            continue

        link = False
        try:
            about = os.lstat(path)
            if link := stat.S_ISLNK(about.st_mode):
                path = os.path.realpath(path)
                if not Path(path).is_relative_to(inside) and not table:  # a table is refused when it is read
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
        elif picture:
            stamp = (about.st_size, about.st_mtime_ns)
            found.pictures[name] = Record(name, partial(_content, path), size=about.st_size, stamp=stamp)
            if stacks.is_stackable(name):
                found.arrays[name] = Path(path)
        elif table:
            found.tables.append(name)
        elif extension == ".tar":
            found.shards.append(name)
        else:
            found.texts[name] = Path(path)
    return found


def _content(path: str) -> bytes:
    """The content of what was a file when it was listed; of a pipe or a device that came in its place, never."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Unusable("unreadable", "not a regular file (a pipe, socket or device)", "Move it away")
        return file.read()


def _add_store(found: Listing, name: str, path: Path, array: str) -> None:
    """Adds a Zarr store, a folder or a zip, which is one record of data or a stack of them."""
    try:
        stamp = zarrs.stamp(path)
    except (Unusable, OSError) as error:
        fault = error if isinstance(error, Unusable) else Unusable("unreadable", str(error.strerror), "Repair it")
        found.faults.append(fault.at(name))
        return
    found.pictures[name] = Record(name, partial(stacks.whole, str(path), array), stamp=stamp)
    found.arrays[name] = path


def _walk(root: Path, inside: Path, found: Listing) -> Iterator[tuple[str, str, bool]]:
    """(relative name, path, whether it is a Zarr store) of every file or store, in an order of its own, without hidden
    files and Sfumato's own folders.

    Both are texts: of a million files, `Path` objects would be half of the time and most of the memory.
    """
    for here, folders, files in os.walk(root, followlinks=False, onerror=_refuse):
        at_root = Path(here) == root
        if MARKER in files and not at_root:
            folders.clear()
            continue
        if not at_root and (here.lower().endswith(".zarr") or not zarrs.MARKS.isdisjoint(files)):
            folders.clear()
            yield Path(here).relative_to(root).as_posix(), here, True
            continue
        prefix = "" if at_root else f"{Path(here).relative_to(root).as_posix()}/"
        for name in folders:
            path = Path(here) / name
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                found.faults.append(_leads_out(prefix + name))
        folders[:] = sorted(f for f in folders if not names.is_junk(f))
        for name in sorted(files):
            if not (names.is_junk(name) if "\\" not in name else names.is_hidden(names.key(name))):
                yield prefix + name, os.path.join(here, name), False


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}", "make it readable, or move it out of the data")


def _leads_out(name: str) -> Fault:
    return Fault(name, "link", "it points outside the folder, and nothing outside is read", "Copy the files in instead")
