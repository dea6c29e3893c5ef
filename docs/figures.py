"""Draw the diagrams of these pages: `python docs/figures.py` writes docs/images/*.svg from the present code."""

from collections.abc import Iterable
from pathlib import Path

import torch

from sfumato.diffusion import Flow, Karras, Schedule, cosine, linear_beta
from sfumato.plots import BLUE, GREEN, RED, VIOLET, Curve, plot

FOLDER = Path(__file__).parent / "images"
SCHEDULES: dict[str, tuple[Schedule, str]] = {
    "linear": (linear_beta(), RED),
    "cosine": (cosine(), BLUE),
    "flow": (Flow(), GREEN),
    "karras": (Karras(), VIOLET),
}


def svg(width: int, height: int, body: Iterable[str]) -> str:
    """A document on a white ground, so that it reads on a dark page too."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="sans-serif" font-size="13" fill="#222"'
    return "\n".join([f'{head} {font}><rect width="{width}" height="{height}" fill="white"/>', *body, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "#222", size: int = 13) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{words}</text>'


def box(x: float, y: float, width: float, height: float, colour: str, *lines: str) -> str:
    middle = y + height / 2 - 8 * (len(lines) - 1) + 4
    sizes = (13, *[11] * len(lines))
    words = "".join(text(x + width / 2, middle + 16 * i, line, size=sizes[i]) for i, line in enumerate(lines))
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{colour}" stroke="#888"/>{words}'


def arrow(x1: float, y1: float, x2: float, y2: float, dashed: bool = False) -> str:
    style = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#555"{style} marker-end="url(#tip)"/>'


TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
)


def schedules() -> str:
    """The log-SNR of every schedule over time."""
    t = torch.linspace(0.004, 1, 250, dtype=torch.float64)
    curves = [Curve(name, t.tolist(), s.log_snr(t).tolist(), colour) for name, (s, colour) in SCHEDULES.items()]
    label = "The log-SNR of the linear, cosine, flow and Karras schedules, falling from data to noise."
    return plot(curves, label, "t, from data to noise", "log-SNR", (0, 1), (-20, 16), ground=True)


def unet() -> str:
    """The U-Net with three stages, two residual blocks each on the way down and three on the way up."""
    down, up, middle, plain = "#d6eaf8", "#d5f5e3", "#fdebd0", "#f4f6f7"
    body = [TIP, box(20, 20, 110, 40, plain, "stem", "3x3"), box(510, 20, 110, 40, plain, "head", "norm, SiLU, 3x3")]
    for stage in range(3):
        y, inset = 90 + 84 * stage, 36 * stage
        scale = ["full resolution", "1/2, with attention", "1/4"][stage]
        body.append(box(20 + inset, y, 150, 56, down, "2 residual blocks", scale))
        body.append(box(470 - inset, y, 150, 56, up, "3 residual blocks", scale))
        body.append(arrow(172 + inset, y + 28, 466 - inset, y + 28, dashed=True))
        body.append(text(320, y + 22, "skips", colour="#666", size=11))
        if stage < 2:
            body.append(arrow(95 + inset, y + 56, 110 + inset, y + 83))
            body.append(text(116 + inset, y + 74, "3x3, stride 2", "start", "#666", 11))
            body.append(arrow(530 - inset, y + 83, 545 - inset, y + 57))
            body.append(text(524 - inset, y + 74, "nearest x2, 3x3", "end", "#666", 11))
    body += [
        box(230, 342, 180, 40, middle, "bottleneck", "block, attention, block"),
        arrow(180, 315, 228, 356),
        arrow(412, 356, 460, 315),
        arrow(75, 60, 85, 88),
        arrow(555, 88, 565, 62),
        text(75, 14, "x, sides divided by patch", size=11),
        text(565, 14, "prediction", size=11),
        box(230, 20, 180, 40, plain, "time + vector", "a shift for every block"),
    ]
    return svg(640, 396, body)


def nouns() -> str:
    """The six nouns: which one uses which, in training and in sampling."""
    noun, plain = "#d6eaf8", "#f4f6f7"
    body = [
        TIP,
        box(20, 20, 130, 50, plain, "pictures", "uint8"),
        box(200, 20, 130, 50, noun, "Codec", "pictures &lt;-&gt; x"),
        box(380, 20, 130, 50, noun, "Process", "x_0 -&gt; x_t"),
        box(560, 20, 130, 50, noun, "Schedule", "t -&gt; alpha, sigma"),
        box(380, 120, 130, 50, noun, "Denoiser", "x_t -&gt; E[x_0 | x_t]"),
        box(560, 120, 130, 50, plain, "network", "U-Net or DiT"),
        box(200, 120, 130, 50, plain, "condition", "class, text"),
        box(290, 220, 130, 50, noun, "Objective", "loss: training"),
        box(470, 220, 130, 50, noun, "Solver", "one step: sampling"),
        arrow(150, 45, 198, 45),
        arrow(330, 45, 378, 45),
        arrow(558, 45, 512, 45),
        arrow(445, 70, 445, 118),
        arrow(558, 145, 512, 145),
        arrow(330, 145, 378, 145),
        arrow(420, 170, 370, 218),
        arrow(470, 170, 520, 218),
    ]
    return svg(710, 290, body)


if __name__ == "__main__":
    for draw in (schedules, unet, nouns):
        (FOLDER / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")
