"""Where the command line writes: a terminal that may close, a pipe whose reader may leave, a full disk, any encoding.

Standard error (progress, errors) may be lost without harm to the work: that stream falls silent if nobody reads it.
Standard output is the answer: if it cannot be written, the command has failed, and `sfumato.cli.main` says so.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

NARROWEST, WIDEST = 20, 1000  # columns that text is laid out in; rich never ends on 1 or 2
SIZE = ("COLUMNS", "LINES")  # of the terminal, as the environment tells it
ANSWER = "standard output"
ESCAPED = "backslashreplace"  # how to write a character that the encoding of the output lacks


class Answer:
    """Standard output: a write that fails raises an error that names it.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self.refused(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.refused(error)

    def refused(self, error: OSError) -> None:
        """Raise `error`; nothing is written again when the process ends."""
        silence(self.stream)
        error.filename = ANSWER
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Progress(Answer):
    """Standard error: it falls silent, without an error, if its reader is gone or its disk is full."""

    def refused(self, error: OSError) -> None:
        silence(self.stream)


def silence(stream: TextIO) -> None:
    """Discard what waits in the buffer of ``stream`` and everything written to it from now on."""
    with suppress(OSError, ValueError):  # a stream without a file, as in a test
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def prepared() -> Iterator[None]:
    """A context in which both streams behave as above, take every character and have a width that text fits in."""
    occupy_standard_files()
    streams, size = (sys.stdout, sys.stderr), {name: os.environ.get(name) for name in SIZE}
    strict = [stream for stream in streams if getattr(stream, "errors", None) == "strict"]
    for stream in strict:
        stream.reconfigure(errors=ESCAPED)  # pyright: ignore[reportAttributeAccessIssue]
    out, errors = streams
    sys.stdout = cast(TextIO, out and Answer(out))  # None where it is closed
    sys.stderr = cast(TextIO, errors and Progress(errors))
    set_width()
    try:
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        sys.stdout, sys.stderr = streams
        for stream in strict:
            stream.reconfigure(errors="strict")  # pyright: ignore[reportAttributeAccessIssue]
        for name, value in size.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def occupy_standard_files() -> None:
    """Open the standard streams that the caller closed (`2>&-`).

    Otherwise the next file would get such a number, and with it everything that libraries write to that stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def set_width() -> None:
    """Set $COLUMNS if the terminal, or $COLUMNS itself, gives a width that no text fits in."""
    if not re.fullmatch("[1-9][0-9]{0,5}", os.environ.get("LINES", "1")):
        del os.environ["LINES"]
    said = os.environ.get("COLUMNS")
    if said is not None and not re.fullmatch("[1-9][0-9]{0,8}", said):
        said = None
        del os.environ["COLUMNS"]
    width = int(said) if said else terminal_width()
    if width and not NARROWEST <= width <= WIDEST:
        os.environ["COLUMNS"] = str(min(max(width, NARROWEST), WIDEST))


def terminal_width() -> int:
    """Columns of the terminal; 0 if there is none or it does not say."""
    for number in range(3):
        with suppress(OSError):
            return os.get_terminal_size(number).columns
    return 0
