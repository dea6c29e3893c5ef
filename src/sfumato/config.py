"""Every setting of a run: the groups of `sfumato.settings`, joined, checked as a whole, and read from a recipe.

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
import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from sfumato import settings_yaml
from sfumato.config_errors import explain
from sfumato.errors import ConfigError, shown, unknown
from sfumato.lift import lifted
from sfumato.settings.base import Settings, word
from sfumato.settings.codecs import AnyCodec, PixelCodec
from sfumato.settings.conditions import AnyCondition, ConditionName, PictureCondition
from sfumato.settings.data import Data
from sfumato.settings.learning import Diffusion, Optimizer, Start, Training
from sfumato.settings.networks import DiT, OwnNetwork, UNet
from sfumato.settings.objectives import AnyObjective, AnyTimes, SimpleObjective, UniformTimes
from sfumato.settings.sampling import Sampling

WITHOUT_INFLUENCE = {"about", "release"}  # groups that change nothing in a run

Group = TypeVar("Group", bound=Settings)


class About(Settings):
    """The purpose and the cost of a recipe, shown by `sfumato recipes`; they do not influence the run."""

    task: str = word("", "what is learned from what")
    hardware: str = word("", "the machine that it ran on")
    time: str = word("", "how long it took on that machine")
    score: str = word("", "what it reached")
    licence: str = word("", "of the data")
    notes: str = word("", "for the model card: intended use, limits, attribution")


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
    codec: AnyCodec = PixelCodec()
    network: Annotated[UNet | DiT | OwnNetwork, Field(discriminator="kind")] = UNet()
    start: Start = Start()
    diffusion: Diffusion = Diffusion()
    conditions: dict[ConditionName, AnyCondition] = Field(default={}, max_length=16)
    objective: AnyObjective = SimpleObjective()
    times: AnyTimes = UniformTimes()
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
                ("times.kind", self.times.kind, "importance"),
                ("diffusion.schedule", self.diffusion.schedule, "learned"),
            ):
                if value == choice:
                    raise ValueError(
                        f"{field} = {choice}, but objective.kind = {self.objective.kind}: only the bound can learn "
                        f"that; use objective.kind = vlb, or another {field}"
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
            **{f"conditions.{n}.codec.{name}": True for n, c in self.second_pictures.items() for name in c.codec.open},
            **{f"conditions.{n}.depth": c.depth == 0 for n, c in self.second_pictures.items()},
            "conditions": any(condition.kind == "auto" for condition in self.conditions.values()),
            "training.batch": self.training.batch == 0,
            "training.steps": self.training.steps == 0,
            "training.validate_every": self.training.validate_every == 0,
            "training.sample_every": self.training.sample_every == 0,
            "training.checkpoint_every": self.training.checkpoint_every == 0,
        }
        return tuple(name for name, is_automatic in marks.items() if is_automatic)

    @property
    def second_pictures(self) -> dict[str, PictureCondition]:
        """The conditions that are second pictures of each sample, by name, in order."""
        return {n: c for n, c in sorted(self.conditions.items()) if isinstance(c, PictureCondition)}

    @property
    def columns(self) -> dict[str, str]:
        """The columns that name second pictures, by the names of their conditions."""
        return {name: condition.column or name for name, condition in self.second_pictures.items()}

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
