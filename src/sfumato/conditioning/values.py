"""What a condition is: values by name, such as ``{"text": "a red heart", "mask": Planes(...)}``.

A text or a class is a ``str``, a picture is ``Planes``. Only this file knows how a condition is written for people and
on disk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sfumato.durable import sha256


@dataclass(frozen=True, eq=False)
class Planes:
    """A picture as a condition.

    Attributes:
        x: (planes, *sides) in units of x_0; its conditioner decides which planes.
        file: the name of the file that it was read from, empty if there was none.
        digest: the SHA-256 of that file.
    """

    x: Tensor
    file: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.file or f"a picture {self.sha256[:10]}"

    @property
    def sha256(self) -> str:
        """The SHA-256 of its file, or else of its numbers."""
        return self.digest or sha256(repr(tuple(self.x.shape)).encode() + self.x.contiguous().numpy().tobytes())


Value = str | Planes
Condition = Mapping[str, Value]


def augmented(condition: Condition, how: Callable[[Tensor], Tensor]) -> Condition:
    """A condition in which everything that has sides is changed like x_0.

    Args:
        condition: any condition.
        how: (C, *sides) -> (C, *sides), for any C.
    """
    return {name: replace(v, x=how(v.x)) if isinstance(v, Planes) else v for name, v in condition.items()}


def words_of(condition: Condition) -> str:
    """A condition in a few words: the text or class alone, or "class: cat, text: a cat" if there are several."""
    words = {name: str(value) for name, value in condition.items()}
    return ", ".join(words.values() if len(words) == 1 else (f"{name}: {value}" for name, value in words.items()))


def record_of(condition: Condition) -> dict[str, Any]:
    """A condition as JSON holds it: a picture by the name of its file and its SHA-256."""
    return {
        name: {"file": value.file, "sha256": value.sha256} if isinstance(value, Planes) else value
        for name, value in condition.items()
    }


def condition_of(record: Any) -> dict[str, str]:
    """The condition that ``record_of`` wrote, by name; older versions wrote only a text or null."""
    if not isinstance(record, Mapping):
        return {} if record is None else {"": str(record)}
    return {
        name: str(value.get("file")) if isinstance(value, Mapping) else str(value) for name, value in record.items()
    }
