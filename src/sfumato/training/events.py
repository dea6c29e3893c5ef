"""What a run tells a program: plain functions are called with an event, at the moment that it happens.

def watch(event):
    if event.name == "validated":
        print(event.step, event.numbers["validation_loss"])

sfumato.train(config, "runs/mine", callbacks=[watch])
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.report import Report


@dataclass(frozen=True)
class Event:
    """Something that has happened in a run.

    Attributes:
        name: "said" (``text``), "progress" (of the task ``text``: ``numbers`` done and total), "step" (loss,
            gradient_norm, pictures_per_second), "validated" (validation_loss), "evaluated" (score and its interval),
            "sampled" (``file``: the sheet), "saved" (``file``: the checkpoint) or "finished" (``file``: the model).
        step: of the run; 0 before it begins.
        steps: that the run will have; 0 until that is settled.
        numbers: by name.
        text: for people.
        file: what was written.
    """

    name: str
    step: int = 0
    steps: int = 0
    numbers: dict[str, float] = field(default_factory=dict)
    text: str = ""
    file: Path | None = None

    def _repr_png_(self) -> bytes | None:
        """A notebook shows the sheet that was drawn."""
        return self.file.read_bytes() if self.file is not None and self.file.suffix == ".png" else None


Callback = Callable[[Event], object]


class Telling:
    """A report that also tells callbacks.

    Args:
        report: where words and progress go.
        callbacks: called in this order. What one of them raises ends the run after all has been saved.
    """

    def __init__(self, report: Report, callbacks: Sequence[Callback]) -> None:
        self.report, self.callbacks, self.failed = report, tuple(callbacks), False
        self.step = self.steps = 0  # of the run, once it has begun

    def tell(self, event: Event) -> None:
        """Calls all callbacks; after one has failed, none any more."""
        for callback in () if self.failed else self.callbacks:
            try:
                callback(event)
            except BaseException:
                self.failed = True
                raise

    def say(self, text: str) -> None:
        self.report.say(text)
        self.tell(Event("said", self.step, self.steps, text=text))

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.report.progress(task, done, total, note)
        self.tell(Event("progress", self.step, self.steps, {"done": done, "total": total}, text=task))
