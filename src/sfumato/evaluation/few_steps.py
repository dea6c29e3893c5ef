"""The best times for few steps of a model: a searched grid beside the named ones.

The search (`sfumato.diffusion.grid_search`) sees other noise than the comparison of the grids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato import registry
from sfumato.conditioning.conditioners import Asked
from sfumato.diffusion.grid_search import search
from sfumato.diffusion.solvers import Step
from sfumato.drawing import SeededNoise
from sfumato.model import Model
from sfumato.report import Report
from sfumato.settings.sampling import Sampling

FINE = 60  # steps of the path that counts as the truth
GREY = 127.5  # levels of 255 a unit of x of pictures


@dataclass(frozen=True)
class Searched:
    """The best times, and what each grid misses.

    Attributes:
        times: (steps + 1,) from 1 to 0.
        misses: grid -> root mean square difference, of what it draws and what many steps do.
        unit: of the misses, in words.
    """

    times: tuple[float, ...]
    misses: dict[str, float]
    unit: str


def search_grid(model: Model, settings: Sampling, conditions: Sequence[Asked], seed: int, report: Report) -> Searched:
    """Search the times of ``settings.steps`` steps, and compare them with the named grids.

    Args:
        model: in evaluation mode.
        settings: how the model draws; its solver must add no noise, or the grids could not be compared.
        conditions: one for each picture; as many pictures are used for the search as for the comparison.
        seed: seed of the first picture.
        report: gets the progress of each part.
    """
    count = len(conditions)
    searched_on, compared_on = range(seed, seed + count), range(seed + count, seed + 2 * count)
    with torch.inference_mode():
        denoiser, condition = model.guided(conditions, settings.model_copy(update={"reuse": 1}))
        found = search(
            denoiser,
            model.start(SeededNoise(searched_on, model.denoiser.process)),
            settings.steps,
            progress=lambda done, total: report.progress("searching", done, total),
            **condition,
        )
    times = tuple(found.tolist())
    named = {name: settings.model_copy(update={"grid": name, "times": ()}) for name in registry.GRIDS}
    ways = {**named, "searched": settings.model_copy(update={"times": times})}
    many = settings.model_copy(update={"grid": "log-snr", "times": (), "steps": FINE, "solver": "dpm++2m"})

    def drawn(name: str, settings: Sampling) -> Tensor:
        def tell(places: range, _: int, step: Step) -> None:
            done = places.start * step.total + len(places) * step.index
            report.progress(f"drawing, {name}", done, count * step.total)

        return torch.cat([x for _, x in model.drawn(conditions, compared_on, settings, on_step=tell)])

    truth = drawn(f"{FINE} steps", many)
    scale, unit = (GREY, "255 levels") if model.codec.pictorial else (1.0, "in units of x")
    misses = {name: scale * (drawn(name, way) - truth).square().mean().sqrt().item() for name, way in ways.items()}
    return Searched(times, misses, unit)
