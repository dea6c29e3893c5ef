"""The small interface of conditioning, and its two simplest members.

A conditioner is a module with ``forward(conditions) -> dict of tensors`` and three facts that the rest of the house
reads: the widths ``vector_dim`` and ``context_dim`` that the network needs, and ``normalize(condition)``, which checks
one condition from outside and returns its canonical form.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.errors import Told, UserError, nearest
from sfumato.transfer import moved

Condition = str | None
Progress = Callable[[int, int], None]

MOST_NAMED = 20  # classes that an error message lists


class Conditioner(nn.Module):
    """Abstract. Turns conditions into tensors; ``None`` is the null condition."""

    vector_dim = 0
    context_dim = 0

    def forward(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        """Tensors of batch size ``len(conditions)`` on the device of the module's parameters."""
        raise NotImplementedError(f"{type(self).__name__} must say how a condition becomes tensors")

    def normalize(self, condition: Condition, field: str = "prompt") -> Condition:
        """The canonical form of one condition, None where it is blank.

        Args:
            condition: as a person gave it.
            field: where it was given, for the message.

        Raises:
            UserError: it cannot be understood.
        """
        return condition if condition and not condition.isspace() else None

    def seen(self, texts: Sequence[str]) -> list[str]:
        """The beginning of each text that is read: all of it, but where it is longer than the encoder can read."""
        return list(texts)

    def prepare(
        self, conditions: Sequence[str], progress: Progress = lambda done, total: None, cache: Path | None = None
    ) -> None:
        """Takes all conditions that training will use, before it starts: a place to encode them once.

        Args:
            conditions: repetitions are welcome.
            progress: told how many of how many are done.
            cache: a file that keeps the work for the next start.
        """


def warn_of_cut(conditioner: Conditioner, field: str, texts: Sequence[Condition]) -> None:
    """A warning for each text of which the encoder reads only the beginning; it shows what is read."""
    whole = [text for text in texts if text]
    for text, seen in zip(whole, conditioner.seen(whole), strict=True):
        if seen != text:
            warnings.warn(
                f"{field}: this model reads {len(seen)} of {len(text)} characters, and draws {seen!r}", Told, 3
            )


class Unconditional(Conditioner):
    """No condition at all: the network sees noise and time only."""

    def forward(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        return {}

    def normalize(self, condition: Condition, field: str = "prompt") -> Condition:
        if super().normalize(condition, field) is not None:
            raise UserError(
                f"{field}: {condition!r} was given, but this model was trained without captions or classes",
                fix=f"leave the {field} out, or train on captioned pictures",
            )
        return None


class ClassConditioner(Conditioner):
    """A learned vector per class, one more for the null condition.

    Args:
        classes: the class names, in the order of their indices.
        width: the length of the vectors.
    """

    def __init__(self, classes: Sequence[str], width: int) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.vector_dim = width
        self.index = {name: i for i, name in enumerate(self.classes)}
        self.embedding = nn.Embedding(len(self.classes) + 1, width)
        # A person may write a name in any case; a name as it is comes first.
        self.spellings = {name.casefold(): name for name in self.classes} | {name: name for name in self.classes}

    def normalize(self, condition: Condition, field: str = "prompt") -> Condition:
        """Accepts a class name in any case. A number is a class only where a class has that name."""
        written = super().normalize(condition, field)
        if written is None:
            return None
        for spelling in (written, written.strip(), written.strip().casefold()):
            if spelling in self.spellings:
                return self.spellings[spelling]
        named = ", ".join(self.classes[:MOST_NAMED]) + (", ..." if len(self.classes) > MOST_NAMED else "")
        place = int(written) if written.strip().isdecimal() and len(written) < 10 else len(self.classes)
        near = self.classes[place] if place < len(self.classes) else nearest(written, self.classes)
        raise UserError(
            f"{field}: {written!r} is not one of this model's {len(self.classes)} classes: {named}",
            fix=f"did you mean {near!r}?" + (" Classes go by name." if place < len(self.classes) else ""),
        )

    def forward(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        null = len(self.classes)
        indices = [null if c is None else self.index[c] for c in conditions]
        return {"vector": self.embedding(moved(torch.tensor(indices), self.embedding.weight.device))}
