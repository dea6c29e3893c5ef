"""What a source lists: records of pictures, before any is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.data.faults import DataError, Fault


@dataclass(frozen=True, slots=True)
class Record:
    """One picture before it is read. `locator` is its name relative to the source's root, unique in the source.

    There may be millions: half a kilobyte each is what a source takes.
    """

    locator: str
    fetch: Callable[[], bytes] = field(repr=False, compare=False)
    captions: tuple[str, ...] = ()
    label: str | None = None
    licence: str | None = None
    source: str | None = None
    size: int | None = None  # bytes, where known without reading
    stamp: tuple[int, ...] = ()  # changes when the file does: size, modification time in ns

    def open(self) -> bytes:
        """The bytes of the picture's file."""
        return self.fetch()


@dataclass(frozen=True)
class Source:
    """A list of pictures. `classes` are the labels in order of their index; `faults` were found while listing."""

    root: Path
    layout: str
    records: list[Record]
    classes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    remarks: tuple[str, ...] = ()

    def describe(self) -> str:
        """For people: "class folders: 10 classes, 60,000 pictures, none with captions"."""
        captioned = sum(bool(record.captions) for record in self.records)
        many = sum(len(record.captions) > 1 for record in self.records)
        parts = [count(len(self.classes), "class", "classes")] if self.classes else []
        parts.append(count(len(self.records), "picture"))
        unlabelled = sum(record.label is None for record in self.records)
        if self.classes and unlabelled:
            parts.append(f"{unlabelled:,} without a class")
        if captioned:
            parts.append("all with captions" if captioned == len(self.records) else f"{captioned:,} with captions")
        if many:
            total = sum(len(record.captions) for record in self.records)
            parts.append(f"{total / max(captioned, 1):.1f} captions a picture")
        if self.faults:
            parts.append(f"{count(len(self.faults), 'fault')} in the listing")
        return f"{self.layout}: {', '.join((*parts, *self.remarks))}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """1 -> "1 picture", 2000 -> "2,000 pictures"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Captions with white space collapsed, empty ones dropped and lone surrogates (which no encoder takes) replaced."""
    tidy = (" ".join(text.encode("utf-8", "replace").decode("utf-8").split()) for text in texts)
    return tuple(text for text in tidy if text)


def order_classes(labels: Iterable[str | None]) -> tuple[str, ...]:
    """The distinct labels, sorted as numbers if all of them are, else as text."""
    names = {label for label in labels if label is not None}
    numeric = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numeric else (0, name)))


def check_inside(root: Path, *paths: Path) -> None:
    """Raises `DataError` for a path that a link leads out of `root`: nothing outside of it is read."""
    for path in paths:
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{path} is a link out of {root}, and nothing outside is read", "copy the file in instead")
