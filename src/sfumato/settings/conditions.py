"""The conditions by which pictures may be asked for, by kind."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sfumato.settings.base import Settings, within, word
from sfumato.settings.codecs import AnyCodec, AutoCodec


class ConditionSettings(Settings):
    """Abstract: one condition of a model. `needs` is what the data must have: captions, classes or nothing."""

    kind: str
    needs: ClassVar[str] = ""


class AutoCondition(ConditionSettings):
    """The conditions that the data offer: captions become the condition text, classes the condition class."""

    kind: Literal["auto"] = "auto"


def withheld(default: float = 0.1) -> Any:
    return within(default, 0, 0.9, "fraction of the pictures learned without it, for guidance")


class ClassCondition(ConditionSettings):
    """One of the classes by name."""

    kind: Literal["class"] = "class"
    needs: ClassVar[str] = "classes"
    width: int = within(256, 8, 4096, "width of the class embedding")
    dropout: float = withheld()


class TextCondition(ConditionSettings):
    """A prompt, read by a small transformer trained with the pictures."""

    kind: Literal["text"] = "text"
    needs: ClassVar[str] = "captions"
    width: int = within(192, 16, 2048, "width of the tokens")
    depth: int = within(3, 1, 48, "transformer blocks")
    heads: int = within(6, 1, 64, "attention heads")
    vocabulary: int = within(4096, 64, 131072, "tokens of the vocabulary, learned from the captions")
    max_length: int = within(32, 4, 512, "tokens that are read of a prompt")
    dropout: float = withheld()

    @model_validator(mode="after")
    def _fits(self) -> TextCondition:
        if self.width % self.heads:
            raise ValueError(
                f"width = {self.width} is not a multiple of heads = {self.heads}: use a multiple of {self.heads}"
            )
        return self


class SentenceCondition(ConditionSettings):
    """A prompt, read by a frozen sentence encoder that knows words beyond the captions."""

    kind: Literal["sentence"] = "sentence"
    needs: ClassVar[str] = "captions"
    encoder: str = word("minilm", "a known encoder or a folder with one")
    width: int = within(512, 8, 4096, "width of the trained perceptron on the sentence vector")
    dropout: float = withheld()


class MaskCondition(ConditionSettings):
    """A part of the picture; the model draws the rest."""

    kind: Literal["mask"] = "mask"
    law: Literal["boxes", "strokes", "halves", "mixed"] = word(
        "mixed", "law of the masks in training; mixed: any of them"
    )
    dropout: float = withheld()


class SmallerCondition(ConditionSettings):
    """The picture itself, smaller: the model draws the fine detail."""

    kind: Literal["smaller"] = "smaller"
    factor: int = within(4, 2, 64, "how many times smaller a side is")
    noise: float = within(0.0, 0, 0.9, "largest standard deviation of the noise on it in training, in units of x")
    dropout: float = withheld()


class PictureCondition(ConditionSettings):
    """A second picture or array of each sample, which a column of metadata.csv or metadata.jsonl names."""

    kind: Literal["picture"] = "picture"
    column: str = Field("", max_length=200, description="that names the file; empty: the condition's own name")
    codec: AnyCodec = word(
        AutoCodec(size=0, channels=0, bits=0), "what the files are, as for `codec`; pictures get the size of x"
    )
    depth: int = within(0, 0, 16, "bits that files of 16 bits use; 0: from the data")
    dropout: float = withheld()


NAME_RULE = "it begins with a small letter, and has at most 32 small letters, digits, dashes and underscores"

ConditionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description=NAME_RULE)]

AnyCondition = Annotated[
    AutoCondition
    | ClassCondition
    | TextCondition
    | SentenceCondition
    | MaskCondition
    | SmallerCondition
    | PictureCondition,
    Field(discriminator="kind"),
]
