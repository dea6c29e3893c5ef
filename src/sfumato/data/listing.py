"""What lies in a folder, sorted by what each file could be. Nothing is opened."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sfumato.data import names
from sfumato.data.faults import DataError, Fault
from sfumato.data.formats import is_data
from sfumato.data.records import Record

MARKER = ".sfumato"  # a folder that holds this file was written by Sfumato (runs, caches) and is no data

_TEXTS = frozenset((*names.CAPTIONS, names.DETAILS))


@dataclass
class Listing:
    """What lies in a folder, by relative name with forward slashes.

    Attributes:
        pictures: what ends as a picture that can be read.
        texts: caption files and JSON: name -> path of the file itself.
        tables: names of metadata.jsonl and metadata.csv, in any folder.
        shards: names of .tar files.
        others: names of all other files, but hidden ones.
        faults: links that lead out, pipes, what cannot be asked for.
    """

    pictures: dict[str, Record] = field(default_factory=dict)
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


def list_folder(root: Path) -> Listing:
    """The listing of `root` and all folders below it.

    Raises:
        DataError: a folder cannot be listed.
    """
    found = Listing()
    inside = root.resolve()
    for name, path in _walk(root, inside, found):
        extension = names.extension(name)
        picture = is_data(extension)
        if not picture:
            if name.rpartition("/")[2] in names.TABLES:
                found.tables.append(name)
                continue
            if extension != ".tar" and extension not in _TEXTS:
                found.others.append(name)
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
        elif picture:
            stamp = (about.st_size, about.st_mtime_ns)
            found.pictures[name] = Record(name, partial(_content, path), size=about.st_size, stamp=stamp)
        elif extension == ".tar":
            found.shards.append(name)
        else:
            found.texts[name] = Path(path)
    return found


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _walk(root: Path, inside: Path, found: Listing) -> Iterator[tuple[str, str]]:
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
        folders[:] = sorted(f for f in folders if not names.is_junk(f))
        for name in sorted(files):
            if not (names.is_junk(name) if "\\" not in name else names.is_hidden(names.key(name))):
                yield prefix + name, os.path.join(here, name)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}", "make it readable, or move it out of the data")


def _leads_out(name: str) -> Fault:
    return Fault(name, "link", "it points outside the folder, and nothing outside is read", "Copy the files in instead")
