"""Section: the curves of all schedules, and the time on each at which the information is gone."""

from collections.abc import Callable
from html import escape

import torch
from torch import Tensor

from sfumato.diffusion.processes import Gaussian
from sfumato.diffusion.schedules import Flow, Karras, Schedule, Shifted, cosine, linear_beta
from sfumato.explain.information import (
    GONE,
    chain_betas,
    information,
    log_snr_where_gone,
    signal_share,
    time_gone,
)
from sfumato.page import Figure, Pair, Section, code, formula, number, table
from sfumato.plots import BLUE, GREEN, ORANGE, RED, VIOLET, Curve, plot

SCHEDULES: dict[str, tuple[Schedule, str]] = {
    "linear": (linear_beta(), RED),
    "cosine": (cosine(), BLUE),
    "flow": (Flow(), GREEN),
    "Karras": (Karras(), VIOLET),
}
OWN = "the model's"
STEPS = 1000  # steps of the chain whose betas are shown
LOW, HIGH = -14.0, 14.0  # range of the log-SNR in the plot


def section(x_0: Tensor, own: Schedule | None) -> Section:
    """The section for a picture x_0 (C, H, W), whose variance is what can be lost, and perhaps a model's schedule."""
    variance, side = float(x_0.var(unbiased=False)), x_0.shape[-1]
    schedules = SCHEDULES | ({OWN: (own, ORANGE)} if own else {})
    gone = {name: time_gone(schedule, variance) for name, (schedule, _) in schedules.items()}
    whole = {name: time_gone(schedule, variance, side**2) for name, (schedule, _) in schedules.items()}

    def curves(values: Callable[[Schedule, Tensor], Tensor], t: Tensor) -> list[Curve]:
        made = []
        for name, (schedule, colour) in schedules.items():
            marks = [
                (t, float(values(schedule, torch.tensor(t, dtype=torch.float64))))
                for t in (gone[name],)
                if t is not None
            ]
            made.append(Curve(name, t.tolist(), values(schedule, t).tolist(), colour, name == OWN, marks))
        return made

    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    shares = plot(
        curves(signal_share, t),
        "The share of the signal over time for every schedule, falling from 1 to 0; dots mark where 0.01 bit is left.",
        "t",
        "ᾱ",
        (0, 1),
        (0, 1),
    )
    every = slice(3, None, 4)  # as many points as a plot can show
    i = (torch.arange(1, STEPS + 1) / STEPS)[every].tolist()
    betas = plot(
        [
            Curve(name, i, chain_betas(schedule, STEPS)[every].tolist(), colour, name == OWN)
            for name, (schedule, colour) in schedules.items()
        ],
        "The variance added by each of 1,000 steps for every schedule, on a logarithmic axis.",
        "t = i / 1000",
        "β",
        (0, 1),
        (1e-6, 1),
        logarithmic=True,
    )
    threshold = log_snr_where_gone(variance)
    ratios = plot(
        [Curve(f"{GONE} bit", [0, 1], [threshold] * 2, "currentColor", True), *curves(Schedule.log_snr, t)],
        f"The log-SNR over time for every schedule; a dashed line at {threshold:.2f} marks where 0.01 bit is left.",
        "t",
        "log-SNR",
        (0, 1),
        (LOW, HIGH),
    )

    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    cells = []
    for name, (schedule, _) in schedules.items():
        first, last = schedule.log_snr(ends).tolist()
        left = float(information(variance, torch.tensor(last, dtype=torch.float64)))
        times = ["never" if time is None else f"{time:.3f}" for time in (gone[name], whole[name])]
        end = gone[name]
        spent = 0.0 if end is None else 1 - end
        cells.append(
            [name, *times, f"{100 * spent:.0f} %", f"{number(first)} to {number(last)}", f"{number(left)} bit"]
        )
    own_line = f"<p>The model's own schedule is <code>{escape(repr(own))}</code>.</p>" if own else ""
    return Section(
        "Schedules, and where the information is gone",
        [
            "<p>Up to the scale of <i>x<sub>t</sub></i> a schedule is one falling curve, the log-SNR. The share of the "
            "signal ᾱ and the steps β of a chain are other ways to write it, here for every schedule, also for those "
            "that are no chain.</p>",
            formula(
                "ᾱ<sub><i>t</i></sub> = α<sub><i>t</i></sub>² / (α<sub><i>t</i></sub>² + σ<sub><i>t</i></sub>²)",
                signal_share,
            ),
            formula("β<sub><i>i</i></sub> = 1 − ᾱ<sub><i>i</i></sub> / ᾱ<sub><i>i</i>−1</sub>", chain_betas),
            "<p>How much does a noisy pixel still tell? If the clean pixel has the variance <i>v</i>, at most this "
            "many bits, and exactly so many if it is Gaussian:</p>",
            formula(
                "<i>I</i>(<i>x</i><sub>0</sub>; <i>x<sub>t</sub></i>) ≤ ½ log<sub>2</sub>(1 + <i>v</i> "
                "SNR<sub><i>t</i></sub>)",
                information,
            ),
            formula(
                f"{GONE} bit are left where log-SNR = ln((2<sup>{2 * GONE}</sup> − 1) / <i>v</i>) = "
                f"{number(threshold)}",
                log_snr_where_gone,
                time_gone,
            ),
            f"<p>The picture above has <i>v</i> = {variance:.3f}. Dots mark where {GONE} bit is left; after it a "
            "schedule spends its steps on noise that tells nothing of a single pixel. A flat picture of <i>n</i> "
            "pixels is worth <i>n</i> times the SNR, since its pixels can be averaged: that is why larger pictures "
            f"need more noise ({code(Shifted)}).</p>",
            own_line,
            Figure("log-snr.svg", ratios.encode(), "", "The log-SNR; dashed: 0.01 bit a pixel is left."),
            Pair(
                Figure("alpha-bar.svg", shares.encode(), "", "The share of the signal ᾱ."),
                Figure("beta.svg", betas.encode(), "", "The steps β of a chain of 1,000 steps with the same SNR."),
            ),
            table(
                f"From which time fewer than {GONE} bit are left, of one pixel and of a flat picture of {side} × "
                f"{side}, and what the end of the schedule still tells of a pixel.",
                ["schedule", "gone, pixel", "gone, flat picture", "steps after the pixel is gone", "log-SNR",
                 "left at <i>t</i> = 1"],
                cells,
            ),
            "<p>Sampling starts from pure noise, so what is left at <i>t</i> = 1 is an error: the start "
            f"({code(Gaussian.prior)}) knows nothing of the picture, while <i>x</i><sub>1</sub> does.</p>",
        ],
    )  # fmt: skip
