"""One report, three ways to read it: lines for the terminal, JSON for programs, a page with pictures for people.

A report is a list of parts. A part is a list of rows, each a measured quantity of the drawn pictures and, where there
is one, of as many real pictures beside it: what a perfect model would reach. The basis of a part is all that its
numbers depend on besides the model (feature space, number of pictures, data); two reports are compared part by part,
and only where the basis is the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.measures.interval import Interval
from sfumato.page import PAGE, Figure, Section, number, page, table, write

WIDTH = 48  # letters of a row's name in the terminal


@dataclass(frozen=True)
class Row:
    """A measured quantity.

    Attributes:
        key: by which programs and thresholds know it.
        name: with its unit.
        drawn: of the drawn pictures, or of the model.
        real: of as many real pictures.
        better: "lower", "higher", or "" where neither is.
        values: (N,) one a drawn picture, where it is a mean of such: two models are compared picture by picture.
    """

    key: str
    name: str
    drawn: Interval
    real: Interval | None = None
    better: str = ""
    values: np.ndarray | None = None


@dataclass(frozen=True)
class Part:
    """What is measured in one way.

    Attributes:
        key: by which programs know it.
        title: for people.
        about: what the numbers are and against what to hold them, in plain sentences.
        rows: the numbers.
        basis: what the numbers depend on besides the model, plain values.
        figures: pictures of the page.
        arrays: what another report is compared with besides the rows; kept in `values.npz` as "part.name".
    """

    key: str
    title: str
    about: str
    rows: Sequence[Row]
    basis: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def told(parts: Sequence[Part]) -> dict[str, Any]:
    """The parts as plain values, the entry "parts" of report.json."""
    return {
        part.key: {
            "title": part.title,
            "basis": dict(part.basis),
            "rows": {
                row.key: {
                    "name": row.name,
                    "drawn": asdict(row.drawn),
                    "real": None if row.real is None else asdict(row.real),
                    "better": row.better,
                }
                for row in part.rows
            },
        }
        for part in parts
    }


def to_json(about: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """The report for programs; `about` names model, data and settings."""
    return json.dumps({**about, "parts": told(parts)}, indent=1, allow_nan=False) + "\n"


def values(parts: Sequence[Part]) -> dict[str, np.ndarray]:
    """The values of single pictures by "part.row", and the parts' arrays, for `values.npz`."""
    kept = {f"{part.key}.{row.key}": row.values for part in parts for row in part.rows if row.values is not None}
    return kept | {f"{part.key}.{name}": array for part in parts for name, array in part.arrays.items()}


def text(parts: Sequence[Part]) -> str:
    """The report for the terminal."""
    lines = []
    for part in parts:
        compared = any(row.real for row in part.rows)
        lines += ["", part.title + ("" if not compared else f"{'':{max(2, WIDTH - len(part.title))}}drawn | real")]
        for row in part.rows:
            real = f"  | {row.real}" if row.real else ""
            better = f"  ({row.better} is better)" if row.better else ""
            lines.append(f"  {row.name:<{WIDTH}}{row.drawn}{real}{better}")
    return "\n".join(lines[1:])


def html(
    title: str, introduction: str, parts: Sequence[Part], first: Sequence[Section] = ()
) -> tuple[str, list[Section]]:
    """The page for people, and its sections, whose figures are written beside it; `first` come before the parts."""
    sections = [*first, *(Section(escape(part.title), _body(part)) for part in parts)]
    return page(title, introduction, sections), sections


def _body(part: Part) -> list[str | Figure]:
    compared = any(row.real for row in part.rows)
    head = ["", "drawn", "95 %", *(["real", "95 %"] if compared else []), "better"]
    rows = [
        [
            escape(row.name),
            *_cells(row.drawn),
            *(_cells(row.real) if compared else []),
            row.better,
        ]
        for row in part.rows
    ]
    basis = ", ".join(f"{name} {value}" for name, value in part.basis.items())
    note = [f"<p class='soft'>Comparable only with: {escape(basis)}.</p>"] if basis else []
    return [f"<p>{escape(part.about)}</p>", table("", head, rows), *note, *part.figures]


def _cells(value: Interval | None) -> list[str]:
    if value is None:
        return ["", ""]
    if value.low is None or value.high is None:
        return [number(value.mean), ""]
    return [number(value.mean), f"{number(value.low)} to {number(value.high)}"]


def written(
    out: Path,
    title: str,
    about: Mapping[str, Any],
    parts: Sequence[Part],
    files: Mapping[str, str],
    words: Sequence[str] = (),
    first: Sequence[Section] = (),
) -> str:
    """Write the report to a folder, and return what the terminal is told.

    Args:
        out: a folder that is there.
        title: of the page.
        about: model, data and settings.
        parts: the numbers.
        files: more files by name.
        words: told before the rows.
        first: sections of the page before the parts.
    """
    facts = "".join(
        f"<li>{escape(name)}: <code>{escape(json.dumps(value))}</code></li>" for name, value in about.items()
    )
    content, sections = html(title, f"<details><summary>Of what</summary><ul>{facts}</ul></details>", parts, first)
    write(out, content, sections)
    (out / "report.json").write_text(to_json(about, parts), encoding="utf-8")
    for name, text_of_file in files.items():
        (out / name).write_text(text_of_file, encoding="utf-8")
    np.savez(out / "values.npz", **values(parts))  # pyright: ignore[reportArgumentType]
    return "\n\n".join([*words, text(parts), f"{PAGE}, report.json and more in {out.resolve()}"])
