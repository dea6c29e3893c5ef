"""The page: sections of text, formulas and figures in one HTML file that needs nothing else.

Formulas are HTML with their code beside them. The code is given as the object itself, so every name on the page belongs
to something that exists.
"""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.durable import write_atomically
from sfumato.errors import UserError

PAGE = "index.html"
LARGE = 160_000  # bytes of a PNG; noise cannot be compressed, and the page must stay below 4 MB
WORDS = 48  # letters at which a cell that is not a number may wrap
OURS = (b'<meta name="generator" content="Sfumato">', b"--mark: #a4502b")  # in every page; in those of before
MIME = {"png": "image/png", "webp": "image/webp"}

STYLE = """
:root { color-scheme: light dark; --ink: #23262d; --soft: #626975; --paper: #fbfaf7; --card: #ffffff; --line: #dfdbd2;
  --mark: #a4502b; --good: #2a7d4f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e2dc; --soft: #a2a6ae; --paper: #17191d; --card: #1f2227;
  --line: #383c43; --mark: #e39a72; --good: #7cc79a; --bad: #f2938c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.08rem/1.62 "Iowan Old Style", "Palatino Linotype", Palatino, Charter, Georgia, serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 1.25rem 5rem; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1.6rem; }
h1 { font-size: 2.5rem; line-height: 1.15; font-weight: 500; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.6rem; line-height: 1.25; font-weight: 500; margin: 3.6rem 0 .8rem; }
h2 span { color: var(--mark); margin-right: .6rem; }
p, ul, nav { max-width: 42rem; }
nav ol { columns: 2 16rem; padding-left: 1.3rem; margin: 1.2rem 0 0; }
a { color: var(--mark); text-underline-offset: .15em; }
small, figcaption, caption, .soft { color: var(--soft); font-size: .9rem; line-height: 1.45; }
code { font: .82rem/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.formula { background: var(--card); border-left: 3px solid var(--mark); margin: 1.1rem 0; padding: .65rem 1rem;
  display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; align-items: baseline; justify-content: space-between; }
.formula > span { font-size: 1.14rem; }
.formula > code { color: var(--soft); }
figure { margin: 1.5rem 0; }
figure > img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
figure > .wide > img { display: block; max-width: none; background: #fff; border-radius: 6px; }
figure > .plot { display: block; width: 100%; max-width: 44rem; height: auto; }
figcaption { margin-top: .5rem; max-width: 42rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 0 1.8rem; }
.pair figure { margin-bottom: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: min(26rem, 100%); margin: 1.3rem 0; font-size: .95rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .5rem; }
caption > span { display: block; position: sticky; left: 0; max-width: min(42rem, calc(100vw - 2.5rem)); }
th, td { text-align: right; padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--soft); }
th, td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8.5rem;
  position: sticky; left: 0; background: var(--paper); }
td.words { text-align: left; white-space: normal; min-width: 14rem; }
td:last-child, th:last-child { padding-right: 0; }
.marked { list-style: none; padding: 0; max-width: 46rem; }
.marked li { display: flex; gap: .8rem; align-items: baseline; padding: .55rem 0;
  border-bottom: 1px solid var(--line); }
.marked li > b { flex: none; width: 1.2rem; text-align: center; }
.marked .yes > b { color: var(--good); }
.marked .no > b { color: var(--bad); }
summary { cursor: pointer; color: var(--mark); }
sub, sup { font-size: .72em; line-height: 0; }
@media print { details { display: none; } }
"""


@dataclass(frozen=True)
class Figure:
    """A picture, film or plot of the page, also written as a file of its own.

    Attributes:
        name: name of the file; its ending (png, webp, svg) says what `data` is.
        data: the content of the file.
        alt: what it shows, in words, for those who cannot see it.
        caption: HTML under it.
        strip: whether it scrolls on a narrow page, because its parts would be too small to see.
    """

    name: str
    data: bytes
    alt: str
    caption: str
    strip: bool = False

    def html(self) -> str:
        """The figure with its data inside; a film can be folded away, because not everybody likes moving pictures."""
        kind = self.name.rpartition(".")[2]
        if kind == "svg":
            shown = self.data.decode()
        else:
            data = base64.b64encode(self.data).decode()
            shown = f'<img alt="{escape(self.alt)}" src="data:{MIME[kind]};base64,{data}">'
            shown = f'<div class="wide">{shown}</div>' if self.strip else shown
        figure = f"<figure>{shown}<figcaption>{self.caption}</figcaption></figure>"
        return f"<details open><summary>Film</summary>{figure}</details>" if kind == "webp" else figure


@dataclass(frozen=True)
class Pair:
    """Two figures, side by side if there is room."""

    first: Figure
    second: Figure

    def html(self) -> str:
        return f'<div class="pair">{self.first.html()}{self.second.html()}</div>'


@dataclass(frozen=True)
class Section:
    """A part of the page: `parts` are HTML and figures, in order."""

    title: str
    parts: Sequence[str | Figure | Pair]

    @property
    def figures(self) -> list[Figure]:
        """The figures in it, in order."""
        found: list[Figure] = []
        for part in self.parts:
            found += [part.first, part.second] if isinstance(part, Pair) else [part] if isinstance(part, Figure) else []
        return found


def png(picture: Image.Image, colours: int = 0) -> bytes:
    """A picture as the bytes of a PNG file, with a palette of `colours`, or of 256 if it would be large."""
    file = io.BytesIO()
    (picture.quantize(colours) if colours else picture).save(file, "PNG")
    if not colours and file.tell() > LARGE:
        return png(picture, 256)
    return file.getvalue()


def name_of(thing: Any) -> str:
    """The full name by which an object of the package is imported."""
    return f"{thing.__module__}.{thing.__qualname__}"


def code(thing: Any) -> str:
    """The name of an object of the package as HTML."""
    return f"<code>{name_of(thing)}</code>"


def formula(html: str, *things: Any) -> str:
    """A formula with the objects that compute it beside it."""
    return f'<div class="formula"><span>{html}</span>{"".join(code(thing) for thing in things)}</div>'


def number(value: float) -> str:
    """Three digits, as people write them in HTML: 12,345 or 0.0123 or 4.1·10^-5 or ∞."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    digits, _, power = f"{value:.3g}".partition("e")
    return digits.replace("-", "−") + (f"·10<sup>{int(power)}</sup>".replace("-", "−") if power else "")


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells, the first column at the left; it scrolls on a narrow page, and no number wraps."""

    def cell(html: str) -> str:
        words = len(re.sub("<[^>]*>", "", html)) > WORDS
        return f'<td class="words">{html}</td>' if words else f"<td>{html}</td>"

    first = "".join(f'<th scope="col">{name}</th>' for name in head)
    rest = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    told = f"<caption><span>{caption}</span></caption>" if caption else ""
    return f'<div class="wide"><table>{told}<tr>{first}</tr>{rest}</table></div>'


def marked(items: Sequence[tuple[bool | None, str]]) -> str:
    """A list of HTML with a tick, a cross or a tilde (neither) before each."""
    signs = {True: ("yes", "✓", "yes"), False: ("no", "✗", "no"), None: ("so", "~", "partly")}
    rows = []
    for passed, html in items:
        kind, sign, word = signs[passed]
        rows.append(f'<li class="{kind}"><b role="img" aria-label="{word}">{sign}</b><div>{html}</div></li>')
    return f'<ul class="marked">{"".join(rows)}</ul>'


def page(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """The whole file; the introduction is HTML, the title is not."""
    links = "".join(f'<li><a href="#part-{i}">{section.title}</a></li>' for i, section in enumerate(sections, 1))
    body = []
    for i, section in enumerate(sections, 1):
        parts = [part if isinstance(part, str) else part.html() for part in section.parts]
        heading = f"<h2><span>{i}</span>{section.title}</h2>"
        body.append("\n".join([f'<section id="part-{i}">', heading, *parts, "</section>"]))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
{OURS[0].decode()}
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
{introduction}
<nav aria-label="Sections"><ol>{links}</ol></nav>
</header>
{"".join(body)}
</main>
</body>
</html>
"""


def folder(out: Path) -> None:
    """Make the folder; call this before the work, so that a failure costs nothing.

    Raises:
        UserError: it cannot be made, or holds a page or pictures that Sfumato did not write.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / PAGE).exists():  # only pictures with the names of figures could be lost
            foreign = next((file for file in sorted(out.iterdir()) if file.suffix.lower().lstrip(".") in MIME), None)
        else:
            content = (out / PAGE).read_bytes()
            foreign = None if any(mark in content for mark in OURS) else out / PAGE
    except OSError as error:
        raise _unwritable(out, error) from error
    if foreign:
        raise UserError(
            f"out: Sfumato did not write {foreign}, and might replace it", "choose another folder with --out"
        )


def write(out: Path, html: str, sections: Sequence[Section]) -> Path:
    """Write the page and the figures of its sections; return the path of the page.

    Raises:
        UserError: one of them cannot be written.
    """
    try:
        write_atomically(out / PAGE, html)
        for figure in (figure for section in sections for figure in section.figures):
            write_atomically(out / figure.name, figure.data)
    except OSError as error:
        raise _unwritable(out, error) from error
    return out / PAGE


def _unwritable(out: Path, error: OSError) -> UserError:
    return UserError(f"out: {out} cannot be written: {error.strerror}", fix="choose another folder with --out")
