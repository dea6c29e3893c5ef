"""Section: what a model believes the picture to be, at every step from noise to data."""

from collections.abc import Iterator, Sequence
from html import escape

import torch

from sfumato.diffusion.denoisers import Denoiser, to_x
from sfumato.diffusion.guidance import Guided
from sfumato.diffusion.solvers import Step, sample
from sfumato.explain.pictures import FRAMES, film, row, shown, spread
from sfumato.model import Model
from sfumato.page import Figure, Section, code, formula, number, png
from sfumato.report import Report
from sfumato.settings.sampling import Sampling

PICTURES = 10  # pictures in a row


def walk(
    model: Model, prompt: str | None, seeds: Sequence[int], settings: Sampling, task: str, report: Report
) -> Iterator[Step]:
    """The steps of one batch of a model, with progress to the report."""
    for step in model.steps([prompt] * len(seeds), seeds, settings):
        report.progress(task, step.index, step.total)
        yield step


def section(model: Model, prompt: str | None, seed: int, settings: Sampling, steps: Sequence[Step]) -> Section:
    """The section for the first picture of the batch that was drawn with `settings` in `steps`."""
    schedule, codec = model.denoiser.process.schedule, model.codec
    states = [shown(codec, step.x[0], schedule, step.t) for step in steps]
    means = [codec.pictures(step.mean[:1])[0] for step in steps]

    chosen = spread(len(steps), PICTURES)
    labels = [f"step {steps[i].index}  t {steps[i].t:.2f}" for i in chosen]
    row_of_means = row([means[i] for i in chosen], labels, len(chosen))
    row_of_states = row([states[i] for i in chosen], labels, len(chosen))
    frames = [
        row([states[i], means[i]], [f"state, t = {steps[i].t:.2f}", f"predicted, step {i + 1}"], 2)
        for i in spread(len(steps), FRAMES)
    ]

    asked = f"“{escape(prompt)}”" if prompt else "no prompt"
    alpha, sigma = schedule(torch.tensor(0.5, dtype=torch.float64))
    skip, out = model.denoiser.parameterization(alpha, sigma)
    guided = settings.guidance != 1 and prompt is not None
    return Section(
        f"A model at work: {escape(model.config.name)}",
        [
            f"<p>The same with a network in the place of the exact mean: {asked}, seed {seed}, {settings.steps} steps "
            f"of {settings.solver} on the {settings.grid} "
            f"grid{f', guidance {settings.guidance:g}' if guided else ''}. At every step the network looks at the "
            "noisy state and predicts the clean picture; the solver moves the state a little towards it.</p>",
            formula(
                "<i>D</i>(<i>x<sub>t</sub></i>, <i>t</i>) = <i>c</i><sub>skip</sub> <i>x<sub>t</sub></i> + "
                "<i>c</i><sub>out</sub> <i>F</i>(<i>c</i><sub>in</sub> <i>x<sub>t</sub></i>, <i>t</i>) &ensp; ≈ &ensp; "
                "E[<i>x</i><sub>0</sub> | <i>x<sub>t</sub></i>]",
                Denoiser.predict,
                to_x,
            ),
            f"<p>This model predicts in the parameterization <code>{model.config.diffusion.parameterization}</code>: "
            f"at <i>t</i> = 0.5 its <i>c</i><sub>skip</sub> is {number(float(skip))} and its <i>c</i><sub>out</sub> "
            f"{number(float(out))}. The loop over the steps is {code(sample)}.</p>",
            *(
                [
                    formula(
                        f"<i>D</i> = <i>D</i><sub>null</sub> + {settings.guidance:g} (<i>D</i><sub>prompt</sub> − "
                        "<i>D</i><sub>null</sub>)",
                        Guided,
                    )
                ]
                if guided
                else []
            ),
            Figure(
                "predicted.png",
                png(row_of_means),
                f"The predicted picture at {len(chosen)} steps from noise to data.",
                "The predicted <i>x</i><sub>0</sub>: at first nearly the same from any noise, then one picture.",
            ),
            Figure(
                "states.png",
                png(row_of_states),
                f"The noisy state at the same {len(chosen)} steps.",
                "The states <i>x<sub>t</sub></i> after the same steps.",
            ),
            Figure(
                "sampling.webp",
                film(frames),
                "A film of both: on the left the noisy state becomes a picture, on the right its prediction.",
                "Left the state, right the prediction made on the way to it.",
            ),
        ],
    )
