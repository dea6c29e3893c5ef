"""`sfumato compare`: models side by side, or one model over a grid of settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.progress import Terminal
from sfumato.errors import UserError, unknown

if TYPE_CHECKING:
    from sfumato.evaluation.comparison import Side
    from sfumato.evaluation.yardstick import Yardstick
    from sfumato.model import Model
    from sfumato.report import Report

METRICS = ("quality", "statistics", "speed")
FEWEST = 16  # pictures; with fewer there are no intervals


def compare(
    *models: str,
    data: str | None = None,
    metrics: tuple[str, ...] = METRICS,
    grid: tuple[str, ...] = (),
    metric: str = "kid",
    n: int = 200,
    seed: int = 0,
    out: Path = Path("comparison"),
) -> None:
    """Compare models, or settings of one, by the same seeds and prompts.

    Parameters
    ----------
    models
        Two or more models, each compared with the first; with --grid, one.
        Each is a model's name, a run or model folder, or a folder with a report of `sfumato evaluate`.
    data
        Folder of data, or the name of a public data set; best the training data.
    metrics
        What to measure, as in `sfumato evaluate`; quality, statistics and speed by default.
    grid
        A setting of sampling and its values, "steps=5,10,20"; may be given twice.
    metric
        The metric that ranks the cells of a grid: kid, fd (Fréchet distance) or accuracy.
    n
        Number of pictures of each model or cell, and of real ones to compare them with.
    seed
        Seed of every random choice and draw; the same seed gives the same numbers.
    out
        Folder for index.html and more; the same command goes on where it was stopped.
    """
    if n < FEWEST:
        raise UserError(f"compare: n = {n} is not possible", f"set --n to {FEWEST} or more")
    if grid and len(models) != 1:
        raise UserError(f"compare: --grid takes one model, not {len(models)}", "name one model, or leave --grid out")
    if not grid and len(models) < 2:
        raise UserError(
            f"compare: {len(models)} model has nothing to be compared with", "name two models or more, or give --grid"
        )
    with Terminal() as terminal:
        if grid:
            told = of_grid(models[0], data, grid, metric, n, seed, out, terminal)
        else:
            told = side_by_side(models, data, metrics, n, seed, out, terminal)
    print(told)


def of_grid(
    model: str, data: str | None, grid: tuple[str, ...], metric: str, n: int, seed: int, out: Path, report: Report
) -> str:
    """One model over a grid of settings."""
    from sfumato.evaluation import grid as module
    from sfumato.evaluation.grid_page import written
    from sfumato.generation.draw import open_model
    from sfumato.page import folder

    axes = module.axes_of(grid)
    if metric not in module.METRICS:
        raise unknown("metric of a grid", metric, module.METRICS)
    opened = open_model(model)
    if metric == "accuracy" and opened.conditioner.named("class") is None:
        raise UserError("metric: accuracy needs a model with classes, and this has none", "choose --metric kid or fd")
    path = needed(data)
    folder(out)
    found = module.measured(opened, path, axes, n, seed, out, report)
    return written(found, metric if metric in found.metrics else found.metrics[0], out)


def side_by_side(
    models: tuple[str, ...], data: str | None, metrics: tuple[str, ...], n: int, seed: int, out: Path, report: Report
) -> str:
    """Models or reports, each compared with the first."""
    from sfumato.evaluation import comparison
    from sfumato.evaluation.comparison_page import written
    from sfumato.evaluation.settings import METRICS as KNOWN
    from sfumato.generation.draw import open_model
    from sfumato.page import folder

    for name in metrics:
        if name not in KNOWN:
            raise unknown("metric", name, KNOWN)
    names = distinct(models)
    kept = {place for place, model in enumerate(models) if is_report(Path(model), data)}
    opened: list[tuple[int, str, Model]] = []
    for place, (name, model) in enumerate(zip(names, models, strict=True)):
        if place not in kept:
            opened.append((place + 1, name, open_model(model)))
    path = needed(data) if opened else ""
    folder(out)

    sides: dict[int, tuple[Side, Yardstick | None]] = {}
    for place in kept:
        sides[place + 1] = comparison.read(Path(models[place]), names[place]), None
    for place, name, model in opened:
        sides[place] = comparison.evaluated(model, name, place, path, metrics, n, seed, out, report)
    first, *others = (sides[place] for place in sorted(sides))
    exact = [comparison.exact_differences(first[0], side, (first[1], held), seed, report) for side, held in others]
    return written(comparison.side_by_side([first[0], *(side for side, _ in others)], exact), out)


def needed(data: str | None) -> str:
    """The data; a UserError if there are none to measure on."""
    if data is None:
        raise UserError("compare: there are no data to measure on", "give a folder or a data set with --data")
    return data


def is_report(folder: Path, data: str | None) -> bool:
    """Whether a folder stands for its report: if it also holds a model, --data asks to measure that instead."""
    model = any((place / "model.json").is_file() for place in (folder, folder / "model"))
    return (folder / "report.json").is_file() and not (model and data is not None)


def distinct(models: tuple[str, ...]) -> list[str]:
    """The last parts of each path, as many as tell the models apart; a model that is named twice gets a number."""
    paths = [Path(model).parts or (model,) for model in models]
    depth = next(
        depth
        for depth in range(1, max(map(len, paths)) + 1)
        if len({parts[-depth:] for parts in paths}) == len(set(paths))
    )
    names = ["/".join(parts[-depth:]) for parts in paths]
    return [
        name if names.index(name) == place else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]
