"""Messages for a wrong command line: the option, its value, what it may be, and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from sfumato.errors import UserError, did_you_mean, shown

KINDS = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", str: "a text"}


def told(error: CycloptsError, example: str, verbs: Iterable[str]) -> UserError:
    """The error for a command line that cannot be read.

    Args:
        error: what the parser found.
        example: a correct command.
        verbs: the verbs that exist.
    """
    verb = " ".join(error.command_chain or ())
    place, help_ = f"{verb}: " if verb else "", f"see `sfumato{f' {verb}' if verb else ''} --help`"
    match error:
        case UnknownOptionError():
            word = str(error.token.keyword or error.token.value).partition("=")[0]
            options = sorted({n for a in error.argument_collection for n in a.names if n.startswith("--") and a.parse})
            meant = did_you_mean(word, options)
            return UserError(
                f"{place}there is no option {shown(word)}{meant}",
                help_
                if meant or not options
                else f"choose one of {', '.join(options)}; a text with - in front comes after --",
            )
        case UnknownCommandError():
            word, verbs = (error.unused_tokens or [""])[0], list(verbs)
            return UserError(
                f"{place}there is no command {shown(word)}{did_you_mean(word, verbs)}",
                f"choose one of {', '.join(verbs)}",
            )
        case UnusedCliTokensError():
            spare = error.unused_tokens or []
            be, them = ("is", "it") if len(spare) == 1 else ("are", "them")
            return UserError(
                f"{place}{', '.join(map(shown, spare[:5]))} {be} too many",
                f"leave {them} out, or put words that belong together between quotes, as in `{example}`",
            )
        case MissingArgumentError() if error.argument is not None:
            name = error.keyword or error.argument.name
            if name.startswith("-"):
                return UserError(f"{place}{name} is given without a value", f"write {name} and a value; {help_}")
            return UserError(f"{place}{name} is missing", f"write e.g. `{example}`")
        case RepeatArgumentError():
            name = error.token.keyword or error.token.value
            return UserError(f"{place}{name} is given twice", "give it once")
        case CoercionError() if error.token is not None and error.msg is None:
            name = error.token.keyword or (error.argument.name if error.argument else "a value")
            kind = KINDS.get(error.target_type or str, "of the right kind")
            return UserError(f"{place}{name} = {shown(error.token.value)} is not {kind}", f"give {name} {kind}")
        case _:
            return UserError(f"{place}{error}", help_)
