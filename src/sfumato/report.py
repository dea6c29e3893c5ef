"""Where the messages and the progress of long work go."""

from typing import Protocol


class Report(Protocol):
    """Where progress goes: the command line draws bars, a server would send events, the default stays silent."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        """How far a task is; it starts at the ``done`` of the first call (a resumed run starts late)."""


class Silent:
    """A report that is not shown."""

    def say(self, text: str) -> None:
        return None

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        return None
