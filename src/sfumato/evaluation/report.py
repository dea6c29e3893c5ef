"""A report: lines for the terminal, JSON for programs; `sfumato.evaluation.report_page` is the page for people.

A report is a list of parts. A part is a list of rows, each a measured quantity of the drawn pictures and, if there is
one, of as many real pictures: the value that a perfect model would reach. The basis of a part is everything that its
numbers depend on besides the model (feature space, number of pictures, data); two reports are compared part by part,
and only if the basis is the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sfumato.measures.interval import Interval
from sfumato.page import Figure

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
        about: what the numbers mean, and what to compare them with, in plain sentences.
        rows: the numbers.
        basis: what the numbers depend on besides the model, plain values.
        figures: pictures of the page.
        arrays: what a comparison needs besides the rows; kept in `values.npz` as "part.name".
        columns: what the rows' `drawn` and `real` are, for people.
    """

    key: str
    title: str
    about: str
    rows: Sequence[Row]
    basis: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: tuple[str, str] = ("drawn", "real")


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        about: the model, data and settings of the numbers.
        parts: the numbers.
        files: more files of the report by name.
        words: lines for the terminal besides the rows.
        left_out: metric -> why it was not measured, and what helps.
        pictures: drawn ones beside real ones, at most one figure.
    """

    about: dict[str, Any]
    parts: list[Part]
    files: dict[str, str]
    words: list[str]
    left_out: dict[str, str]
    pictures: list[Figure]


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
        first, second = part.columns
        heading = f"{first} | {second}" if any(row.real for row in part.rows) else first
        lines += ["", f"{part.title:<{WIDTH}}  {heading}".rstrip()]
        for row in part.rows:
            real = f"  | {row.real}" if row.real else ""
            better = f"  ({row.better} is better)" if row.better else ""
            lines.append(f"  {row.name:<{WIDTH - 1}} {row.drawn}{real}{better}")
    return "\n".join(lines[1:])
