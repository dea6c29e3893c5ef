"""Progress of a task: a bar with the time left on a terminal, otherwise a line now and then.

The time left follows from the mean pace of this process since it began, so it is also right after a resume.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from rich.color import Color
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from PIL import Image

EVERY = 10.0  # seconds between two lines if there is no terminal


class Terminal:
    """A report of long work on standard error; use it in a `with` statement.

    It has the two methods of every report in the package: `say` prints a line that stays, `progress` shows how far a
    task is. Tasks have names and may be interleaved.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.starts: dict[str, tuple[float, int]] = {}  # when a task was first heard of, and what was done by then
        self.bars: dict[str, TaskID] = {}
        self.spoken: dict[str, float] = {}
        self.live = _Live(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def show(self, pictures: Sequence[Image.Image]) -> None:
        """Show as many pictures above the bars as fit side by side.

        Nothing is shown without a terminal, or on one whose encoding has no half blocks.
        """
        if self.console.is_terminal and self.console.encoding.startswith("utf"):
            self.live.preview = half_blocks(pictures, self.console.width)
            self.live.refresh()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` of a task are done; this process begins at the `done` of the first call."""
        now = time.monotonic()
        start, begun = self.starts.setdefault(task, (now, done))
        left = remaining(done - begun, total - done, now - start)
        state = "  ".join(filter(None, (f"{done:,}/{total:,}", note, left)))

        if self.console.is_terminal:
            if task not in self.bars:
                self.bars[task] = self.live.add_task(task, state=state)
            self.live.update(self.bars[task], completed=done, total=total, state=state)
        elif now - self.spoken.setdefault(task, start) >= EVERY or (done >= total and now - start >= 2):
            self.spoken[task] = now
            print(f"{task}: {state}", file=sys.stderr, flush=True)
        if done >= total:  # a task that comes again begins again
            self.starts.pop(task)
            self.spoken.pop(task, None)


class _Live(Progress):
    """Bars with a picture above them."""

    preview: Text | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.preview is not None:
            yield self.preview
        yield from super().get_renderables()


def half_blocks(pictures: Sequence[Image.Image], width: int) -> Text:
    """Pictures side by side in at most ``width`` characters: each character is two pixels, one above the other."""
    side = min(32, width)
    fitting = [picture.convert("RGB").resize((side, side)) for picture in pictures[: max(1, width // (side + 1))]]
    pixels = [picture.tobytes() for picture in fitting]
    text = Text(no_wrap=True)
    for y in range(0, side - 1, 2):
        for data in pixels:
            for x in range(side):
                places = (3 * (row * side + x) for row in (y, y + 1))
                upper, lower = (Color.from_rgb(*data[place : place + 3]) for place in places)
                text.append("▀", Style(color=upper, bgcolor=lower))
            text.append(" ")
        text.append("\n")
    return text


def remaining(done: int, left: int, seconds: float) -> str:
    """The time that `left` units will take at the pace of `done` units in `seconds`, in words; "" when unknown."""
    if left <= 0 or done <= 0 or seconds < 0.5:
        return ""
    return f"{duration(seconds / done * left)} left"


def duration(seconds: float) -> str:
    """45 -> "45 s", 150 -> "2 min 30 s", 7500 -> "2 h 05 min", 200000 -> "2 d 7 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
