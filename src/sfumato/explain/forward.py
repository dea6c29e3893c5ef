"""Section: a picture turns into noise, under the linear and the cosine schedule side by side."""

import torch
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import Schedule, cosine, linear_beta
from sfumato.explain.pictures import FRAMES, film, row, shown
from sfumato.page import Figure, Section, code, formula, number, png, table

TIMES = torch.linspace(0, 1, 9, dtype=torch.float64)
SIDE_BY_SIDE = {"linear": linear_beta(), "cosine": cosine()}


def noised(x_0: Tensor, schedule: Schedule, times: Tensor, noise: Tensor) -> Tensor:
    """Draws of q(x_t | x_0) (n, C, H, W) at the times (n,), all with the same noise (C, H, W), like x_0."""
    count = len(times)
    return Gaussian(schedule).forward(x_0.expand(count, *x_0.shape), times, noise.expand(count, *noise.shape))


def section(codec: Codec, x_0: Tensor, noise: Tensor) -> Section:
    """The picture x_0 (C, H, W) and one noise of its shape."""
    rows, snrs = [], {}
    for name, schedule in SIDE_BY_SIDE.items():
        snrs[name] = schedule.log_snr(TIMES).exp().tolist()
        states = noised(x_0, schedule, TIMES, noise)
        pictures = [shown(codec, x, schedule, t) for x, t in zip(states, TIMES, strict=True)]
        labels = [
            f"t {t:.3g}  SNR {snr:.{'2g' if snr > 1e-3 else '0e'}}"
            for t, snr in zip(TIMES.tolist(), snrs[name], strict=True)
        ]
        sheet = row(pictures, labels, len(pictures))
        told = ", ".join(f"{snr:.2g} at t = {t:.3g}" for t, snr in zip(TIMES.tolist(), snrs[name], strict=True))
        alt = f"The picture at nine times from data to noise under the {name} schedule; its SNR is {told}."
        rows.append(Figure(f"forward-{name}.png", png(sheet), alt, f"The {name} schedule."))

    film_times = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    states = {name: noised(x_0, schedule, film_times, noise) for name, schedule in SIDE_BY_SIDE.items()}
    frames = []
    for i, t in enumerate(film_times):
        pair = [shown(codec, states[name][i], schedule, t) for name, schedule in SIDE_BY_SIDE.items()]
        labels = [f"{name}, t = {t:.2f}" for name in SIDE_BY_SIDE]
        frames.append(row(pair, labels, columns=2))
    moving = Figure(
        "forward.webp",
        film(frames),
        "A film: the same picture drowns in the same noise, under the linear schedule faster than under the cosine "
        "one.",
        "The noise ε stays the same, only its share grows: left linear, right cosine.",
    )

    cells = [
        [f"{t:.3g}", *(number(snrs[name][i]) for name in SIDE_BY_SIDE)]
        for i, t in enumerate(TIMES.tolist())
    ]  # fmt: skip
    return Section(
        "From data to noise",
        [
            "<p>A diffusion process mixes the picture <i>x</i><sub>0</sub> (pixels from −1 to 1) with Gaussian noise "
            "ε. Time <i>t</i> runs from 0, data, to 1, noise; a schedule says how much of each there is.</p>",
            formula(
                "<i>x<sub>t</sub></i> = α<sub><i>t</i></sub> <i>x</i><sub>0</sub> + σ<sub><i>t</i></sub> ε, &ensp; "
                "ε ~ 𝒩(0, I)",
                Gaussian.forward,
            ),
            formula("SNR<sub><i>t</i></sub> = α<sub><i>t</i></sub>² / σ<sub><i>t</i></sub>²", Schedule.log_snr),
            "<p>This closed form is the end of a chain of small steps, each of which adds a little noise, "
            "<i>x<sub>i</sub></i> = √(1 − β<sub><i>i</i></sub>) <i>x</i><sub><i>i</i>−1</sub> + √β<sub><i>i</i></sub> "
            f"ε ({code(Gaussian.step)}). DDPM lets β grow linearly from 0.0001 to 0.02 ({code(linear_beta)}); improved "
            f"DDPM chooses β so that the signal falls like a cosine ({code(cosine)}).</p>",
            *rows,
            moving,
            table("The signal-to-noise ratio at the times of the rows.", ["<i>t</i>", *SIDE_BY_SIDE], cells),
        ],
    )
