"""The small interface of conditioning, its composite, and its simplest member.

A conditioner is responsible for one condition of a model, under one name. It says what training shows the network of a
picture (``of``), checks what a person gives (``normalize``), and turns values into tensors (``forward``).
``Conditioners`` joins several, so the network, and all code around it, sees only one.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sfumato.conditioning.values import Condition, Value
from sfumato.data.dataset import Dataset
from sfumato.errors import Told, UserError, nearest, unknown
from sfumato.transfer import moved

Asked = Mapping[str, Any] | str | None  # what a person may give: a bare text stands for the model's text or class
Progress = Callable[[int, int], None]

MOST_NAMED = 20  # classes that an error message lists


class Conditioner(nn.Module):
    """Abstract. One condition; ``None`` is its null value, which classifier-free guidance steers away from.

    Attributes:
        vector_dim, context_dim: widths of "vector" and "context" from ``forward``; 0 for none.
        planes: channels of "planes" from ``forward``.
        takes: the kind of a value: "text", "class" or "picture".
        dropout: the fraction of training pictures that are shown without the condition; 0: the null is not learned.
        classes: the names that a value may have, if these are few.
    """

    vector_dim = 0
    context_dim = 0
    planes = 0
    takes = ""
    dropout = 0.0
    classes: tuple[str, ...] = ()

    def of(self, data: Dataset, index: int, x_0: Tensor, u: float) -> Value | None:
        """The value that training shows with one picture, None where the data has none.

        Args:
            data: the prepared data.
            index: index of the picture.
            x_0: the picture (C, *sides) before augmentation, which will also be applied to the value.
            u: in [0, 1), for everything that chance decides.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what training shows of a picture")

    def normalize(self, value: Any, field: str = "prompt") -> Value | None:
        """The canonical form of a value from outside, None if it is blank.

        Args:
            value: as a person gave it.
            field: where it was given, for the message.

        Raises:
            UserError: it cannot be understood.
        """
        if value is not None and not isinstance(value, str):
            raise UserError(f"{field}: {value!r} is not a text", fix=f"give the {self.takes} in quotes")
        return value if value and not value.isspace() else None

    def seen(self, texts: Sequence[str]) -> list[str]:
        """The part of each text that is read: all of it, unless it is longer than the encoder can read."""
        return list(texts)

    def forward(self, values: Sequence[Value | None], sides: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Some of ``vector`` (B, vector_dim); ``context`` (B, L, context_dim) with ``context_mask`` (B, L); ``planes``
        (B, planes, *sides), on the device of the module's parameters.

        Args:
            values: (B) canonical values.
            sides: sides of the x that planes are added to; the model's own by default.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how a condition becomes tensors")

    def prepare(
        self, texts: Sequence[str], progress: Progress = lambda done, total: None, cache: Path | None = None
    ) -> None:
        """Takes all texts that training will use, before it starts: a place to encode them once.

        Args:
            texts: the texts; repetitions are allowed.
            progress: called with the number of texts done and of all.
            cache: a file that keeps the work for the next start.
        """

    def fit(self, data: Dataset) -> None:
        """Learns of the data what ``of`` and ``normalize`` need to know, before training starts."""

    def state(self) -> dict[str, Tensor]:
        """What ``fit`` has learnt, by name; saved with the weights."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` gave."""

    def files(self) -> dict[str, bytes]:
        """The files that a saved model must hold for this conditioner besides weights, by name."""
        return {}


class ClassConditioner(Conditioner):
    """A learned vector per class, one more for the null condition.

    Args:
        classes: the class names, in the order of their indices.
        width: the length of the vectors.
    """

    takes = "class"

    def __init__(self, classes: Sequence[str], width: int) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.vector_dim = width
        self.index = {name: i for i, name in enumerate(self.classes)}
        self.embedding = nn.Embedding(len(self.classes) + 1, width)
        # A person may write a name in any case; a name as it is comes first.
        self.spellings = {name.casefold(): name for name in self.classes} | {name: name for name in self.classes}

    def of(self, data: Dataset, index: int, x_0: Tensor, u: float) -> Value | None:
        return None if data.labels is None else data.classes[data.labels[index]]

    def normalize(self, value: Any, field: str = "prompt") -> Value | None:
        """Accept a class name in upper or lower case. A number is a class only if a class has that name."""
        written = cast(str | None, super().normalize(value, field))
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

    def forward(self, values: Sequence[Value | None], sides: Sequence[int] | None = None) -> dict[str, Tensor]:
        null = len(self.classes)
        indices = [null if value is None else self.index[cast(str, value)] for value in values]
        return {"vector": self.embedding(moved(torch.tensor(indices), self.embedding.weight.device))}


class Conditioners(nn.Module):
    """All conditions of a model, by name: vectors and tokens are joined in a row, planes as channels.

    They are sorted by name, so the order does not depend on the order in a recipe.

    Args:
        parts: the conditioners by name; none for a model without conditions.

    Raises:
        ValueError: the tokens of two have different widths.
    """

    def __init__(self, parts: Mapping[str, Conditioner]) -> None:
        super().__init__()
        # Not `add_module`: it refuses names that modules use themselves, such as "half".
        self._modules.update({name: parts[name] for name in sorted(parts)})
        widths = {name: part.context_dim for name, part in self.parts.items() if part.context_dim}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{name} of {width} entries" for name, width in widths.items())
            raise ValueError(f"the tokens of the conditions stand in one row, but differ in width: {told}")
        self.vector_dim = sum(part.vector_dim for part in self.parts.values())
        self.context_dim = max(widths.values(), default=0)
        self.planes = sum(part.planes for part in self.parts.values())

    @property
    def parts(self) -> dict[str, Conditioner]:
        """The conditioners by name, in order."""
        return cast(dict[str, Conditioner], dict(self._modules))

    def named(self, takes: str) -> str | None:
        """The name of the first condition whose values are "text", "class" or "picture"; None without one."""
        return next((name for name, part in self.parts.items() if part.takes == takes), None)

    @property
    def bare(self) -> str | None:
        """The name of the condition that a bare text stands for: the text, or else the class."""
        return self.named("text") or self.named("class")

    def describe(self) -> str:
        """For people: "class (10 classes), text"."""
        return ", ".join(
            f"{name} ({len(part.classes)} classes)" if part.classes else name if name == part.takes
            else f"{name} (a {part.takes})" for name, part in self.parts.items()
        )  # fmt: skip

    def normalize(self, asked: Asked, field: str = "prompt") -> Condition:
        """The canonical form of what a person asks for: values by name, without those that are blank.

        Args:
            asked: values by name, or a bare text for the text or class of the model.
            field: where it was given, for the message.

        Raises:
            UserError: a condition that the model does not have, or a value that it does not understand.
        """
        if not isinstance(asked, Mapping):
            if asked is None or not asked.strip():
                return {}
            value = self._part_of_bare(asked, field).normalize(asked, field)
            return {} if value is None else {cast(str, self.bare): value}
        found = {name: self._part(name).normalize(value, f"condition {name}") for name, value in asked.items()}
        in_order = ((name, found.get(name)) for name in self.parts)
        return {name: value for name, value in in_order if value is not None}

    def _part_of_bare(self, text: str, field: str) -> Conditioner:
        if self.bare is not None:
            return self.parts[self.bare]
        has = f"; it has {self.describe()}" if self.parts else ""
        raise UserError(
            f"{field}: {text!r} was given, but this model was trained without captions or classes{has}",
            fix=f"leave the {field} out, or train on captioned pictures",
        )

    def _part(self, name: str) -> Conditioner:
        if name in self.parts:
            return self.parts[name]
        if not self.parts:
            raise UserError(
                f"condition {name}: this model was trained without conditions", fix=f"leave the condition {name} out"
            )
        near = unknown("condition", name, self.parts)
        raise UserError(f"{near.message} This model has {self.describe()}", near.fix)

    def of(self, data: Dataset, index: int, x_0: Tensor, u: Tensor) -> Condition:
        """The conditions that training shows the network with one picture, without those that are dropped.

        Args:
            data, index, x_0: as for a conditioner.
            u: (K, 2) in [0, 1), a row for each condition: the first number for its value, the second for dropping it.
        """
        found = {}
        for (name, part), (choice, drop) in zip(self.parts.items(), u.tolist(), strict=True):
            value = part.of(data, index, x_0, choice) if drop >= part.dropout else None
            if value is not None:
                found[name] = value
        return found

    def null(self, conditions: Sequence[Condition], negative: Condition) -> list[Condition]:
        """The condition that guidance steers away from, for each of ``conditions``: null values, or the negative.

        A condition that training never dropped has no null value that the network knows, so it stays as it is.
        """
        kept = {name for name, part in self.parts.items() if not part.dropout}
        return [{**{name: value for name, value in c.items() if name in kept}, **negative} for c in conditions]

    def forward(self, conditions: Sequence[Condition], sides: Sequence[int] | None = None) -> dict[str, Tensor]:
        """The tensors of all conditions together; fields and shapes as of a conditioner."""
        fields: dict[str, list[Tensor]] = {}
        for name, part in self.parts.items():
            for field, tensor in part([condition.get(name) for condition in conditions], sides).items():
                fields.setdefault(field, []).append(tensor)
        # Entries, tokens and channels are all the second dimension.
        return {field: parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for field, parts in fields.items()}

    def text_of(self, condition: Condition) -> str | None:
        """The value that a bare text would stand for."""
        return cast(str | None, condition.get(self.bare or ""))

    def seen(self, texts: Sequence[str]) -> list[str]:
        """As for a conditioner: the part that all of them read."""
        read = [part.seen(texts) for part in self.parts.values()]
        return [min(beginnings, key=len) for beginnings in zip(texts, *read, strict=True)]

    def prepare(
        self, texts: Sequence[str], progress: Progress = lambda done, total: None, cache: Path | None = None
    ) -> None:
        """As for a conditioner, one after the other."""
        for part in self.parts.values():
            part.prepare(texts, progress, cache)

    def fit(self, data: Dataset) -> None:
        """As for a conditioner, all of them."""
        for part in self.parts.values():
            part.fit(data)

    def state(self) -> dict[str, Tensor]:
        """As for a conditioner, of all: "low.range"."""
        return {f"{name}.{entry}": value for name, part in self.parts.items() for entry, value in part.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """As for a conditioner, to all."""
        for name, part in self.parts.items():
            part.load_state({entry: state[f"{name}.{entry}"] for entry in part.state()})

    def files(self) -> dict[str, bytes]:
        """As for a conditioner, of all."""
        return {name: data for part in self.parts.values() for name, data in part.files().items()}


def warn_of_cut(conditioner: Conditioner | Conditioners, field: str, texts: Sequence[str | None]) -> None:
    """Warn of each text of which the encoder reads only the beginning; the warning shows that part."""
    whole = [text for text in texts if text]
    for text, seen in zip(whole, conditioner.seen(whole), strict=True):
        if seen != text:
            warnings.warn(
                f"{field}: this model reads {len(seen)} of {len(text)} characters, and draws {seen!r}", Told, 3
            )
