"""A request for pictures: which, how many, from which seeds; its bounds are checked before anything is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sfumato.conditioning.conditioners import Asked
from sfumato.errors import UserError
from sfumato.settings.base import LARGEST_SEED, LARGEST_SIZE

SMALLEST_SIZE = 4
LARGEST_COUNT = 10_000
LARGEST_PROMPT = 10_000  # characters; text encoders read a few hundred at most

Size = int | tuple[int, ...] | None  # one side for all, or (width, height); None for the model's own


@dataclass(frozen=True)
class Request:
    """Pictures to draw.

    Attributes:
        prompts: prompts, class names, or conditions by name; None stands for no condition.
        n: pictures for each prompt; picture i has seed ``seed + i``.
        seed: 0 to 2^63 - 1.
        negative: a text or class to steer away from.
        size: one side for all, or (width, height); None for the model's own.
        settings: changes to the model's sampling settings; None changes nothing.
        conditions: conditions by name, for every prompt.

    Raises:
        UserError: names the field, the value, the range and the fix.
    """

    prompts: tuple[Asked, ...]
    n: int = 1
    seed: int = 0
    negative: str | None = None
    size: Size = None
    settings: Mapping[str, object] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for asked in (*self.prompts, self.conditions):
            check_condition(asked)
        check_text("negative", self.negative)
        if not self.prompts:
            raise UserError("prompt: none is given", fix="give at least one, or None for a picture without a condition")

        check_number("n", self.n, 1, LARGEST_COUNT)
        if self.n * len(self.prompts) > LARGEST_COUNT:
            raise UserError(
                f"n: {self.n} pictures of {len(self.prompts)} prompts are more than {LARGEST_COUNT}",
                fix=f"choose n up to {LARGEST_COUNT // len(self.prompts)}, or fewer prompts",
            )
        check_number("seed", self.seed, 0, LARGEST_SEED + 1 - self.n)
        for side in self.size if isinstance(self.size, tuple) else (self.size,):
            if side is not None:
                check_number("size", side, SMALLEST_SIZE, LARGEST_SIZE)

    @property
    def seeds(self) -> range:
        """The seeds of the pictures of each prompt."""
        return range(self.seed, self.seed + self.n)


def parse_size(text: str | None) -> Size:
    """ "64" -> 64, "48x32" -> (48, 32), None -> None.

    Raises:
        UserError: the text is not a size.
    """
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.strip().isdecimal() for side in sides):
        raise UserError(f"size: {text!r} is not a size", fix="write one number, or WIDTHxHEIGHT, e.g. 48x32")
    numbers = tuple(int(side) for side in sides)
    return numbers[0] if len(numbers) == 1 else numbers


def check_number(name: str, value: object, low: int, high: int) -> None:
    """Raise a UserError unless ``value`` is a whole number from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name}: {value!r} is not a whole number", fix=f"choose {name} from {low} to {high}")
    if not low <= value <= high:
        raise UserError(f"{name}: {value} is outside {low} to {high}", fix=f"choose {name} within the range")


def check_condition(asked: object) -> None:
    """Raise a UserError unless ``asked`` is None, a text or values by name, with texts as in ``check_text``."""
    if not isinstance(asked, Mapping):
        check_text("prompt", asked)
        return
    for name, value in asked.items():
        if not isinstance(name, str):
            raise UserError(f"condition {name!r}: the name is not a text", fix='write {"text": "a cat"}')
        if isinstance(value, str):
            check_text(f"condition {name}", value)


def check_text(name: str, value: object) -> None:
    """Raise a UserError unless ``value`` is None or a text that encoders and the file of the picture can hold."""
    if value is None:
        return
    if not isinstance(value, str):
        raise UserError(f"{name}: {value!r} is not a text", fix="give a text in quotes, or None for no condition")
    if len(value) > LARGEST_PROMPT:
        raise UserError(
            f"{name}: {len(value):,} characters are more than the limit of {LARGEST_PROMPT:,}", fix="shorten it"
        )
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{name}: {value[:60]!a} is not valid text (UTF-8)", fix="type it again, or check its encoding")
