"""Caption files beside pictures: cat_1.txt or cat_1.caption or cat_1.json for cat_1.png, also cat_1.png.txt.

Files pair by stem. A file that pairs with a picture and is not read is a fault, so no caption is dropped in silence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sfumato.data import names, texts
from sfumato.data.descriptions import KEYS, Contradiction, with_captions, with_row
from sfumato.data.faults import Fault
from sfumato.data.records import Record

_HINTS = 20  # searches for the nearest name, at most; each reads every name


@dataclass
class Captions:
    """The result of reading caption files.

    Attributes:
        described: the pictures that have a caption file, even an empty one.
        faults: captions that cannot be read, and captions without a picture.
        columns: all keys of the JSON files.
        unread: a few texts without a picture, such as a shopping list.
        silent: number of JSON files beside pictures with nothing useful in them.
    """

    described: dict[str, Record] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    silent: int = 0


class Pairs:
    """Pictures by their stems: `of(name)` are those that a file belongs to."""

    def __init__(self, pictures: Iterable[str]) -> None:
        self._by: dict[str, list[str]] = {}
        for name in pictures:
            self._by.setdefault(names.stem(names.key(name)), []).append(name)

    def of(self, name: str) -> list[str]:
        """The pictures with the stem of `name` ("a.txt": "a.png", "a.jpg"), or else "a.png" of "a.png.txt"."""
        stem = names.stem(names.key(name))
        whole = [picture for picture in self._by.get(names.stem(stem), ()) if names.key(picture) == stem]
        return self._by.get(stem) or whole


def read_captions(files: Mapping[str, Path], pictures: Mapping[str, Record], pairs: Pairs, column: str) -> Captions:
    """Read what caption `files` (name -> path) say about `pictures`, which tables may have described already.

    Args:
        pairs: the pairs of all pictures.
        column: the key of the JSON files whose value is the group.
    """
    found = Captions()
    orphans: list[str] = []
    for name in sorted(files, key=_order):
        paired = pairs.of(name)
        if paired:
            for picture in paired:
                _add(picture, name, files[name], pictures, column, found)
        elif not names.is_about(name):
            orphans.append(name)

    captions = [name for name in orphans if names.extension(name) in names.CAPTIONS]
    if not found.described and 2 * len(captions) < len(pictures):
        found.unread += orphans  # one or two stray text files beside the pictures do not make a caption layout
        return found
    found.unread += [name for name in orphans if names.extension(name) not in names.CAPTIONS]
    free = {names.stem(picture): picture for picture in pictures if picture not in found.described}
    for number, name in enumerate(captions):
        hint = _rename_hint(name, free) if number < _HINTS else "Rename or delete it"
        found.faults.append(Fault(name, "caption orphaned", "no picture has this stem", hint))
    return found


def _order(name: str) -> tuple[int, str]:
    """The order of reading: texts first, then JSON, which may repeat them."""
    return names.extension(name) == names.DETAILS, name


def _add(picture: str, name: str, path: Path, pictures: Mapping[str, Record], column: str, found: Captions) -> None:
    """Add what one file says about one picture."""
    record = found.described.get(picture, pictures[picture])
    try:
        if names.extension(name) == names.DETAILS:
            row = texts.details(_content(path, texts.DETAILS_BYTES))
            if not row.keys() & {*KEYS, column}:
                found.silent += 1
                return
            found.columns.update(row)
            record = with_row(record, row, column)
        else:
            record = with_captions(record, texts.decode(_content(path, texts.CAPTION_BYTES)).splitlines())
    except Contradiction as error:
        found.faults.append(Fault(picture, "ambiguous", f"{PurePosixPath(name).name}: {error}", "Correct it"))
    except (OSError, ValueError) as error:
        reason = f"{PurePosixPath(name).name}: {error}"
        found.faults.append(Fault(picture, "caption unreadable", reason, texts.TEXT_FIX))
    found.described[picture] = record


def _content(path: Path, most: int) -> bytes:
    """At most one byte more than `most`, which is refused later; so a file of many gigabytes is not read."""
    with path.open("rb") as stream:
        return stream.read(most + 1)


def _rename_hint(name: str, free: dict[str, str]) -> str:
    """The fix for a text without a picture. Every picture is offered once, so no two files get the same new name."""
    near = difflib.get_close_matches(names.stem(name), free, n=1, cutoff=0.5)
    if not near:
        return "Rename or delete it"
    target = f"{PurePosixPath(near[0]).name}{names.extension(name)}"
    return f"Rename it to {target}, for {free.pop(near[0])}"
