"""Which pictures belong together: frames of one film, slices of one patient, photographs of one product.

Neighbouring frames are nearly the same picture. Where one is learned and the other is held out, what is measured on
held-out pictures says nothing of new ones. So a group is held out whole, or not at all. `data.group` is one of

    ""            no groups: every file for itself
    "folder"      the folder that the picture lies in; the shard, where its members have no folders
    "patient"     any other word: a column of metadata.jsonl or metadata.csv, a key of the JSON beside a picture
    "(.+)_\\d+"    a pattern with one group in parentheses: what it matches of the name, at its first match
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

from sfumato.data import names
from sfumato.data.faults import DataError, Fault
from sfumato.data.records import Record, Source
from sfumato.errors import unknown

FOLDER = "folder"


def is_pattern(group: str) -> bool:
    """Whether `group` is a regular expression: a column has no parenthesis in its name."""
    return "(" in group


def check(group: str) -> str:
    """`group`, if it is one of the four.

    Raises:
        ValueError: a pattern that is none, or without exactly one group.
    """
    if is_pattern(group):
        try:
            found = re.compile(group).groups
        except re.error as error:
            raise ValueError(f"group = {group!r} is no regular expression: {error}") from None
        if found != 1:
            raise ValueError(
                f"group = {group!r} has {found} groups: put one pair of parentheses around what is the same"
            )
    return group


def column_of(group: str) -> str:
    """The column that `group` names, "" if it names none."""
    return "" if group == FOLDER or is_pattern(group) else group


def grouped(source: Source, group: str) -> Source:
    """`source` with the group of every picture; a picture without one is a fault.

    Raises:
        DataError: no picture has a group.
    """
    if not group:
        return source
    of = _law(group)
    records = [replace(record, group=of(record)) for record in source.records]
    lost = [record.locator for record in records if not record.group]
    if len(lost) == len(records) and records:
        raise _nothing(source, group)
    column = column_of(group)
    reason = f"nothing says its {column!r}" if column else f"its name does not match {group!r}"
    fix = "Add it to its line" if column else "Rename it, or change data.group"
    faults = tuple(Fault(name, "no group", reason, fix) for name in lost)
    return replace(source, records=records, faults=(*source.faults, *faults))


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


def _nothing(source: Source, group: str) -> DataError:
    if is_pattern(group):
        example = source.records[0].locator
        return DataError(
            f"data.group: no name in {source.root} matches {group!r}, e.g. {example!r} does not",
            "write a pattern with one group in parentheses, e.g. '(.+)_[0-9]+' for film_01.png, film_02.png",
        )
    if source.columns:
        error = unknown("column", group, [*source.columns, FOLDER])
        return DataError(f"data.group: {error.message}", error.fix)
    return DataError(
        f"data.group: {group!r} is asked for, and {source.root} has no table with columns",
        "use 'folder', a pattern of the names, or write metadata.csv with that column",
    )
