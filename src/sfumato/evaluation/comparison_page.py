"""A comparison, three ways to read it: a table for the terminal, JSON for programs, a page with pictures for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from sfumato.durable import write_atomically
from sfumato.evaluation.compare import same_draws
from sfumato.evaluation.comparison import SIGNIFICANT, Comparison, Line, Side, Test
from sfumato.evaluation.samples import SHOWN
from sfumato.evaluation.sheets import labelled_rows, strip
from sfumato.measures.interval import Difference, Interval
from sfumato.page import PAGE, Figure, Section, number, page, png, table, write

NAMES = 56  # letters of a row's name in the terminal, at most

KINDS = {
    "paired": "pictures of one seed and prompt compared one by one (Student's test)",
    "paired exchange": "a number of whole sets, compared with 200 exchanges within pairs of one seed and prompt",
    "exchange": "the same for pictures that are not pairs: all are exchanged",
    "independent": "two numbers by their intervals, as if they had nothing in common: wider than necessary",
}


def holm_told(count: int) -> str:
    """The meaning of p on a page with so many tests."""
    return (
        f"p has Holm's correction over all {count} tests of this page: if there is no true difference, the chance of "
        f"any p below {SIGNIFICANT} is at most 5 %."
    )


def text(found: Comparison) -> str:
    """The table for the terminal."""
    first, lines = found.sides[0].name, []
    told = [str(value) for line in found.lines for value in line.values if value is not None]
    width = max(map(len, [*told, *(side.name for side in found.sides)]))
    left = min(NAMES, max((len(line.name) for line in found.lines), default=0)) + 2
    for part, rows in groupby(found.lines, lambda line: line.part):
        lines += ["", f"{part:<{left + 2}}" + "".join(f"{side.name:<{width + 2}}" for side in found.sides)]
        for line in rows:
            values = "".join(f"{'-' if value is None else str(value):<{width + 2}}" for value in line.values)
            lines.append(f"  {line.name[:NAMES]:<{left}}{values}".rstrip())
            for side, test in zip(found.sides[1:], line.tests, strict=True):
                if test is not None:
                    lines.append(f"    {side.name} less {first}: {test.difference.interval}{_p(test, line)}")
    tests = count(found)
    told = [holm_told(tests)] if tests else []
    told += [f"{drift.part}, {drift.side}: {drift.told}" for drift in found.drifts]
    return "\n".join([*lines[1:], "", *told, *(f"not compared: {why}" for why in found.apart)])


def _p(test: Test, line: Line) -> str:
    if test.adjusted is None:
        return ""
    better = verdict(line, test)
    return f", p {test.adjusted:.2g}{f', {better}' if better else ''} ({test.kind})"


def verdict(line: Line, test: Test) -> str:
    """Whether the difference is significant, and for better or worse."""
    if not test.significant:
        return ""
    if not line.better:
        return "differs"
    return "better" if (test.difference.interval.mean > 0) == (line.better == "higher") else "worse"


def count(found: Comparison) -> int:
    """The number of tests."""
    return sum(test is not None and test.adjusted is not None for line in found.lines for test in line.tests)


def to_json(found: Comparison) -> str:
    """The comparison for programs."""
    sides = [
        {
            "name": side.name,
            **{key: side.report[key] for key in ("model", "data", "sampling", "seed", "draws") if key in side.report},
        }
        for side in found.sides
    ]
    rows = [
        {
            "part": line.part,
            "row": line.key,
            "name": line.name,
            "better": line.better,
            "values": [None if value is None else asdict(value) for value in line.values],
            "to_first": [None if test is None else _told(line, test) for test in line.tests],
        }
        for line in found.lines
    ]
    told = {
        "sides": sides,
        "tests": count(found),
        "correction": "Holm",
        "rows": rows,
        "drifts": [asdict(drift) for drift in found.drifts],
        "not_compared": list(found.apart),
    }
    return json.dumps(told, indent=1, allow_nan=False) + "\n"


def _told(line: Line, test: Test) -> dict[str, Any]:
    told = of_difference(test.difference)
    return {**told, "p_holm": test.adjusted, "test": test.kind, "verdict": verdict(line, test)}


def of_difference(difference: Difference) -> dict[str, Any]:
    """A difference for programs."""
    return {**asdict(difference.interval), "p": difference.p}


def written(found: Comparison, out: Path) -> str:
    """Write the page and the JSON to a folder that is there, and return what the terminal is told."""
    sections = [_sides(found), _numbers(found)]
    figure = sheet(found.sides)
    if figure is not None:
        sections.append(Section("Pictures", [figure]))
    if found.drifts:
        rows = [
            [escape(drift.part), escape(drift.side), escape(drift.told), "<b>alarm</b>" if drift.alarm else ""]
            for drift in found.drifts
        ]
        sections.append(Section("Drift of groups", [table("", ["", "model", "against the first", ""], rows)]))
    if found.apart:
        why = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.apart)
        told = "<p>Numbers with another basis are other quantities. These parts are left out of the tables:</p>"
        sections.append(Section("Not compared", [f"{told}<ul>{why}</ul>"]))
    names = ", ".join(escape(side.name) for side in found.sides[1:])
    introduction = f"<p>{names} compared with {escape(found.sides[0].name)}, row by row.</p>"
    write(out, page("Models side by side", introduction, sections), sections)
    write_atomically(out / "comparison.json", to_json(found))
    return f"{text(found)}\n\n{PAGE}, comparison.json and more in {out.resolve()}"


def _sides(found: Comparison) -> Section:
    rows = []
    for side in found.sides:
        report = side.report
        name = f'<a href="{escape(side.link)}">{escape(side.name)}</a>' if side.link else escape(side.name)
        model, settings = report.get("model", {}), report.get("sampling", {})
        drawn = ", ".join(
            f"{key} {settings[key]}" for key in ("solver", "grid", "steps", "guidance") if key in settings
        )
        weights = f"<code>{escape(str(model.get('weights_sha256', ''))[:12])}</code>"
        paired = "" if side is found.sides[0] else "yes" if same_draws(found.sides[0].report, report) else "no"
        rows.append([name, escape(str(model.get("name", ""))), weights, escape(drawn), paired])
    head = ["", "model", "weights", "drawn with", "same seeds and prompts as the first"]
    return Section("Models", [table("", head, rows)])


def _numbers(found: Comparison) -> Section:
    first, others = found.sides[0].name, found.sides[1:]
    head = ["", "better", escape(first)]
    for side in others:
        head += [escape(side.name), f"{escape(side.name)} − {escape(first)}", "p", ""]
    tables: list[str | Figure] = []
    for part, lines in groupby(found.lines, lambda line: line.part):
        rows = []
        for line in lines:
            cells = [escape(line.name), line.better, _cell(line.values[0])]
            for value, test in zip(line.values[1:], line.tests, strict=True):
                cells += [_cell(value), *(["", "", ""] if test is None else _test(line, test))]
            rows.append(cells)
        tables.append(table(escape(part), head, rows))
    if not tables:
        return Section("Numbers", ["<p>No part could be compared.</p>"])
    used = {test.kind for line in found.lines for test in line.tests if test and test.adjusted is not None}
    kinds = "".join(f"<li>{kind}: {told}</li>" for kind, told in KINDS.items() if kind in used)
    about = f"<p>Intervals are of 95 %. {holm_told(count(found))} Where p is marked, the difference is significant.</p>"
    return Section("Numbers", [about, *tables, f"<p>The tests:</p><ul>{kinds}</ul>" if kinds else ""])


def _test(line: Line, test: Test) -> list[str]:
    if test.adjusted is None:
        return [_cell(test.difference.interval), "", ""]
    p = "&lt; 0.001" if test.adjusted < 0.001 else f"{test.adjusted:.3f}"
    told = verdict(line, test)
    mark = f"<b>{told}</b>, {test.kind}" if told else f"<span class='soft'>{test.kind}</span>"
    return [_cell(test.difference.interval), f"<b>{p}</b>" if told else p, mark]


def _cell(value: Interval | None) -> str:
    if value is None:
        return "–"
    if value.low is None or value.high is None:
        return number(value.mean)
    return f"{number(value.mean)}<br><small>{number(value.low)} to {number(value.high)}</small>"


def sheet(sides: Sequence[Side]) -> Figure | None:
    """The first pictures of all models with the same prompts and seeds, a row for each; None if there are none."""
    first = sides[0]
    if not first.shown:
        return None
    shown, without = [], []
    for side in sides:
        alike = side is first or same_draws(first.report, side.report)
        if alike and side.shown:
            shown.append((side.name, side.shown))
        else:
            without.append(side.name)
    n = min(SHOWN, *(len(pictures) for _, pictures in shown), len(first.asked))
    tiles = [[strip([pictures[i]], 96) for i in range(n)] for _, pictures in shown]
    picture = labelled_rows(tiles, [name for name, _ in shown], first.asked[:n])
    left_out = f" Without {escape(', '.join(without))}: other seeds or prompts, or no pictures." if without else ""
    caption = f"A row a model, a column a seed and a prompt.{left_out}"
    return Figure("pictures.png", png(picture), "Rows of drawn pictures, one a model.", caption, True)
