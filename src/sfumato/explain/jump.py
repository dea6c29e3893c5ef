"""Section: all the noise removed in one step, against a little at a time.

The best guess in the mean square is the posterior mean, and it is an average: by the law of total variance

    Var[x_0] = Var[E[x_0 | x_t]] + E[Var[x_0 | x_t]],

so one jump to it has less variance than the data: the part that x_t leaves open is missing. At x_T that is everything,
and the jump lands on the mean of the data. Small steps decide a little at a time, and arrive at the data.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import cosine
from sfumato.diffusion.solvers import DDIM, Step
from sfumato.explain.pictures import row, sharpness
from sfumato.explain.plane import mosaic, panel, paths
from sfumato.explain.toy import Mixture, two_moons
from sfumato.explain.trajectory import walk
from sfumato.keyed import seeded
from sfumato.model import Model
from sfumato.page import Figure, Section, code, formula, number, png, table
from sfumato.plots import BLUE, GREEN, RED, Curve, plot
from sfumato.report import Report
from sfumato.settings.sampling import Sampling

COUNTS = (1, 2, 4, 8, 16, 64)  # steps
POINTS = 2000
NEAR = 3.0  # standard deviations


def variance_share(x: Tensor, data: Mixture) -> float:
    """The variance of points (B, 2) over both axes, as a share of the data's."""
    return float(x.var(dim=0, unbiased=False).sum() / data.covariance.trace())


def near_share(x: Tensor, data: Mixture) -> float:
    """The share of points (B, 2) at most NEAR standard deviations from the nearest centre of the mixture."""
    return float((torch.cdist(x, data.centres).amin(1) <= NEAR * data.std).double().mean())


def on_points(seed: int) -> list[str | Figure]:
    """The experiment in the plane: the same noise, removed in one step or many."""
    data = two_moons(Gaussian(cosine()))
    generator = seeded(seed)
    x = data.process.prior(torch.randn(POINTS, 2, generator=generator, dtype=torch.float64))
    end = torch.zeros((), dtype=torch.float64)

    panels, cells, way, times = [], [], x[None], end[None]
    for steps in COUNTS:
        way, times = paths(data, x, steps, DDIM(), generator)
        words = f"{steps} step{'s' if steps > 1 else ''}"
        panels.append(panel(data, end, way[-1:, :400], words, 236, window=1.5))
        cells.append([words, f"{variance_share(way[-1], data):.3f}", f"{100 * near_share(way[-1], data):.1f} %"])
    drawn = data.draw(POINTS, generator)
    cells.append(["data", f"{variance_share(drawn, data):.3f}", f"{100 * near_share(drawn, data):.1f} %"])
    kept = [variance_share(data(x_t, t), data) for x_t, t in zip(way[:-1], times[:-1], strict=True)]
    curve = plot(
        [
            Curve("small steps", [0, 1], [variance_share(way[-1], data)] * 2, RED, True),
            Curve("one jump from t", times[:-1].tolist(), kept, BLUE, marks=[(1.0, kept[0])]),
        ],
        "The variance of the posterior mean as a share of the data's, rising from 0 at t = 1 to 1 at t = 0.",
        "t",
        "variance, as a share of the data’s",
        (0, 1),
        (0, 1.1),
    )
    return [
        Figure(
            "jump-points.png",
            png(mosaic([panels[:3], panels[3:]]), 192),
            "Where points of noise land after 1, 2, 4, 8, 16 and 64 steps: one step puts all on one spot between the "
            "two moons, where there are no data; 64 steps put them on the moons.",
            "The same noise, removed in 1 to 64 steps of DDIM with the exact posterior mean. Blue: the data.",
        ),
        table(
            f"{POINTS:,} points. Their variance as a share of the data’s, and how many are on a moon (within {NEAR:g} "
            "standard deviations of a centre).",
            ["removed in", "variance", "on a moon"],
            cells,
        ),
        Figure(
            "jump-variance.svg",
            curve.encode(),
            "",
            f"How much variance one jump keeps, from every time on the path of {COUNTS[-1]} steps; what is missing "
            "is what <i>x<sub>t</sub></i> leaves open.",
        ),
    ]


def between(x: Tensor) -> float:
    """The variance of pictures (B, C, H, W) from each other: of a pixel over the batch, averaged over pixels."""
    return float(x.var(dim=0).mean())


def on_pictures(
    model: Model, prompt: str | None, seeds: Sequence[int], settings: Sampling, report: Report
) -> list[str | Figure]:
    """The experiment with a model, by DDIM and without guidance, which would change the posterior mean."""
    counts = sorted({n for n in COUNTS if n < settings.steps} | {settings.steps})
    labels = [f"{n} step{'s' if n > 1 else ''}" for n in counts]
    ends: list[Tensor] = []
    steps: list[Step] = []
    for n, label in zip(counts, labels, strict=True):
        plain = settings.model_copy(update={"steps": n, "solver": "ddim", "guidance": 1.0})
        steps = list(walk(model, prompt, seeds, plain, f"removing the noise in {label}", report))
        ends.append(steps[-1].x)
    rows = zip(*map(model.pictures, ends), strict=True)
    sheet = row([picture for pictures in rows for picture in pictures], labels * len(seeds), len(counts))

    measures = {"variance between the rows": between, "sharpness": lambda x: float(sharpness(x).mean())}
    final = {name: max(measure(ends[-1]), 1e-12) for name, measure in measures.items()}
    cells = []
    for label, x in zip(labels, ends, strict=True):
        found = {name: measure(x) for name, measure in measures.items()}
        shares = [f"{number(value)} ({100 * value / final[name]:.0f} %)" for name, value in found.items()]
        cells.append([label, *shares])

    times = [1.0, *(float(step.t) for step in steps[:-1])]  # where the mean of a step was seen
    curves = [Curve("small steps", [0, 1], [1, 1], RED, True)]
    for (name, measure), colour in zip(measures.items(), (BLUE, GREEN), strict=True):
        shares = [measure(step.mean) / final[name] for step in steps]
        curves.append(Curve(name, times, shares, colour, marks=[(times[0], shares[0])]))
    curve = plot(
        curves,
        "The variance between the rows and the sharpness of pictures predicted in one jump from the time t, as shares "
        "of those of the final pictures.",
        "t",
        "share",
        (0, 1),
        (0, 1.1 * max(max(c.y) for c in curves)),
    )
    return [
        f"<p>And with the model, {len(seeds)} rows from noise of their own, without guidance. From pure noise one jump "
        "gives nearly the same picture in every row, the model’s average for this prompt; with small steps each row "
        "becomes a picture of its own.</p>",
        Figure(
            "jump-pictures.png",
            png(sheet),
            f"{len(seeds)} rows of pictures; in each row the same noise, removed in {', '.join(map(str, counts))} "
            "steps.",
            f"Each row: the same noise, removed in {counts[0]} to {counts[-1]} steps of DDIM.",
        ),
        table(
            f"How much the rows differ ({code(between)}), and how sharp the pictures are: the mean squared difference "
            f"of neighbouring pixels ({code(sharpness)}). In brackets as a share of the last line.",
            ["removed in", *measures],
            cells,
        ),
        Figure(
            "jump-measures.svg",
            curve.encode(),
            "",
            f"One jump from every time on the path of {counts[-1]} steps, as a share of where the path ends.",
        ),
    ]


def section(parts: Sequence[str | Figure]) -> Section:
    """The argument, and the experiments `parts`."""
    return Section(
        "One jump, or many small steps",
        [
            "<p>If the network can predict the picture, why not jump there at once? Because the prediction that errs "
            "least is an average of all pictures that fit, and an average is none of them:</p>",
            formula("Var[<i>x</i><sub>0</sub>] = Var[E[<i>x</i><sub>0</sub> | <i>x<sub>t</sub></i>]] + "
                    "E[Var[<i>x</i><sub>0</sub> | <i>x<sub>t</sub></i>]]", variance_share),
            "<p>The jump keeps the first part only. From pure noise that is nothing at all. A small step removes a "
            "part of the noise, and the next one sees more: the average narrows from step to step to one picture "
            f"({code(DDIM)}).</p>",
            *parts,
        ],
    )  # fmt: skip
