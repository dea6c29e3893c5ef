"""Polite stops by Ctrl-C, SIGTERM and a closed terminal: the current step is finished, everything is saved, and the
message says how to go on."""

import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import UserError
from sfumato.report import Report


class Interrupted(UserError):
    """Training was stopped by a signal; everything is saved."""


POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Ctrl-C, SIGTERM and a closed terminal (SIGHUP) end the run after the current step; a second Ctrl-C or SIGTERM
    ends the process at once.

    A signal that the process was started to ignore, as by `nohup`, stays ignored. A second SIGHUP does not hurry the
    end, because a closing terminal often sends two.

    Args:
        out: the run folder.
        command: the command that resumes the run.
    """

    def __init__(self, out: Path, command: str) -> None:
        self.out, self.command, self.signal = out, command, 0
        main = threading.current_thread() is threading.main_thread()  # signals can be caught there only
        heard = [s for s in POLITE if main and signal.getsignal(s) != signal.SIG_IGN]
        self.before = {s: signal.signal(s, self._catch) for s in heard}

    def _catch(self, number: int, frame: object) -> None:
        if number != signal.SIGHUP and self.signal not in (0, signal.SIGHUP):
            sys.exit(128 + number)
        self.signal = self.signal if number == signal.SIGHUP and self.signal else number

    def __call__(self) -> bool:
        return bool(self.signal)

    def interrupted(self, when: str) -> Interrupted:
        """The error that says how to go on."""
        return Interrupted(f"stopped {when}; everything is saved in {self.out}", fix=f"resume: {self.command}")

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Interruptible:
    """A report that, when ``stop`` says so, ends work that can be repeated: the preparation, or an evaluation."""

    report: Report
    stop: Stop

    def say(self, text: str) -> None:
        self.report.say(text)

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        if self.stop():
            raise self.stop.interrupted(f"while {task}")
        self.report.progress(task, done, total, note)
