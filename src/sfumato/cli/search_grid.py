"""`sfumato search-grid`: the best times for a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

from sfumato.cli.progress import Terminal
from sfumato.errors import UserError

if TYPE_CHECKING:
    from sfumato.model import Model
    from sfumato.settings.sampling import Sampling

NOISY = ("ddpm", "edm", "dpm++2m-sde", "sa")
MOST = 20  # steps; more gain nothing from a search


def search_grid(
    model: str,
    /,
    *prompts: str,
    steps: int = 6,
    n: int = 16,
    solver: str | None = None,
    guidance: float | None = None,
    seed: int = 0,
) -> None:
    """Find the best times for a few steps of a model.

    Parameters
    ----------
    model
        Name of a model in the package, or a run or model folder.
    prompts
        What to draw in the search; by default the model's own sample prompts or classes.
    steps
        Steps from noise to picture, at most 20.
    n
        Number of pictures to search on, and to compare on.
    solver
        Solver that adds no noise; the model's own by default.
    guidance
        How strictly to follow the prompt; the model's own by default.
    seed
        Seed of the first picture; the same seed finds the same times.
    """
    for name, value, high in (("steps", steps, MOST), ("n", n, 256)):
        if not 1 <= value <= high:
            raise UserError(f"search-grid: {name} = {value} is outside 1 to {high}", f"set --{name} within the range")

    from sfumato.evaluation.few_steps import search_grid as found_by
    from sfumato.generation.draw import open_model
    from sfumato.measures.interval import digits
    from sfumato.request import Request

    with Terminal() as terminal:
        opened = open_model(model)
        offered = prompts or opened.config.sampling.prompts or opened.classes or (None,)
        changes = {"steps": steps, "times": (), "solver": solver, "guidance": guidance}
        settings = opened.check(Request(tuple(offered), seed=seed, settings=changes))
        if settings.solver in NOISY:
            raise UserError(
                f"solver: {settings.solver} adds noise, so grids cannot be compared by their pictures",
                "choose one without noise, e.g. --solver dpm++2m",
            )
        found = found_by(opened, settings, list(islice(cycle(offered), n)), seed, terminal)

    least = min(found.misses, key=lambda name: found.misses[name])
    print(f"how far {steps} steps of {settings.solver} miss the pictures of many steps ({found.unit}, {n} pictures):\n")
    for name, miss in found.misses.items():
        print(f"  {name:10}{digits(miss):>8}{'  the least' if name == least else ''}")
    print(f"\n{advice(opened, settings, least, found.times)}")


def advice(model: Model, settings: Sampling, least: str, searched: Sequence[float]) -> str:
    """How to draw with the times that miss least; the searched times are recommended only if they won."""
    if least == "searched":
        return f"draw with the searched times: sfumato generate --times {_listed(searched)}"
    lost = f"the search found no better times than those of the grid {least}"
    if least == settings.grid:
        return f"{lost}, which the model has: sfumato generate --steps {settings.steps}"
    times = model.times(settings.model_copy(update={"grid": least, "times": ()})).tolist()
    return f"{lost}: sfumato generate --times {_listed(times)}"


def _listed(times: Sequence[float]) -> str:
    return ",".join(f"{t:.4g}" for t in times)
