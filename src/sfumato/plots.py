"""Line plots as SVG text: curves, bands and marked points in one frame. Needs nothing but the standard library.

Axes and words take the colour of the text around the plot (`currentColor`), so a plot inside a page can also be read on
a dark ground. The colours of curves stand out on both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

RED, BLUE, GREEN, VIOLET, ORANGE = "#d1495b", "#3a86c8", "#2a9d6f", "#9b5de5", "#c9771a"

WIDTH, HEIGHT = 600, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 40, 42  # room around the frame
LETTER = 7.0  # mean width of a letter, in pixels


@dataclass(frozen=True)
class Curve:
    """A line through (x, y); `marks` are points on it that are shown as dots; a name of "" is not in the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False
    marks: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Band:
    """The ground between `low` and `high`."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str


def plot(
    curves: Sequence[Curve],
    label: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    bands: Sequence[Band] = (),
    logarithmic: bool = False,
    ground: bool = False,
) -> str:
    """An SVG of the curves; parts outside of the ranges are cut off.

    Args:
        curves: drawn in order, the last on top.
        label: what the plot shows, read to those who cannot see it.
        x_label: under the horizontal axis.
        y_label: above the vertical axis.
        x_range: the ends of the horizontal axis.
        y_range: the ends of the vertical axis; above 0 when it is logarithmic.
        bands: drawn below the curves.
        logarithmic: whether the vertical axis is logarithmic.
        ground: whether the plot has its own white ground, for a file that may be shown on any page.
    """
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    warp = math.log10 if logarithmic else float
    (left, right), (low, high) = x_range, (warp(y_range[0]), warp(y_range[1]))

    def place(x: float, y: float) -> tuple[float, float]:
        if logarithmic and y <= 0:
            y = y_range[0] * 1e-3
        return width * (x - left) / (right - left), height * (high - warp(y)) / (high - low)

    def path(x: Sequence[float], y: Sequence[float]) -> str:
        places = (place(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b))
        return " ".join(f"{a:.1f},{max(-1e4, min(b, 1e4)):.1f}" for a, b in places)

    body = []
    for tick in ticks(low, high, logarithmic):
        y = TOP + height * (high - tick) / (high - low)
        words = f"{10**tick:g}" if logarithmic else f"{tick:g}".replace("-", "−")
        body.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + width}" stroke="currentColor" stroke-opacity=".13"/>')
        body.append(_text(LEFT - 8, y + 4, words, "end"))
    for tick in ticks(left, right):
        body.append(_text(LEFT + width * (tick - left) / (right - left), TOP + height + 18, f"{tick:g}", "middle"))
    body.append(f'<path d="M{LEFT} {TOP}V{TOP + height}H{LEFT + width}" fill="none" stroke="currentColor"/>')
    body.append(_text(LEFT + width, TOP + height + 36, x_label, "end"))
    body.append(_text(4, 14, y_label, "start"))

    body.append(f'<svg x="{LEFT}" y="{TOP}" width="{width}" height="{height}">')  # an inner SVG cuts off its outside
    for band in bands:
        ring = path([*band.x, *reversed(band.x)], [*band.low, *reversed(band.high)])
        body.append(f'<polygon points="{ring}" fill="{band.colour}" fill-opacity=".22"/>')
    for curve in curves:
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        points = path(curve.x, curve.y)
        body.append(f'<polyline fill="none" stroke="{curve.colour}" stroke-width="2"{dash} points="{points}"/>')
    body.append("</svg>")
    for curve in curves:
        for x, y in (place(*mark) for mark in curve.marks):
            body.append(f'<circle cx="{LEFT + x:.1f}" cy="{TOP + y:.1f}" r="5" fill="{curve.colour}"/>')

    end = LEFT + width
    for name, colour, dashed in reversed(
        [(b.name, b.colour, False) for b in bands] + [(c.name, c.colour, c.dashed) for c in curves]
    ):
        if name:
            end -= LETTER * len(name)
            dash = ' stroke-dasharray="5 3"' if dashed else ""
            body.append(_text(end, 14, name, "start"))
            body.append(f'<path d="M{end - 22:.0f} 10h17" stroke="{colour}" stroke-width="3"{dash}/>')
            end -= 36
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="plot"'
    font = 'font-family="system-ui, sans-serif" font-size="13"'
    white = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>' if ground else ""
    colour = ' color="#222"' if ground else ""
    return "\n".join([f'{head} aria-label="{escape(label)}" {font}{colour}>{white}', *body, "</svg>\n"])


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Four to ten round numbers from `low` to `high`; `whole` ones only, for powers of ten."""
    rough = (high - low) / 7
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    if whole:
        step = max(1, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escape(words)}</text>'
