"""A grid of settings, three ways to read it: a table for the terminal, JSON for programs, a page for people."""

import json
from dataclasses import asdict
from html import escape
from pathlib import Path

from sfumato.conditioning.values import words_of
from sfumato.durable import write_atomically
from sfumato.evaluation.comparison_page import of_difference
from sfumato.evaluation.grid import METRICS, Cell, Grid
from sfumato.evaluation.sheets import labelled_rows, strip
from sfumato.generation.recipe import of_picture
from sfumato.page import PAGE, Figure, Section, number, page, png, table, write

SHOWN = 4  # pictures a cell
BEST, NO_WORSE = "★", "≈"
DEEPEST = 0.45  # opacity of the best cell's ground


def mark(grid: Grid, cell: Cell, metric: str) -> str:
    """A star for the best, a sign for those that are not significantly worse."""
    if grid.cells[grid.best[metric]] is cell:
        return BEST
    return NO_WORSE if cell.no_worse(metric) else ""


def text(grid: Grid, metric: str) -> str:
    """The table of one metric for the terminal."""
    rows, columns = grid.axes
    name, better = METRICS[metric]
    cells = [f"{cell.values[metric]} {mark(grid, cell, metric)}" for cell in grid.cells]
    width = max(map(len, [*cells, *columns.labels()])) + 2
    left = max(len(label) for label in rows.labels()) + 2 if rows.name else 0
    lines = [f"{name} of {grid.about['pictures']} pictures, {better} is better", ""]
    lines.append(" " * left + "".join(f"{label:<{width}}" for label in columns.labels()).rstrip())
    for i, label in enumerate(rows.labels()):
        row = cells[i * len(columns.values) : (i + 1) * len(columns.values)]
        lines.append((f"{label:<{left}}" if rows.name else "") + "".join(f"{cell:<{width}}" for cell in row).rstrip())
    return "\n".join([*lines, "", legend(better)])


def legend(better: str) -> str:
    """What the marks mean."""
    test = "paired by seed, Holm's correction over the table"
    return f"{BEST} the {'lowest' if better == 'lower' else 'highest'}, {NO_WORSE} not significantly worse ({test})"


def to_json(grid: Grid, metric: str) -> str:
    """The grid for programs."""
    cells = [
        {
            "settings": dict(cell.changes),
            "sampling": of_picture(cell.settings),
            "metrics": {name: asdict(value) for name, value in cell.values.items()},
            "to_best": {
                name: {**of_difference(found), "p_holm": cell.adjusted.get(name)}
                for name, found in cell.to_best.items()
            },
            "best": [name for name in grid.metrics if mark(grid, cell, name) == BEST],
            "no_worse": [name for name in grid.metrics if cell.no_worse(name)],
            "pictures_per_second": cell.rate,
            "evaluations": cell.samples.evaluations,
        }
        for cell in grid.cells
    ]
    axes = [{"name": axis.name, "values": list(axis.values)} for axis in grid.axes if axis.name]
    told = {**grid.about, "metric": metric, "correction": "Holm", "axes": axes, "cells": cells}
    return json.dumps(told, indent=1, allow_nan=False) + "\n"


def written(grid: Grid, metric: str, out: Path) -> str:
    """Write the page and the JSON to a folder that is there, and return what the terminal is told.

    Args:
        grid: from `sfumato.evaluation.grid.measured`.
        metric: the one that comes first.
        out: the folder.
    """
    ordered = [metric, *(name for name in grid.metrics if name != metric)]
    sections = [Section(escape(METRICS[name][0]), [_table(grid, name)]) for name in ordered]
    sections += [Section("Cost", [_cost(grid)]), Section("Pictures", [sheet(grid)])]
    facts = "".join(
        f"<li>{escape(key)}: <code>{escape(json.dumps(told))}</code></li>" for key, told in grid.about.items()
    )
    varied = " and ".join(escape(axis.name) for axis in grid.axes if axis.name)
    model, pictures, space = grid.about["model"]["name"], grid.about["pictures"], grid.about["features"]["name"]
    introduction = (
        f"<p>{escape(model)} with other {varied}: {pictures} pictures a cell, of the same seeds and prompts, held "
        f"against as many of the data in the features {escape(space)}.</p>"
        f"<details><summary>Of what</summary><ul>{facts}</ul></details>"
    )
    write(out, page("A grid of settings", introduction, sections), sections)
    write_atomically(out / "grid.json", to_json(grid, metric))
    return f"{text(grid, metric)}\n\n{PAGE}, grid.json and more in {out.resolve()}"


def _table(grid: Grid, metric: str) -> str:
    """A heat table: the better, the deeper the ground."""
    better = METRICS[metric][1]
    means = [cell.values[metric].mean for cell in grid.cells]
    worst, best = (max(means), min(means)) if better == "lower" else (min(means), max(means))

    def shown(cell: Cell) -> str:
        value, sign = cell.values[metric], mark(grid, cell, metric)
        share = abs(value.mean - worst) / abs(best - worst) if best != worst else 1.0
        interval = "" if value.low is None else f"<br><small>{number(value.low)} to {number(value.high or 0)}</small>"
        told = f"<b>{number(value.mean)}</b> {sign}" if sign == BEST else f"{number(value.mean)} {sign}".rstrip()
        p = cell.adjusted.get(metric)
        title = "" if p is None else f' title="p {p:.2g} against the best"'
        ground = f"background:rgba(164,80,43,{DEEPEST * share:.2f})"
        return f'<div style="{ground};padding:.3rem .6rem;border-radius:4px"{title}>{told}{interval}</div>'

    caption = f"{better.capitalize()} is better; intervals of 95 %. {legend(better)}. Take the cheapest of these."
    return _by_place(grid, caption, [shown(cell) for cell in grid.cells])


def _cost(grid: Grid) -> str:
    caption = "Network evaluations a picture (both answers of guidance are one), and pictures a second on this machine."
    shown = [f"{cell.samples.evaluations}<br><small>{number(cell.rate)}/s</small>" for cell in grid.cells]
    return _by_place(grid, caption, shown)


def _by_place(grid: Grid, caption: str, shown: list[str]) -> str:
    rows, columns = grid.axes
    width = len(columns.values)
    names = rows.labels() if rows.name else [""]
    body = [[escape(name), *shown[i * width : (i + 1) * width]] for i, name in enumerate(names)]
    return table(caption, ["", *map(escape, columns.labels())], body)


def sheet(grid: Grid) -> Figure:
    """The first pictures of every cell, in the places of the table."""
    rows, columns = grid.axes
    width, n = len(columns.values), min(SHOWN, int(grid.about["pictures"]))
    strips = [strip([grid.picture(row) for row in cell.samples.rows[:n]]) for cell in grid.cells]
    tiles = [strips[i * width : (i + 1) * width] for i in range(len(rows.values))]
    picture = labelled_rows(tiles, rows.labels() if rows.name else [""], columns.labels())
    prompts = [escape(words_of(condition)) for condition in grid.cells[0].samples.conditions[:n]]
    told = f" Asked for: {', '.join(prompts)}." if any(prompts) else ""
    caption = f"The first {n} pictures of every cell, from the same seeds.{told}"
    return Figure("pictures.png", png(picture), "A table of strips of drawn pictures, one a cell.", caption, True)
