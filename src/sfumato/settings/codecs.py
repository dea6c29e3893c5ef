"""What one x_0 is: a picture, an array, or a kind that the running program has registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, WrapValidator, model_validator

from sfumato.settings.base import LARGEST_SIZE, Settings, within, word


class CodecSettings(Settings):
    """Abstract: what one kind of data is. A kind of your own derives from this; see ``sfumato.kinds.register``."""

    pictorial: ClassVar[bool] = False  # whether the rows are pictures
    kind: str

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of x_0, without its channels; empty while they wait for the data."""
        return ()

    @property
    def open(self) -> tuple[str, ...]:
        """The settings that wait for the data."""
        return ()


Side = Annotated[int, Field(ge=4, le=LARGEST_SIZE)]


class PictureSettings(CodecSettings):
    """The shape and depth that pictures are fitted to."""

    size: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] | tuple[Side, Side] = word(
        32, "side of square pictures in pixels, or [width, height]; 0: from the data and the machine"
    )
    channels: Literal[0, 1, 3, 4] = word(3, "1: grey, 3: colour, 4: colour and alpha; 0: from the data")
    bits: int = within(8, 0, 16, "bits of a stored value, 8 to 16; 0: from the data")

    @model_validator(mode="after")
    def _fits(self) -> PictureSettings:
        if isinstance(self.size, int) and 0 < self.size < 4:
            raise ValueError(f"size = {self.size} is too small: use 4 to {LARGEST_SIZE}, or 0 for automatic")
        if 0 < self.bits < 8:
            raise ValueError(f"bits = {self.bits} is too few: use 8 to 16, or 0 for automatic")
        return self

    @property
    def sides(self) -> tuple[int, ...]:
        width, height = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return (height, width) if height else ()

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(name for name in ("size", "channels", "bits") if getattr(self, name) == 0)


class PixelCodec(PictureSettings):
    """Pictures as they are: pixels in [-1, 1]."""

    pictorial: ClassVar[bool] = True
    kind: Literal["pixels"] = "pixels"


class ArrayCodec(CodecSettings):
    """Arrays of one shape: measurements on a grid of 1 to 3 dimensions."""

    kind: Literal["arrays"] = "arrays"
    shape: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = Field(
        default=(), max_length=4, description="shape of x_0: channels, then 1 to 3 sides; empty: from the data"
    )
    dtype: str = word("", "type of a stored value, as NumPy names it; empty: from the data")
    channel_axis: Literal["auto", "none", "first", "last"] = word(
        "auto",
        "where a file's array has its channels; auto: a first or last axis of at most 4 entries beside longer sides",
    )

    @property
    def sides(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(name for name in ("shape", "dtype", "channel_axis") if getattr(self, name) in ((), "", "auto"))


class AutoCodec(PictureSettings):
    """Whatever the data are: pictures, fitted to these settings, or arrays."""

    kind: Literal["auto"] = "auto"

    @property
    def open(self) -> tuple[str, ...]:
        return ("kind",)


CODECS: dict[str, type[CodecSettings]] = {}  # kinds that the running program has registered


def _registered(value: Any, known: Callable[[Any], CodecSettings]) -> CodecSettings:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return CODECS[kind].model_validate(value) if isinstance(kind, str) and kind in CODECS else known(value)


AnyCodec = Annotated[
    SerializeAsAny[Annotated[PixelCodec | ArrayCodec | AutoCodec, Field(discriminator="kind")]],
    WrapValidator(_registered),
]
