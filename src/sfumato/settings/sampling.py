"""How a model draws, unless asked otherwise."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sfumato.settings.base import Settings, within, word


class Sampling(Settings):
    """How pictures are drawn, unless asked otherwise."""

    solver: Literal[
        "ddpm", "ddim", "heun", "edm", "dpm++2m", "dpm++2s", "dpm++3m", "dpm++2m-sde", "unipc", "deis", "sa"
    ] = word("dpm++2m", "how a step is taken")
    grid: Literal["uniform", "log-snr", "karras", "ays"] = word("uniform", "where the steps are")
    steps: int = within(20, 1, 10000, "steps from noise to picture")
    times: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(), max_length=10001, description="times of the steps, from 1 to 0, instead of the grid"
    )
    guidance: float = within(3.0, 0, 100, "how strictly to follow the prompt; 1: unguided")
    guidance_interval: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = word(
        (0.0, 1.0), "times t between which guidance acts"
    )
    reuse: int = within(1, 1, 16, "steps that share the deep features of a U-Net; 1: exact, 2 or more: faster")
    clip: Literal["auto", False, True] = word(
        "auto", "clip every estimate of the picture to the range of pictures; auto: if the network predicts the noise"
    )
    ema: int = within(0, 0, 7, "index of the average in training.ema that draws")
    prompts: tuple[str, ...] = Field(
        default=(), max_length=256, description="prompts of the sample sheet during training"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Sampling:
        if self.guidance_interval[0] >= self.guidance_interval[1]:
            interval = list(self.guidance_interval)
            raise ValueError(f"guidance_interval = {interval} is empty: write [low, high] with low below high")
        if self.times:
            falls = all(t > s for t, s in pairwise(self.times))
            if self.times[0] != 1 or self.times[-1] != 0 or not falls:
                raise ValueError(f"times = {list(self.times)} must fall from 1 to 0: write e.g. [1, 0.7, 0.3, 0]")
            if self.steps != len(self.times) - 1:
                raise ValueError(
                    f"steps = {self.steps}, but times has {len(self.times) - 1} steps: use that many, or times = []"
                )
        return self
