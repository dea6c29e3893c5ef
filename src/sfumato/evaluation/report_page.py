"""The page of a report: first pictures and a verdict in plain words, then every number, then model and settings."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from sfumato.durable import write_atomically
from sfumato.evaluation import verdict
from sfumato.evaluation.report import Evaluation, Part, text, to_json, values
from sfumato.measures.interval import Interval
from sfumato.page import PAGE, Figure, Section, number, page, table, write


def html(title: str, found: Evaluation, first: Sequence[Section] = ()) -> tuple[str, list[Section]]:
    """The page, and its sections, whose figures are written beside it; `first` come before all others."""
    facts = "".join(
        f"<li>{escape(name)}: <code>{escape(json.dumps(value))}</code></li>" for name, value in found.about.items()
    )
    sections = [*first, *verdict.sections(found.parts, found.pictures)]
    sections += [Section(escape(part.title), _body(part)) for part in found.parts]
    if found.left_out:
        why = "".join(f"<li>{escape(told)}</li>" for told in found.left_out.values())
        sections.append(Section("Not measured", [f"<ul>{why}</ul>"]))
    sections.append(Section("Of what", [f"<ul>{facts}</ul>"]))
    return page(title, "", sections), sections


def _body(part: Part) -> list[str | Figure]:
    compared = any(row.real for row in part.rows)
    first, second = part.columns
    head = ["", first, "95 %", *([second, "95 %"] if compared else []), "better"]
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


def written(out: Path, title: str, found: Evaluation, first: Sequence[Section] = ()) -> str:
    """Write the report to a folder that is there, and return what the terminal is told.

    Args:
        out: the folder.
        title: the title of the page.
        found: from `sfumato.evaluation.run.evaluate`.
        first: sections of the page before all others.
    """
    content, sections = html(title, found, first)
    write(out, content, sections)
    write_atomically(out / "report.json", to_json(found.about, found.parts))
    for name, text_of_file in found.files.items():
        write_atomically(out / name, text_of_file)
    np.savez(out / "values.npz", **values(found.parts))  # pyright: ignore[reportArgumentType]
    plain = verdict.text(found.parts)
    told = [*found.words, text(found.parts), *([plain] if plain else [])]
    return "\n\n".join([*told, f"{PAGE}, report.json and more in {out.resolve()}"])
