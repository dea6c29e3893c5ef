"""Tables that describe pictures: metadata.jsonl, metadata.csv and metadata.tsv, in any folder.

A row names a picture, relative to the table's own folder, and says what is known of it: text (or caption), label,
licence, source. Paths with backslashes, absolute paths inside the folder and accents written as on a Mac name what they
mean.
"""

from __future__ import annotations

import csv
import difflib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sfumato.data import names, texts
from sfumato.data.descriptions import CAPTION_KEYS, KEYS, Contradiction, with_row
from sfumato.data.faults import LAYOUTS, DataError, Fault
from sfumato.data.records import Record, check_inside

NAME_KEYS = ("file_name", "filename", "file", "image", "path")
EXAMPLE = 'write lines like {"file_name": "cat_1.png", "text": "a grey cat"}'
_LINE = 2**22  # characters of one line
_HINTS = 20  # nearest names are looked for this often; each search reads every name

Row = Mapping[str, Any]


@dataclass
class Tables:
    """What the tables of a folder say.

    Attributes:
        described: the pictures that a row names.
        faults: rows without a picture, contradictions.
        columns: all names of what rows say.
        beside: the second pictures that a row names, by its picture and column.
        named: the pictures that any column of a row names, beside those that rows are about.
    """

    described: dict[str, Record] = field(default_factory=dict)
    beside: dict[str, dict[str, str]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    orphans: list[tuple[str, str]] = field(default_factory=list)  # (file name as given, where)


def read_tables(
    root: Path,
    tables: Iterable[str],
    pictures: Mapping[str, Record],
    refused: Iterable[str],
    column: str,
    lent: tuple[str, ...] = (),
) -> Tables:
    """What `tables` (names below `root`) say of `pictures`.

    Args:
        refused: names that are faults already, so that a row about one is no further fault.
        column: whose value is the group.
        lent: the columns that name a second picture of the row.

    Raises:
        DataError: a table is damaged, or says nothing of use.
    """
    found, refused = Tables(), set(refused)
    by_key = _ByKey(pictures)
    for table in tables:
        check_inside(root, root / table)
        _read(root, table, by_key, refused, column, lent, found)
    if found.orphans:
        _hint(found, [name for name in pictures if name not in found.described])
    return found


def lent_by(root: Path, tables: Iterable[str], pictures: Mapping[str, Record], columns: Iterable[str]) -> set[str]:
    """The pictures that rows name in `columns` and no row is about: conditions of others, and no data themselves."""
    by_key, lent, own = _ByKey(pictures), set(), set()
    for table in tables:
        check_inside(root, root / table)
        folder, bases = _place(root, table)
        for _, given, row in _rows(root / table):
            own.add(by_key.get(_inside(given, folder, bases) or ""))
            values = (row.get(column) for column in columns)
            lent |= {by_key.get(_inside(value, folder, bases) or "") for value in values if isinstance(value, str)}
    return {name for name in lent - own if name}


class _ByKey:
    """Pictures by the keys of their names; the keys are made when the first name is not a picture's as it stands."""

    def __init__(self, pictures: Mapping[str, Record]) -> None:
        self.pictures = pictures
        self._names: dict[str, str | None] | None = None

    def get(self, key: str) -> str | None:
        """The name of the picture of this key; "" if there is none, None if there are two."""
        if self._names is None:
            self._names = {}
            for name in self.pictures:
                each = names.key(name)
                self._names[each] = name if each not in self._names else None
        return self._names.get(key, "")


def _read(
    root: Path,
    table: str,
    by_key: _ByKey,
    refused: set[str],
    column: str,
    lent: tuple[str, ...],
    found: Tables,
) -> None:
    folder, bases = _place(root, table)
    columns: set[str] = set()
    for number, given, row in _rows(root / table):
        columns.update(row)
        if not folder and given in by_key.pictures:  # the usual case, a million times
            path = name = given
        else:
            path = _inside(given, folder, bases)
            name = by_key.get(path or "")
        if not path or not name:
            _astray(given, path, name, f"line {number} of {table}", refused, found)
            continue
        inside = [f"{folder}/{value}" if folder else value for value in row.values() if isinstance(value, str)]
        found.named.update(value for value in inside if value in by_key.pictures)
        record = found.described.get(name) or by_key.pictures[name]
        for each in lent:
            other = row.get(each)
            second = by_key.get(_inside(other, folder, bases) or "") if isinstance(other, str) and other else ""
            if second:
                found.beside.setdefault(name, {})[each] = second
            else:
                words = f"names {other!r} as its {each!r}, and there is no such file" if other else f"has no {each!r}"
                fix = "Correct the line, or add the file"
                found.faults.append(Fault(name, "condition missing", f"line {number} of {table} {words}", fix))
        try:
            found.described[name] = with_row(record, row, column)
        except Contradiction as error:
            found.described[name] = record
            fault = Fault(name, "ambiguous", f"line {number} of {table}: {error}", "Delete the wrong line")
            found.faults.append(fault)
        except ValueError as error:
            raise DataError(f"{table}, line {number}: {error}", "correct the line") from None
    if (
        not lent
        and not found.named - found.described.keys()
        and not columns & {*CAPTION_KEYS, "label", *([column] if column else [])}
    ):
        raise DataError(
            f'{root / table}: no line has "text" (or "label"); found {", ".join(sorted(columns)) or "no lines at all"}',
            f"{EXAMPLE}.\n{LAYOUTS}",
        )
    found.columns |= columns - set(NAME_KEYS)


def _astray(given: str, path: str | None, name: str | None, where: str, refused: set[str], found: Tables) -> None:
    """Takes down a row that names no single picture inside the folder."""
    if path is None:
        found.faults.append(Fault(given, "link", f"{where} points outside the folder", "Copy the picture in"))
    elif name is None:
        words = f"{where} names two pictures, alike but for the writing of accents"
        found.faults.append(Fault(given, "ambiguous", words, "Rename one of the files"))
    elif path not in refused and given not in refused:
        found.orphans.append((given, where))


def unread(columns: Iterable[str], *used: str) -> set[str]:
    """The columns that nothing is done with."""
    return set(columns) - {*KEYS, *NAME_KEYS, *used}


def _place(root: Path, table: str) -> tuple[str, list[str]]:
    """The folder of a table below the root, and how absolute names inside the root begin."""
    return table.rpartition("/")[0], [f"{root}/", f"{root.resolve()}/"]


def _inside(given: str, folder: str, bases: Iterable[str]) -> str | None:
    """The key of a file named in a table of `folder`, relative to the root; None if it is outside."""
    path = names.key(given)
    for base in bases:
        if path.startswith(base):
            path, folder = path[len(base) :], ""
    if path.startswith("/") or re.match(r"[A-Za-z]:/", path):
        return None
    if folder or ".." in path:
        path = posixpath.normpath(f"{names.key(folder)}/{path}" if folder else path)
    return None if path.startswith("../") or path == ".." else path


def _hint(found: Tables, free: list[str]) -> None:
    """Faults for rows without a picture; every picture is offered once."""
    for given, where in found.orphans:
        near = difflib.get_close_matches(given, free, n=1) if len(found.faults) < _HINTS else []
        hint = f"Did you mean {near[0]}?" if near else "Correct or delete the line"
        found.faults.append(Fault(given, "caption orphaned", f"{where} names no picture here", hint))
        if near:
            free.remove(near[0])


# ---- rows


def _rows(path: Path) -> Iterator[tuple[int, str, Row]]:
    """(line number, name of the picture, row) of a table."""
    for number, row in rows_of(path):
        name = next((row[key] for key in NAME_KEYS if key in row), None)
        if not isinstance(name, str) or not name:
            words = f'{path}, line {number}: "file_name" is missing'
            raise DataError(words, f"{EXAMPLE}; found {', '.join(map(str, row)) or 'nothing'}")
        yield number, name, row


def rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """(line number, row) of a table."""
    try:
        with path.open("rb") as stream:
            encoding = texts.encoding_of(stream.read(4))
        with path.open(encoding=encoding, newline="") as lines:
            yield from _json_rows(path, lines) if path.suffix == ".jsonl" else _csv_rows(path, lines)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason})", "save it again as plain UTF-8 text") from None


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_bounded(path, lines), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})", "write one JSON object a line") from None
        if not isinstance(row, dict):
            array = ": the file is one JSON array" if isinstance(row, list) else ""
            raise DataError(
                f'{path}, line {number}: no JSON object, "file_name" is missing{array}', "write one JSON object a line"
            )
        yield number, row


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table with a head; the separator is the one that the head has most: comma, semicolon or tab."""
    stream = _bounded(path, lines)
    head = next(stream, "")
    separator = max(",;\t", key=head.count)
    reader = csv.reader(stream, delimiter=separator, strict=True)
    columns = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
    try:
        for values in reader:
            if not values:
                continue
            if len(values) != len(columns):
                raise DataError(
                    f"{path}, line {reader.line_num + 1}: {len(values)} fields, and the head has {len(columns)}",
                    f"put quotes around values that hold a {separator!r}",
                )
            yield reader.line_num + 1, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: {error}", "save the table again") from None


def _bounded(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """The lines, unless one is absurdly long or holds what is no text."""
    read = lines.readline  # type: ignore[attr-defined]
    for number, line in enumerate(iter(lambda: read(_LINE), ""), 1):
        if len(line) == _LINE:
            raise DataError(f"{path}, line {number} is longer than {_LINE:,} characters", "write one line a picture")
        if "\0" in line:
            raise DataError(f"{path}, line {number} holds zero bytes", "save it again as plain UTF-8 text")
        yield line


def table_names(tables: Iterable[str]) -> str:
    """The kinds of tables, for people: "metadata.jsonl"."""
    return " and ".join(sorted({PurePosixPath(table).name for table in tables}))
