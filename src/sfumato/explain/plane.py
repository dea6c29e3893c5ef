"""Section: points in the plane on their way from noise to data, with the score field that moves them."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sfumato.diffusion import grids
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import cosine
from sfumato.diffusion.solvers import DDIM, Ancestral, Solver, sample
from sfumato.explain.pictures import FRAMES, film, spread
from sfumato.explain.toy import Mixture, two_moons
from sfumato.keyed import seeded
from sfumato.page import Figure, Section, code, formula, png
from sfumato.report import Report

WINDOW = 2.4  # a panel shows [-WINDOW, WINDOW]^2
FINER = 2  # factor of drawing larger and shrinking, so that lines are smooth
GROUND, DENSE, ARROW = (252, 251, 248), (104, 152, 208), (60, 66, 78, 120)
POINT, TRAIL = (190, 58, 48, 255), (150, 30, 40, 110)
PATHS, TRAILS = 240, 16  # number of points, and of those whose path is drawn
MOMENTS = (0.0, 0.45, 0.7, 0.85, 1.0)  # shares of the path in the still picture


def paths(data: Mixture, x: Tensor, steps: int, solver: Solver, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The states (steps + 1, B, 2) from x at t = 1 to t = 0 by the exact denoiser, and their times (steps + 1,).

    Args:
        data: the denoiser with the exact posterior mean.
        x: draws of the prior (B, 2).
        steps: number of steps on the uniform grid.
        solver: DDIM(), which follows the probability-flow ODE, or a solver with fresh noise.
        generator: draws the fresh noise.
    """
    times = grids.uniform(data.process.schedule, steps)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    way = sample(data, x, times, solver, noise)
    return torch.stack([x, *(step.x for step in way)]), times


def panel(data: Mixture, t: Tensor, way: Tensor, title: str, side: int, window: float = WINDOW) -> Image.Image:
    """The density q(x_t) as ground, the score as arrows, the last of the states `way` (n, B, 2) as points with trails.

    An arrow is sigma_t times the score, which is minus the noise that x_t is expected to hold. It is about as long at
    every time, while the score itself grows without bound towards the data.
    """
    size = side * FINER
    scale = size / (2 * window)

    def place(x: Tensor) -> list[tuple[float, float]]:
        return [(scale * (a + window), scale * (window - b)) for a, b in x.tolist()]

    mesh = mesh_of(72, window)
    density = data.log_density(mesh, t).exp()
    share = (density / density.max()).sqrt().reshape(72, 72, 1)
    ground = torch.lerp(torch.tensor(GROUND).double(), torch.tensor(DENSE).double(), share).round().to(torch.uint8)
    picture = Image.fromarray(ground.numpy()).resize((size, size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture, "RGBA")

    _, sigma = data.process.schedule(t)
    if sigma > 0:
        feet = mesh_of(13, window)
        pull = sigma * data.score(feet, t)
        pull = pull / (1 + pull.norm(dim=1, keepdim=True) / 2)  # long arrows are shortened
        for foot, tip in zip(place(feet), place(feet + 0.2 * pull), strict=True):
            pen.line([foot, tip], fill=ARROW, width=FINER)
            pen.circle(tip, 1.3 * FINER, fill=ARROW)

    for i in range(min(TRAILS, way.shape[1])):
        pen.line(place(way[:, i]), fill=TRAIL, width=FINER)
    for a, b in place(way[-1]):
        pen.circle((a, b), 1.7 * FINER, fill=POINT)

    picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture, "RGBA")
    pen.rectangle((0, 0, side, 24), fill=(*GROUND, 225))
    pen.text((9, 5), title, fill=(40, 44, 52), font=ImageFont.load_default(13))
    return picture


def mesh_of(n: int, window: float) -> Tensor:
    """The centres (n^2, 2) of n x n equal tiles of [-window, window]^2, row by row from the upper left."""
    middle = window * ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1)
    y, x = torch.meshgrid(-middle, middle, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def mosaic(rows: Sequence[Sequence[Image.Image]], gap: int = 6) -> Image.Image:
    """Panels of one size in rows, on white."""
    side = rows[0][0].width
    sheet = Image.new("RGB", (len(rows[0]) * (side + gap) - gap, len(rows) * (side + gap) - gap), "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet.paste(picture, (j * (side + gap), i * (side + gap)))
    return sheet


def section(steps: int, seed: int, report: Report) -> Section:
    """The film and the still picture of `steps` steps, from the same noise for both solvers."""
    data = two_moons(Gaussian(cosine()))
    generator = seeded(seed)
    x = data.process.prior(torch.randn(PATHS, 2, generator=generator, dtype=torch.float64))
    solvers = {"ODE (DDIM)": DDIM(), "ancestral": Ancestral()}
    ways = {name: paths(data, x, steps, solver, generator) for name, solver in solvers.items()}

    def panels(i: int, side: int) -> list[Image.Image]:
        return [
            panel(data, times[i], way[: i + 1], f"{name}, t = {times[i]:.2f}", side)
            for name, (way, times) in ways.items()
        ]

    frames = []
    shown = spread(steps + 1, FRAMES)
    for done, i in enumerate(shown, 1):
        frames.append(mosaic([panels(i, 330)]))
        report.progress("filming points in the plane", done, len(shown))
    columns = [panels(round(share * steps), 236) for share in MOMENTS]
    still = mosaic(list(zip(*columns, strict=True)))

    return Section(
        "Points in the plane: the score field, and two ways along it",
        [
            "<p>In the plane everything can be seen at once. The data are two moons, made of narrow Gaussians "
            f"({code(two_moons)}), so that the posterior mean is known exactly and no network is needed:</p>",
            formula(
                "E[<i>x</i><sub>0</sub> | <i>x<sub>t</sub></i>] = Σ<sub><i>k</i></sub> "
                "<i>r<sub>k</sub></i>(<i>x<sub>t</sub></i>) (<i>c<sub>k</sub></i> + α<sub><i>t</i></sub> <i>s</i>² / "
                "<i>S<sub>t</sub></i> (<i>x<sub>t</sub></i> − α<sub><i>t</i></sub> <i>c<sub>k</sub></i>)), &ensp; "
                "<i>S<sub>t</sub></i> = α<sub><i>t</i></sub>² <i>s</i>² + σ<sub><i>t</i></sub>²",
                Mixture.__call__,
            ),
            "<p>Here <i>r<sub>k</sub></i> is the probability that the point comes from the Gaussian <i>k</i>. The "
            "score, the direction in which the noisy density grows fastest, follows from it (Tweedie):</p>",
            formula(
                "∇ log <i>q</i>(<i>x<sub>t</sub></i>) = (α<sub><i>t</i></sub> E[<i>x</i><sub>0</sub> | "
                "<i>x<sub>t</sub></i>] − <i>x<sub>t</sub></i>) / σ<sub><i>t</i></sub>²",
                Mixture.score,
            ),
            "<p>Two ways lead along it. DDIM keeps the noise <i>z</i> of a state and follows the probability-flow ODE; "
            "ancestral sampling adds fresh noise at every step and walks at random. The density "
            "<i>q</i>(<i>x<sub>t</sub></i>) is the same.</p>",
            formula("d(<i>x</i> / α) / d(σ / α) = <i>z</i>", DDIM),
            formula(
                "<i>x<sub>s</sub></i> ~ <i>q</i>(<i>x<sub>s</sub></i> | <i>x<sub>t</sub></i>, E[<i>x</i><sub>0</sub> | "
                "<i>x<sub>t</sub></i>])",
                Ancestral,
            ),
            Figure(
                "plane.webp",
                film(frames),
                "A film of points in the plane: a round cloud of noise becomes two moons, on smooth paths by the ODE "
                "and on rough ones by ancestral sampling; arrows show the score field turning towards the moons.",
                f"{PATHS} points from the same noise in {steps} steps (cosine schedule). Ground: the density "
                "<i>q</i>(<i>x<sub>t</sub></i>); arrows: σ<sub><i>t</i></sub> times the score; lines: where points "
                "came from.",
            ),
            Figure(
                "plane.png",
                png(still, 192),
                "The same film at five times in two rows: the ODE above, ancestral sampling below.",
                "The same at five times.",
            ),
        ],
    )
