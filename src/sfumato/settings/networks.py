"""The networks and their sizes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sfumato.settings.base import Settings, within, word


class UNet(Settings):
    """The convolutional network with skips; strong on small data."""

    kind: Literal["unet"] = "unet"
    channels: int = within(128, 0, 2048, "width of the first level, 8 or more; 0: from the time and the machine")
    multipliers: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        default=(1, 2, 2, 2), min_length=1, max_length=8, description="width of each level in units of `channels`"
    )
    blocks: int = within(2, 1, 8, "residual blocks in each level of the encoder")
    attention_level: int | None = within(1, 0, 7, "the level with self-attention, 0 is the finest; null for none")
    heads: int = within(1, 1, 64, "attention heads")
    patch: Literal[1, 2, 4] = word(1, "side of the pixel blocks folded into channels at the entry")
    dropout: float = within(0.0, 0, 0.9, "dropout of the residual blocks")
    groups: int = within(32, 1, 256, "groups of the group normalisation")
    learned_variance: bool = word(False, "also predict the variance of a step")
    scale_shift: bool = word(False, "the time scales and shifts the norms, instead of being added")
    vector_map: int = within(0, 0, 32, "side of the map that a class or a sentence paints at the entry; 0 for none")

    @model_validator(mode="after")
    def _fits(self) -> UNet:
        if 0 < self.channels < 8:
            raise ValueError(f"channels = {self.channels} is too small: use 8 to 2,048, or 0 for automatic")
        for m in self.multipliers:
            if self.channels * m % self.groups:
                raise ValueError(
                    f"channels = {self.channels} times {m} is not a multiple of groups = {self.groups}: "
                    f"use channels = {max(1, round(self.channels / self.groups)) * self.groups}, or other groups"
                )
        if self.attention_level is not None:
            if self.attention_level >= len(self.multipliers):
                raise ValueError(
                    f"attention_level = {self.attention_level}, but multipliers name {len(self.multipliers)} levels: "
                    f"use 0 to {len(self.multipliers) - 1}, or null for no attention"
                )
            if self.channels * self.multipliers[self.attention_level] % self.heads:
                width = self.channels * self.multipliers[self.attention_level]
                raise ValueError(f"heads = {self.heads} does not divide {width} channels: use a divisor of {width}")
        return self


class DiT(Settings):
    """The transformer on patches; strong on large data."""

    kind: Literal["dit"] = "dit"
    patch: int = within(4, 1, 64, "side of a patch in pixels")
    width: int = within(384, 8, 8192, "width of the tokens")
    depth: int = within(12, 1, 128, "transformer blocks")
    heads: int = within(6, 1, 128, "attention heads")
    learned_variance: bool = word(False, "also predict the variance of a step")

    @model_validator(mode="after")
    def _fits(self) -> DiT:
        if self.width % self.heads or self.width % 4:
            step = math.lcm(4, self.heads)
            raise ValueError(
                f"width = {self.width} is not a multiple of 4 and of heads = {self.heads}: use a multiple of {step}"
            )
        return self


class OwnNetwork(Settings):
    """A network that a program hands in (`sfumato.train(..., network=...)`). A file names it and holds none of it."""

    kind: Literal["own"] = "own"
    name: str = Field(min_length=1, max_length=200, description="name of its class")
    learned_variance: bool = word(False, "whether half of its output channels are the variance of a step")
