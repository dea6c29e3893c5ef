"""Which pictures belong together: frames of one film, slices of one patient, photographs of one product.

Neighbouring frames are nearly the same picture. If one is learned and the other is held out, measurements on held-out
pictures say nothing about new ones. So a group is held out whole, or not at all. `data.group` is one of

    ""            no groups: every file by itself
    "folder"      the folder that the picture lies in; the shard, if its members have no folders
    "patient"     any other word: a column of metadata.jsonl or metadata.csv, a key of the JSON beside a picture
    "(.+)_\\d+"    a pattern with one group in parentheses: what it matches of the name, at its first match
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from sfumato.data import names
from sfumato.data.faults import DataError, Fault
from sfumato.data.records import Record, Source
from sfumato.errors import unknown
from sfumato.settings.data import checked_group

FOLDER = "folder"


class NoGroup(DataError):
    """The data have no such column, key or name to be grouped by."""


def is_pattern(group: str) -> bool:
    """Whether `group` is a regular expression: a column has no parenthesis in its name."""
    return "(" in group


def column_of(group: str) -> str:
    """The column that `group` names, "" if it names none."""
    return "" if group == FOLDER or is_pattern(group) else group


def grouped(source: Source, group: str) -> Source:
    """`source` with the group of every picture; a picture without one is a fault.

    Raises:
        NoGroup: no picture has a group.
        ValueError: the pattern is not a regular expression, or does not have exactly one group.
    """
    if not group:
        return source
    of = _law(checked_group(group))
    records = [replace(record, group=of(record)) for record in source.records]
    lost = [record.locator for record in records if not record.group]
    if len(lost) == len(records) and records:
        raise _nothing(source, group)
    column = column_of(group)
    reason = f"nothing says its {column!r}" if column else f"its name does not match {group!r}"
    fix = "Add it to its line" if column else "Rename it, or change data.group"
    faults = tuple(Fault(name, "no group", reason, fix) for name in lost)
    return replace(source, records=records, faults=(*source.faults, *faults))


def held_out(groups: Sequence[str], fraction: float) -> np.ndarray:
    """Which of N pictures, (N,) bool, are held out so that no group is on both sides.

    Groups are taken in an order that the hashes of their names decide, each if it brings the number of pictures nearer
    to `fraction` N. So the number of held-out pictures is off by at most half of the largest group. Above 0, at least
    one group is held out, the smallest if all are too large.

    Raises:
        DataError: all pictures are of one group.
    """
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(group, len(numbers)) for group in groups), np.int64, len(groups))
    sizes, taken = np.bincount(codes, minlength=len(numbers)), np.zeros(len(numbers), bool)
    if fraction > 0 and len(numbers) < 2:
        name = next(iter(numbers), "")
        raise DataError(
            f"data.group: all {len(groups):,} pictures are of one group, {name!r}, and none can be held out",
            "choose another data.group, or set data.validation to 0",
        )
    wanted, total = fraction * len(groups), 0
    for code in sorted(numbers.values(), key=_places(numbers)):
        if abs(total + sizes[code] - wanted) < abs(total - wanted):
            taken[code], total = True, total + sizes[code]
    if fraction > 0 and not taken.any():
        taken[np.argmin(sizes)] = True
    if len(taken) and taken.all():
        taken[np.argmax(sizes)] = False
    return taken[codes]


def _places(numbers: dict[str, int]) -> Callable[[int], bytes]:
    """Group number -> its place in the order: the hash of its name."""
    places = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest() for name in numbers]
    return places.__getitem__


def _law(group: str) -> Callable[[Record], str | None]:
    if group == FOLDER:
        return lambda record: _folder_of(names.key(record.locator))
    if not is_pattern(group):
        return lambda record: record.group
    pattern = re.compile(group)

    def matched(record: Record) -> str | None:
        match = pattern.search(names.key(record.locator))
        return match[1] if match else None

    return matched


def _folder_of(name: str) -> str:
    """The folder of a picture; of a member of a shard, the folder inside, so that one may lie in many shards."""
    path = PurePosixPath(name)
    shard = next((i for i, part in enumerate(path.parts[:-1]) if part.endswith(".tar")), None)
    if shard is not None and len(path.parts) > shard + 2:
        return "/".join(path.parts[shard + 1 : -1])
    return path.parent.as_posix()


def _nothing(source: Source, group: str) -> NoGroup:
    if is_pattern(group):
        example = source.records[0].locator
        return NoGroup(
            f"data.group: no name in {source.root} matches {group!r}, e.g. {example!r} does not",
            "write a pattern with one group in parentheses, e.g. '(.+)_[0-9]+' for film_01.png, film_02.png",
        )
    if source.columns:
        error = unknown("column", group, [*source.columns, FOLDER])
        return NoGroup(f"data.group: {error.message}", error.fix)
    return NoGroup(
        f"data.group: {group!r} is asked for, and {source.root} has no table with columns",
        "use 'folder', a pattern of the names, or write metadata.csv with that column",
    )
