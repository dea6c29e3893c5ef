"""From settings to conditioners: the kinds that a recipe can name. A new kind is a class and a line below."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.codecs.codec import Codec
from sfumato.conditioning.conditioners import ClassConditioner, Conditioner, Conditioners
from sfumato.conditioning.planes import MaskConditioner, PictureConditioner, SmallerConditioner
from sfumato.conditioning.text import SentenceConditioner, TextConditioner
from sfumato.conditioning.tokens import read_tokenizer, train_tokenizer
from sfumato.data.readers import Reader
from sfumato.errors import UserError
from sfumato.settings.conditions import ConditionSettings


@dataclass(frozen=True)
class Known:
    """What conditioners are built from besides their settings.

    Attributes:
        shape: shape of x_0, (C, *sides).
        classes: names of the data's classes.
        captions: all captions of the data, for the vocabulary of a new model.
        files: the files of a saved model, by name; a new model also takes a vocabulary from here if there is one.
        folder: the folder of a saved model; None for a new one.
        codec: the codec of x_0.
        depth: bits that pictures of 16 bits use.
        second: the codec and the reader of each condition that is a second picture, by name.
    """

    shape: tuple[int, ...]
    classes: Sequence[str] = ()
    captions: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    folder: Path | None = None
    codec: Codec | None = None
    depth: int = 16
    second: Mapping[str, tuple[Codec, Reader]] = field(default_factory=dict)


def vocabulary_of(name: str) -> str:
    """The file of a trained text encoder's vocabulary, by the name of its condition."""
    return "tokenizer.json" if name == "text" else f"tokenizer-{name}.json"


def files_needed(conditions: Mapping[str, ConditionSettings]) -> list[str]:
    """The names of the files that a saved model must have for its conditions besides weights."""
    return [vocabulary_of(name) for name, settings in conditions.items() if settings.kind == "text"]


def of_class(name: str, settings: Any, known: Known) -> Conditioner:
    return ClassConditioner(known.classes, settings.width)


def of_text(name: str, settings: Any, known: Known) -> Conditioner:
    file = vocabulary_of(name)
    if known.folder is None and file not in known.files:
        tokenizer = train_tokenizer(known.captions, settings.vocabulary)
    else:
        tokenizer = read_tokenizer((known.folder or Path()) / file, known.files.get(file, b""))
    return TextConditioner(tokenizer, settings.width, settings.depth, settings.heads, settings.max_length, file)


def of_sentence(name: str, settings: Any, known: Known) -> Conditioner:
    return SentenceConditioner(settings.encoder, settings.width)


def of_mask(name: str, settings: Any, known: Known) -> Conditioner:
    return MaskConditioner(known.shape, settings.law, known.codec, known.depth)


def of_picture(name: str, settings: Any, known: Known) -> Conditioner:
    return PictureConditioner(known.shape, name, *known.second[name])


def of_smaller(name: str, settings: Any, known: Known) -> Conditioner:
    return SmallerConditioner(known.shape, settings.factor, settings.noise, known.codec, known.depth)


# kind -> (name of the condition, its settings, what is known) -> conditioner
KINDS: dict[str, Callable[[str, Any, Known], Conditioner]] = {
    "class": of_class,
    "text": of_text,
    "sentence": of_sentence,
    "mask": of_mask,
    "smaller": of_smaller,
    "picture": of_picture,
}


def build(conditions: Mapping[str, ConditionSettings], known: Known) -> Conditioners:
    """The conditioner of a model, from ``config.conditions``.

    Raises:
        UserError: a kind must be resolved against data first.
        ValueError: conditions that do not go together.
    """
    parts = {}
    for name, settings in sorted(conditions.items()):
        if settings.kind not in KINDS:
            raise UserError(
                f"conditions.{name}.kind: {settings.kind!r} must be resolved against data before a model can be built",
                fix=f"choose one of {', '.join(KINDS)}",
            )
        parts[name] = KINDS[settings.kind](name, settings, known)
        parts[name].dropout = getattr(settings, "dropout", 0.0)
    return Conditioners(parts)
