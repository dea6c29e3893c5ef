"""Every setting of a run: typed, bounded, frozen, and the same in YAML, in Python and on the command line.

A recipe is a YAML file that gives the settings which differ from the defaults below; `--set network.channels=64`
changes one of them. Settings are checked as a whole before anything starts: an unknown name fails with the nearest
known one, a value out of its range with the field, the value, the range and the fix (`config_errors.py`). Names of
schedules, solvers and the like are resolved to objects in `registry.py`; here they are words.

    config = load_recipe("emoji", ["network.channels=64", "training.steps=1000"])
    config.network.channels                                  # 64
    print(config.to_yaml())

Open values (`codec.size: 0`, `training.steps: 0`, a condition of the kind `auto`) are resolved by the training code
from the data and the machine; `Config.automatic` lists those that are left.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)

from sfumato import settings_yaml
from sfumato.config_errors import explain
from sfumato.errors import ConfigError, shown, unknown
from sfumato.lift import lifted

LARGEST_SIZE = 1024
LARGEST_SEED = 2**63 - 1
LONGEST = 30 * 86400.0  # seconds of a run
WITHOUT_INFLUENCE = {"about", "release"}  # groups that change nothing in a run


def within(default: Any, low: float, high: float, meaning: str) -> Any:
    """A number from `low` to `high`."""
    return Field(default, ge=low, le=high, description=meaning)


def word(default: Any, meaning: str) -> Any:
    """One of a few words, a text or a switch: all that needs no bounds beside its type."""
    return Field(default, description=meaning)


class Settings(BaseModel):
    """A frozen group of settings; unknown names are refused, NaN and infinity too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Group = TypeVar("Group", bound=Settings)


class About(Settings):
    """What a recipe is for, and what it costs; shown by `sfumato recipes`, without influence on the run."""

    task: str = word("", "what is learnt from what")
    hardware: str = word("", "what it was run on")
    time: str = word("", "how long it took there")
    score: str = word("", "what it reached")
    licence: str = word("", "of the data")
    notes: str = word("", "for the model card: intended use, limits, attribution")


def checked_group(group: str) -> str:
    """`group`, unless it is a pattern (it has a parenthesis) that cannot be used.

    Raises:
        ValueError: no regular expression, or not exactly one group in it.
    """
    if "(" in group:
        try:
            found = re.compile(group).groups
        except re.error as error:
            raise ValueError(f"group = {group!r} is no regular expression ({error}): write e.g. (.+)_[0-9]+") from None
        if found != 1:
            raise ValueError(f"group = {group!r} has {found} groups: put one pair of ( ) around what is the same")
    return group


class Data(Settings):
    """What is learnt from, and how it is fitted to the codec."""

    path: str = Field(min_length=1, description="a folder, or the name of a public data set (`sfumato data get`)")
    fit: Literal["crop", "pad", "stretch"] = word(
        "crop", "how a picture of another shape is fitted: cut at the centre, bordered, or distorted"
    )
    depth: int = within(16, 0, 16, "bits that files of 16 bits use (12 of many cameras and scanners); 0: from the data")
    validation: float | None = within(
        0.02, 0, 0.5, "fraction of the pictures held out; null: 2 %, more of fewer pictures than a release needs"
    )
    group: str = Field(
        "",
        max_length=200,
        description="pictures that stay together when some are held out: folder, a column of the metadata, or a "
        "pattern of the name with one group, e.g. (.+)_[0-9]+; empty: none",
    )
    flip: bool = word(False, "mirror half of the pictures, where left and right mean the same")
    policy: Literal["stop", "skip", "quarantine"] = word("stop", "what to do about unusable files")
    duplicates: Literal["keep", "drop"] = word(
        "keep",
        "near-duplicates (`sfumato data scan --duplicates`); drop: the first of each stays, of which the model "
        "then learns less by heart",
    )

    @field_validator("group")
    @classmethod
    def _group(cls, group: str) -> str:
        return checked_group(group)


class CodecSettings(Settings):
    """Abstract: what one kind of data is. A kind of your own derives from this; see ``sfumato.kinds.register``."""

    kind: str

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of x_0, without its channels; empty where the data decide and have not been asked."""
        return ()

    @property
    def open(self) -> tuple[str, ...]:
        """The settings that wait for the data."""
        return ()


Side = Annotated[int, Field(ge=4, le=LARGEST_SIZE)]


class PictureSettings(CodecSettings):
    """What pictures are made to."""

    size: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] | tuple[Side, Side] = word(
        32, "side of square pictures in pixels, or [width, height]; 0: from the data and the machine"
    )
    channels: Literal[0, 1, 3, 4] = word(3, "1: grey, 3: colour, 4: colour and alpha; 0: from the data")
    bits: int = within(8, 0, 16, "of a stored value, 8 to 16; 0: from the data")

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

    kind: Literal["pixels"] = "pixels"


class ArrayCodec(CodecSettings):
    """Arrays of one shape: measurements on a grid of 1 to 3 dimensions."""

    kind: Literal["arrays"] = "arrays"
    shape: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = Field(
        default=(), max_length=4, description="of x_0: channels, then 1 to 3 sides; empty: from the data"
    )
    dtype: str = word("", "of a stored value, as NumPy names it; empty: from the data")
    channel_axis: Literal["auto", "none", "first", "last"] = word(
        "auto", "where a file's array has its channels; auto: an end of at most 4 entries beside longer sides"
    )

    @property
    def sides(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(name for name in ("shape", "dtype") if not getattr(self, name))


class AutoCodec(PictureSettings):
    """What the data are: pictures, made to these settings, or arrays."""

    kind: Literal["auto"] = "auto"

    @property
    def open(self) -> tuple[str, ...]:
        return ("kind",)


CODECS: dict[str, type[CodecSettings]] = {}  # kinds that the running program has registered


def _registered(value: Any, known: Callable[[Any], CodecSettings]) -> CodecSettings:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return CODECS[kind].model_validate(value) if isinstance(kind, str) and kind in CODECS else known(value)


class UNet(Settings):
    """The convolutional network with skips; strong on small data."""

    kind: Literal["unet"] = "unet"
    channels: int = within(128, 0, 2048, "width of the first level, 8 or more; 0: from the time and the machine")
    multipliers: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        default=(1, 2, 2, 2), min_length=1, max_length=8, description="width of each level in units of `channels`"
    )
    blocks: int = within(2, 1, 8, "residual blocks a level on the way down")
    attention_level: int | None = within(1, 0, 7, "the level with self-attention, 0 the finest; null for none")
    heads: int = within(1, 1, 64, "attention heads")
    patch: Literal[1, 2, 4] = word(1, "side of the pixel blocks folded into channels at the entry")
    dropout: float = within(0.0, 0, 0.9, "of the residual blocks")
    groups: int = within(32, 1, 256, "of the group normalisation")
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
                    f"channels = {self.channels} times {m} is no multiple of groups = {self.groups}: "
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
    width: int = within(384, 8, 8192, "of the tokens")
    depth: int = within(12, 1, 128, "transformer blocks")
    heads: int = within(6, 1, 128, "attention heads")
    learned_variance: bool = word(False, "also predict the variance of a step")

    @model_validator(mode="after")
    def _fits(self) -> DiT:
        if self.width % self.heads or self.width % 4:
            step = math.lcm(4, self.heads)
            raise ValueError(
                f"width = {self.width} is no multiple of 4 and of heads = {self.heads}: use a multiple of {step}"
            )
        return self


class Start(Settings):
    """What a run begins with."""

    model: str = word("", "a model, by name or folder, whose weights are taken where they fit; empty: random weights")


class Diffusion(Settings):
    """The process and what the network predicts."""

    schedule: Literal["linear", "cosine", "flow", "karras", "learned"] = word("cosine", "how signal turns into noise")
    shift: float = within(1.0, 0.1, 20, "noise against signal, up for large pictures (log-SNR - 2 log shift)")
    parameterization: Literal["epsilon", "x", "v", "flow", "karras"] = word("v", "what the network predicts")
    sigma_data: float = within(0.5, 0.01, 10, "standard deviation of the data in [-1, 1]")


class ConditionSettings(Settings):
    """Abstract: one condition of a model. `needs` is what the data must have: captions, classes or nothing."""

    kind: str
    needs: ClassVar[str] = ""


class AutoCondition(ConditionSettings):
    """What the data has: captions become the condition text, classes the condition class; both where it has both."""

    kind: Literal["auto"] = "auto"


def withheld(default: float = 0.1) -> Any:
    return within(default, 0, 0.9, "fraction of the pictures learnt without it, for guidance")


class ClassCondition(ConditionSettings):
    """One of the classes by name."""

    kind: Literal["class"] = "class"
    needs: ClassVar[str] = "classes"
    width: int = within(256, 8, 4096, "of the class embedding")
    dropout: float = withheld()


class TextCondition(ConditionSettings):
    """A prompt, read by a small transformer trained with the pictures."""

    kind: Literal["text"] = "text"
    needs: ClassVar[str] = "captions"
    width: int = within(192, 16, 2048, "of the tokens")
    depth: int = within(3, 1, 48, "transformer blocks")
    heads: int = within(6, 1, 64, "attention heads")
    vocabulary: int = within(4096, 64, 131072, "tokens, learnt from the captions")
    max_length: int = within(32, 4, 512, "tokens of a prompt that are read")
    dropout: float = withheld()

    @model_validator(mode="after")
    def _fits(self) -> TextCondition:
        if self.width % self.heads:
            raise ValueError(
                f"width = {self.width} is no multiple of heads = {self.heads}: use a multiple of {self.heads}"
            )
        return self


class SentenceCondition(ConditionSettings):
    """A prompt, read by a frozen sentence encoder that knows words beyond the captions."""

    kind: Literal["sentence"] = "sentence"
    needs: ClassVar[str] = "captions"
    encoder: str = word("minilm", "a known encoder or a folder with one")
    width: int = within(512, 8, 4096, "of the trained perceptron on the sentence vector")
    dropout: float = withheld()


class MaskCondition(ConditionSettings):
    """A part of the picture, of which the rest is drawn."""

    kind: Literal["mask"] = "mask"
    law: Literal["boxes", "strokes", "halves", "mixed"] = word("mixed", "of the masks in training; mixed: any of them")
    dropout: float = withheld()


class SmallerCondition(ConditionSettings):
    """The picture itself, smaller: the model draws the fine detail."""

    kind: Literal["smaller"] = "smaller"
    factor: int = within(4, 2, 64, "how many times smaller a side is")
    noise: float = within(0.0, 0, 0.9, "largest standard deviation of the noise on it in training, in units of x")
    dropout: float = withheld()


NAME_RULE = "it begins with a small letter, and has at most 32 small letters, digits, dashes and underscores"
ConditionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description=NAME_RULE)]
AnyCondition = Annotated[
    AutoCondition | ClassCondition | TextCondition | SentenceCondition | MaskCondition | SmallerCondition,
    Field(discriminator="kind"),
]


class Objective(Settings):
    """What is minimised, and at which times."""

    kind: Literal["simple", "hybrid", "vlb"] = word(
        "simple", "weighted squared error; hybrid: with the bound for a learned variance; vlb: the bound alone"
    )
    weight: Literal["simple", "x", "v", "flow", "min_snr", "edm"] = word("v", "weight of the error over noise levels")
    chain: int = within(1000, 2, 100000, "steps of the chain whose bound `hybrid` and `vlb` minimise")
    vlb_share: float = within(1e-3, 0, 1, "share of the bound in `hybrid`")
    time_law: Literal["uniform", "logit_normal", "log_normal", "importance"] = word(
        "uniform", "law of the training times; importance: as often as their terms of the bound matter"
    )
    time_mean: float = within(0.0, -10, 10, "of the time law")
    time_std: float = within(1.0, 0.01, 10, "of the time law")


class Optimizer(Settings):
    """How the weights move."""

    kind: Literal["adamw", "muon"] = word("adamw", "muon: for matrices, AdamW for the rest")
    lr: float = within(2e-4, 1e-8, 1, "learning rate at its peak; Muon's steps are scaled to AdamW's")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = word(
        (0.9, 0.99), "decay of the gradient's moments"
    )
    weight_decay: float = within(0.0, 0, 10, "decoupled")
    warmup: int = within(200, 0, 10**7, "steps of linear rise")
    decay: float = within(0.0, 0, 1, "fraction of the steps, at the end, of linear fall to 0")
    clip: float = within(1.0, 1e-6, 1e6, "largest norm of the gradient")


class Training(Settings):
    """How long, how many at once, and what is kept."""

    steps: int = within(20000, 0, 10**8, "of the optimizer; 0: from the time, the data and the machine")
    time: float = within(
        0.0,
        0,
        LONGEST,
        "seconds, or e.g. 90s, 30m, 1h30m, of a run whose steps are open; 0: an hour, or 400 epochs if less",
    )
    batch: int = within(64, 0, 65536, "pictures a step and accumulation; 0: from the time and the machine")
    accumulate: int = within(1, 1, 4096, "batches a step")
    precision: Literal["auto", "fp32", "bf16"] = word("auto", "auto: the fastest that is safe on the device")
    compile: Literal[False, True, "reduce-overhead", "max-autotune"] = word(
        False, "torch.compile, true for its usual mode; the other two record CUDA graphs"
    )
    activation_checkpointing: bool = word(False, "less memory for more time, and the same numbers")
    seed: int = within(0, 0, LARGEST_SEED, "of weights, order, noise and times")
    ema: tuple[Annotated[float, Field(gt=0, le=0.25)], ...] = Field(
        default=(0.05, 0.10), min_length=1, max_length=8, description="widths sigma_rel of the averages of the weights"
    )
    validate_every: int = within(500, 0, 10**8, "steps between validation losses; 0: from the length of the run")
    sample_every: int = within(1000, 0, 10**8, "steps between sample sheets; 0: from the length of the run")
    evaluate_every: int = within(0, 0, 10**8, "steps between evaluations, of which the best gives the model; 0: none")
    evaluate_pictures: int = within(256, 64, 10**5, "pictures drawn for an evaluation")
    checkpoint_every: int = within(500, 0, 10**8, "steps between checkpoints; 0: from the length of the run")
    keep: int = within(3, 1, 1000, "checkpoints kept")
    half: bool = word(True, "save the model's weights in half precision")
    threads: int = within(0, 0, 1024, "CPU threads; 0: all cores")

    @model_validator(mode="before")
    @classmethod
    def _seconds(cls, values: Any) -> Any:
        time = values.get("time") if isinstance(values, dict) else None
        if not isinstance(time, str):
            return values
        seconds = seconds_of(time)
        if seconds and not 1 <= seconds <= LONGEST:
            raise ValueError(f"time = {time} is not possible: use 1s to 30d, or 0 for automatic")
        return {**values, "time": seconds}


def seconds_of(text: str) -> float:
    """ "90s", "30m", "2h", "1h30m", "1d" or plain seconds -> seconds.

    Raises:
        ValueError: it is not a length of time.
    """
    found = re.fullmatch(r"(?:([0-9.]+)d)?(?:([0-9.]+)h)?(?:([0-9.]+)m(?:in)?)?(?:([0-9.]+)s?)?", text.replace(" ", ""))
    try:
        parts = [float(part) for part in found.groups(default="0")] if found and text.strip() else None
    except ValueError:
        parts = None
    if parts is None:
        raise ValueError(f"time = {text!r} is not a length of time: write e.g. 90s, 30m, 2h or 1h30m")
    days, hours, minutes, seconds = parts
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class Sampling(Settings):
    """How pictures are drawn, unless asked otherwise."""

    solver: Literal[
        "ddpm", "ddim", "heun", "edm", "dpm++2m", "dpm++2s", "dpm++3m", "dpm++2m-sde", "unipc", "deis", "sa"
    ] = word("dpm++2m", "how a step is taken")
    grid: Literal["uniform", "log-snr", "karras", "ays"] = word("uniform", "where the steps are")
    steps: int = within(20, 1, 10000, "from noise to picture")
    times: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(), max_length=10001, description="of the steps, from 1 to 0, in the place of the grid"
    )
    guidance: float = within(3.0, 0, 100, "how strictly to follow the prompt; 1: unguided")
    guidance_interval: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = word(
        (0.0, 1.0), "times t with guidance"
    )
    reuse: int = within(1, 1, 16, "steps that share the deep features of a U-Net; 1: exact, 2 or more: faster")
    clip: Literal["auto", False, True] = word(
        "auto", "every estimate of the picture to the range of pictures; auto: where the network predicts the noise"
    )
    ema: int = within(0, 0, 7, "which of training.ema draws")
    prompts: tuple[str, ...] = Field(default=(), max_length=256, description="of the sample sheet during training")

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


class Release(Settings):
    """What `sfumato release` demands; numbers of the report go by part.row, e.g. membership.auc."""

    at_most: dict[str, float] = Field(default={}, max_length=64, description="largest values of the report's numbers")
    at_least: dict[str, float] = Field(default={}, max_length=64, description="smallest values")
    licences: tuple[str, ...] = Field(default=(), max_length=64, description="allowed ones; empty: any that is stated")


class Config(Settings):
    """All settings of a run."""

    name: str = Field(pattern=r"^[^\W_][\w.-]{0,63}$", description="letters of any script, digits, dots and dashes")
    about: About = About()
    data: Data
    codec: Annotated[
        SerializeAsAny[Annotated[PixelCodec | ArrayCodec | AutoCodec, Field(discriminator="kind")]],
        WrapValidator(_registered),
    ] = PixelCodec()
    network: Annotated[UNet | DiT, Field(discriminator="kind")] = UNet()
    start: Start = Start()
    diffusion: Diffusion = Diffusion()
    conditions: dict[ConditionName, AnyCondition] = Field(default={}, max_length=16)
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    sampling: Sampling = Sampling()
    release: Release = Release()

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, settings: Any) -> Any:
        return lifted(settings) if isinstance(settings, dict) else settings

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.network.learned_variance and self.objective.kind == "simple":
            raise ValueError(
                "network.learned_variance = true, but objective.kind = simple, which does not train a variance: "
                "use objective.kind = hybrid or vlb, or network.learned_variance = false"
            )
        if self.objective.kind == "hybrid" and not self.network.learned_variance:
            raise ValueError(
                "objective.kind = hybrid, but the network has no variance to train: "
                "use network.learned_variance = true, or objective.kind = simple"
            )
        if self.objective.kind != "vlb":
            for field, value, choice in (
                ("objective.time_law", self.objective.time_law, "importance"),
                ("diffusion.schedule", self.diffusion.schedule, "learned"),
            ):
                if value == choice:
                    raise ValueError(
                        f"{field} = {choice}, but objective.kind = {self.objective.kind}: only the bound can learn "
                        f"that; use objective.kind = vlb, or another {field.split('.')[1]}"
                    )
        if self.diffusion.schedule == "learned" and self.diffusion.shift != 1:
            raise ValueError(
                f"diffusion.shift = {self.diffusion.shift:g}, but a learned schedule finds its own ends: use shift = 1"
            )
        if self.sampling.ema >= len(self.training.ema):
            raise ValueError(
                f"sampling.ema = {self.sampling.ema}, but training.ema has {len(self.training.ema)} entries: "
                f"use 0 to {len(self.training.ema) - 1}"
            )
        return self

    @property
    def automatic(self) -> tuple[str, ...]:
        """The settings still to be resolved from the data and the machine."""
        marks = {
            **{f"codec.{name}": True for name in self.codec.open},
            "data.depth": self.data.depth == 0,
            "data.validation": self.data.validation is None,
            "network.channels": getattr(self.network, "channels", 1) == 0,
            "conditions": any(condition.kind == "auto" for condition in self.conditions.values()),
            "training.batch": self.training.batch == 0,
            "training.steps": self.training.steps == 0,
            "training.validate_every": self.training.validate_every == 0,
            "training.sample_every": self.training.sample_every == 0,
            "training.checkpoint_every": self.training.checkpoint_every == 0,
        }
        return tuple(name for name, is_automatic in marks.items() if is_automatic)

    @property
    def conditions_in_words(self) -> str:
        """For people: "class, text (sentence)"."""
        named = [name if name == c.kind else f"{name} ({c.kind})" for name, c in sorted(self.conditions.items())]
        return ", ".join(named) or "none"

    def to_yaml(self) -> str:
        """All settings, defaults included, as a recipe that `load_recipe` reads back to an equal Config."""
        return settings_yaml.dump(self.model_dump(mode="json"))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that can influence the run."""
        text = json.dumps(self.model_dump(mode="json", exclude=WITHOUT_INFLUENCE), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def validate(settings: Mapping[str, Any], where: str, model: type[Group] = Config, given: Iterable[str] = ()) -> Group:
    """`settings` as a checked, frozen `model`.

    Args:
        settings: plain values, as YAML or JSON give them.
        where: a file or a word that begins the error message.
        model: Config, or one group of it.
        given: names of settings that came from the command line and not from `where`.

    Raises:
        ConfigError: names every field at fault with its value, its range and the fix.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise explain(error, where, model, given) from None


def change(settings: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`settings` with `path=value` overrides put in; values are read as YAML ("64", "[1, 2]", "null", "a b").

    A changed `kind` starts its group afresh: what the recipe said of the other kind has no meaning there.
    """
    pairs = []
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path.strip():
            raise ConfigError(
                f"--set {shown(override)} is not of the form name=value", "write e.g. --set network.channels=64"
            )
        pairs.append((path.strip().split("."), settings_yaml.load(value, f"--set {_start(override)}")))

    changed = copy.deepcopy(settings)
    for path, value in sorted(pairs, key=lambda pair: (pair[0][0] != "condition", pair[0][-1] != "kind")):
        if path[0] != "condition" and "condition" in changed:  # an old word, which comes first
            changed = lifted(changed)
        group = changed
        for i, key in enumerate(path[:-1]):
            group = group.setdefault(key, {})
            if not isinstance(group, dict):
                name = ".".join(path[: i + 1])
                raise ConfigError(f"--set {'.'.join(path)}: {name} is no group of settings", f"did you mean {name}?")
        if path[-1] == "kind" and group.get("kind", value) != value:
            group.clear()
        group[path[-1]] = value
    return changed


def _start(text: str) -> str:
    """The beginning of a text from the command line, for a message."""
    return shown(text)[1:-1]


def adjusted(config: Config, *overrides: str) -> Config:
    """``config`` with ``path=value`` overrides, checked again."""
    return validate(change(config.model_dump(mode="json"), overrides), "automatic settings") if overrides else config


def _recipe_files() -> dict[str, Any]:
    folder = files("sfumato") / "recipes"
    return {f.name.removesuffix(".yaml"): f for f in sorted(folder.iterdir(), key=str) if f.name.endswith(".yaml")}


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """A recipe of the package by name, or any YAML file by path, with `path=value` overrides.

    Raises:
        ConfigError: no such recipe or file, unknown settings, values out of range.
    """
    name, shipped = str(name_or_path), _recipe_files()
    if name in shipped:
        text, where = shipped[name].read_text("utf-8"), f"recipe {name}"
    elif os.path.exists(name):
        where, text = name, settings_yaml.read(Path(name))
    else:
        error = unknown("recipe", name, shipped, ConfigError)
        raise ConfigError(error.message, f"{error.fix}, or give the path of a YAML file")

    settings = settings_yaml.load(text, where)
    if not isinstance(settings, dict):
        raise ConfigError(f"{where} holds no settings", "see `sfumato recipes emoji` for an example")

    overrides = list(overrides)
    given = [override.partition("=")[0].strip() for override in overrides]
    return validate(change(lifted(settings), overrides), where, given=given)


def recipes() -> dict[str, Config]:
    """The recipes of the package by name."""
    return {name: load_recipe(name) for name in _recipe_files()}
