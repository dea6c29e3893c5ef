"""Section: the posterior q(x_s | x_t, x_0), on one pixel and on the whole picture."""

import torch
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.diffusion.processes import Gaussian
from sfumato.explain.pictures import row, shown
from sfumato.page import Figure, Pair, Section, formula, number, png
from sfumato.plots import BLUE, GREEN, ORANGE, RED, Band, Curve, plot

T = 0.6  # time at which the pixel is seen
T_PICTURE = 0.9  # time at which the picture is seen
STEPS = 50  # steps of the chain whose single steps are shown
EARLIER = torch.linspace(T_PICTURE, 0, 9, dtype=torch.float64)


def along(process: Gaussian, x_t: Tensor, x_0: Tensor, t: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n,) of q(x_s | x_t, x_0) at the times s (n,) for one pixel ()."""
    mean, std = process.posterior(x_t.expand(len(times)), x_0, t, times)
    return mean, std


def section(codec: Codec, process: Gaussian, x_0: Tensor, noise: Tensor) -> Section:
    """The picture x_0 (C, H, W), one noise of its shape, and the process between them."""
    pixels, draws = x_0.double().flatten(), noise.double().flatten()
    mean, variance = pixels.mean(), pixels.var(unbiased=False)
    chosen = int((pixels - mean - variance.sqrt()).abs().argmin())  # about one standard deviation above the mean
    pixel, t = pixels[chosen], torch.tensor(T, dtype=torch.float64)
    x_t = process.forward(pixel, t, draws[chosen])

    s = torch.linspace(0, T, 121, dtype=torch.float64)
    middle, std = along(process, x_t, pixel, t, s)
    alpha, sigma = process.schedule(s)
    centre, width = alpha * mean, (alpha**2 * variance + sigma**2).sqrt()
    reach = torch.cat([centre - width, centre + width, middle - std, middle + std])
    bridge = plot(
        [
            Curve("", s.tolist(), centre.tolist(), ORANGE, True),
            Curve("", s.tolist(), middle.tolist(), BLUE, marks=[(0.0, float(pixel)), (T, float(x_t))]),
        ],
        f"The posterior of a pixel between its value {pixel:.2f} at s = 0 and its noisy value {x_t:.2f} at s = {T}: "
        "the band is narrow at both ends and widest between, well inside the band of the prior.",
        "s",
        "pixel",
        (0, T),
        (float(reach.min()) - 0.1, float(reach.max()) + 0.1),
        bands=[
            Band("prior", s.tolist(), (centre - width).tolist(), (centre + width).tolist(), ORANGE),
            Band("posterior", s.tolist(), (middle - std).tolist(), (middle + std).tolist(), BLUE),
        ],
    )

    later = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS
    before, zero, one = later - 1 / STEPS, torch.zeros(STEPS).double(), torch.ones(STEPS).double()
    of_data, spread = process.posterior(zero, one, later, before)
    of_state, _ = process.posterior(one, zero, later, before)
    highest = float(torch.cat([of_data, of_state, spread]).clamp(max=2).max())
    weights = plot(
        [
            Curve("of x_0", later.tolist(), of_data.tolist(), GREEN),
            Curve("of x_t", later.tolist(), of_state.tolist(), RED),
            Curve("std", later.tolist(), spread.tolist(), BLUE),
        ],
        f"Over {STEPS} steps, the weights of x_0 and of x_t in the posterior mean and its standard deviation: near the "
        "data x_0 decides, near the noise x_t does.",
        "t",
        "weights in the mean, and standard deviation",
        (0, 1),
        (0, 1.05 * highest),
    )

    seen = torch.tensor(T_PICTURE, dtype=torch.float64)
    noisy = process.forward(x_0, seen, noise)
    generator = torch.Generator().manual_seed(1)
    means, drawn = [], []
    for time in EARLIER:
        expected, std = process.posterior(noisy, x_0, seen, time)
        means.append(shown(codec, expected, process.schedule, time))
        sample = expected + std.to(expected) * torch.randn(x_0.shape, generator=generator)
        drawn.append(shown(codec, sample, process.schedule, time))
    labels = [f"mean, s {s:.2f}" for s in EARLIER.tolist()] + [f"draw, s {s:.2f}" for s in EARLIER.tolist()]
    sheet = row(means + drawn, labels, len(EARLIER))

    return Section(
        "The posterior: one step back, if the picture were known",
        [
            "<p>Given the noisy <i>x<sub>t</sub></i> and the clean <i>x</i><sub>0</sub>, an earlier state "
            "<i>x<sub>s</sub></i>, <i>s</i> &lt; <i>t</i>, is Gaussian again. Sampling is this formula with a guess in "
            "the place of <i>x</i><sub>0</sub>.</p>",
            formula(
                "<i>q</i>(<i>x<sub>s</sub></i> | <i>x<sub>t</sub></i>, <i>x</i><sub>0</sub>) = "
                "𝒩(α<sub><i>s</i></sub> <i>x</i><sub>0</sub> + √(σ<sub><i>s</i></sub>² − std²) <i>z</i>, std² I), "
                "&ensp; <i>z</i> = (<i>x<sub>t</sub></i> − α<sub><i>t</i></sub> <i>x</i><sub>0</sub>) / "
                "σ<sub><i>t</i></sub>",
                Gaussian.posterior,
            ),
            formula(
                "std = σ<sub><i>s</i></sub> √(1 − <i>r</i>²), &ensp; <i>r</i> = (σ<sub><i>s</i></sub> / "
                "α<sub><i>s</i></sub>) / (σ<sub><i>t</i></sub> / α<sub><i>t</i></sub>)",
                Gaussian.posterior,
            ),
            "<p>Before anything is seen, a pixel of this picture at the time <i>s</i> is known only as well as the "
            "pixels’ mean <i>m</i> and variance <i>v</i> say:</p>",
            formula(
                "<i>x<sub>s</sub></i> has mean α<sub><i>s</i></sub> <i>m</i> and variance α<sub><i>s</i></sub>² "
                "<i>v</i> + σ<sub><i>s</i></sub>²",
                Gaussian.forward,
            ),
            Pair(
                Figure(
                    "posterior-pixel.svg",
                    bridge.encode(),
                    "",
                    f"One pixel, seen at <i>t</i> = {T}: mean and one standard deviation of its prior (dashed, wide) "
                    f"and its posterior. The dots are <i>x</i><sub>0</sub> = {number(float(pixel))} and "
                    f"<i>x<sub>t</sub></i> = {number(float(x_t))}.",
                ),
                Figure(
                    "posterior-steps.svg",
                    weights.encode(),
                    "",
                    f"Single steps of a chain of {STEPS}, from <i>t</i> to <i>s</i> = <i>t</i> − 1/{STEPS}.",
                ),
            ),
            Figure(
                "posterior-picture.png",
                png(sheet),
                f"Two rows of nine pictures from s = {T_PICTURE} to 0: the posterior mean, and a draw from the "
                "posterior.",
                f"The whole picture, seen at <i>t</i> = {T_PICTURE}. Above the posterior mean, below a draw: the draw "
                "has all the noise of its time, the mean only what the noise that was seen explains.",
            ),
        ],
    )
