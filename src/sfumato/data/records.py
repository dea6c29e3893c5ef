"""What a source lists: records of pictures, before any is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.data.faults import DataError, Fault, printable


@dataclass(frozen=True, slots=True)
class Record:
    """One picture before it is read. `locator` is its name relative to the source's root, unique in the source.

    There may be millions of them; each takes half a kilobyte.
    """

    locator: str
    fetch: Callable[[], bytes] = field(repr=False, compare=False)
    captions: tuple[str, ...] = ()
    label: str | None = None
    licence: str | None = None
    source: str | None = None
    size: int | None = None  # bytes, where known without reading
    stamp: tuple[int, ...] = ()  # changes when the file does: size, modification time in ns
    group: str | None = None  # pictures of one group stay together when some are held out
    beside: tuple[Record, ...] = ()  # pictures that are its conditions, in the order of `Asked.pictures`

    def open(self) -> bytes:
        """The bytes of the picture's file."""
        return self.fetch()

    def labelled(self, label: str) -> Record:
        """The same picture with a class: what `replace` gives in three times the time."""
        return Record(
            self.locator,
            self.fetch,
            self.captions,
            label,
            self.licence,
            self.source,
            self.size,
            self.stamp,
            self.group,
            self.beside,
        )


@dataclass(frozen=True)
class Asked:
    """What settings ask of a source beside its files.

    Attributes:
        group: `data.group`, which pictures belong together (see `sfumato.data.groups`).
        stacked: `data.stacked`, whether files hold many samples (see `sfumato.data.stacks`); None: by its rule.
        array: `data.array`, which array of a file that holds several.
        pictures: the columns that name a second picture of each row.
    """

    group: str = ""
    stacked: bool | None = None
    array: str = ""
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A list of pictures.

    `classes` are the labels in order of their index; `faults` were found while listing; `columns` are the names of all
    that tables, samples or rows say.
    """

    root: Path
    layout: str
    records: list[Record]
    classes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    remarks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    noun: str = "picture"  # of one record

    def describe(self) -> str:
        """For people: "class folders: 2 classes (cat, dog), 60,000 pictures, all with captions"."""
        captioned = sum(bool(record.captions) for record in self.records)
        many = sum(len(record.captions) > 1 for record in self.records)
        names = f" ({shortened(self.classes)})"
        parts = [count(len(self.classes), "class", "classes") + names] if self.classes else []
        parts.append(count(len(self.records), self.noun))
        unlabelled = sum(record.label is None for record in self.records)
        if self.classes and unlabelled:
            parts.append(f"{unlabelled:,} without a class")
        if captioned:
            parts.append("all with captions" if captioned == len(self.records) else f"{captioned:,} with captions")
        if many:
            total = sum(len(record.captions) for record in self.records)
            parts.append(f"{total / max(captioned, 1):.1f} captions a {self.noun}")
        if groups := len({record.group for record in self.records} - {None}):
            parts.append(count(groups, "group"))
        if self.faults:
            parts.append(f"{count(len(self.faults), 'fault')} in the listing")
        return f"{self.layout}: {', '.join((*parts, *self.remarks))}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """1 -> "1 picture", 2000 -> "2,000 pictures"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def shortened(words: Sequence[str], most: int = 8) -> str:
    """The first words, separated by commas, and how many more there are; each has at most 40 characters."""
    shown = [printable(word if len(word) <= 40 else f"{word[:37]}...") for word in words[:most]]
    return ", ".join(shown) + (f" and {len(words) - most:,} more" if len(words) > most else "")


def others(ignored: Mapping[str, int], columns: Iterable[str] = ()) -> tuple[str, ...]:
    """The remarks about kinds of files that were skipped, with counts, and about columns that were not read."""
    kinds = sorted(ignored, key=lambda kind: (-ignored[kind], kind))
    unread = sorted(columns)
    return (
        *([f"ignored: {shortened([f'{ignored[kind]:,} {kind}' for kind in kinds])}"] if kinds else []),
        *([f"columns not read: {shortened(unread)}"] if unread else []),
    )


def order_classes(labels: Iterable[str | None]) -> tuple[str, ...]:
    """The distinct labels, sorted as numbers if all of them are, else as text."""
    names = {label for label in labels if label is not None}
    numeric = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numeric else (0, name)))


def check_inside(root: Path, *paths: Path) -> None:
    """Raise a `DataError` if a link leads the path out of `root`: nothing outside of it is read."""
    for path in paths:
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{path} is a link out of {root}, and nothing outside is read", "copy the file in instead")
