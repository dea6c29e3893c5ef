"""Settings and weights as older versions wrote them, in the words of today: the one place that knows both.

    condition: {kind: sentence, width: 64}    ->    conditions: {text: {kind: sentence, width: 64}}
    data: {size: 32, channels: 3}             ->    codec: {kind: pixels, size: 32, channels: 3}

What is read from a file is lifted before it is checked, and so is what ``--set`` puts beside it: settings that are
of today already stay as they are.
"""

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from sfumato.errors import ConfigError

Entry = TypeVar("Entry")

MOVED = {("data", "size"): ("codec", "size"), ("data", "channels"): ("codec", "channels")}
NAMES = {"sentence": "text"}  # of the one condition that a model could have; else its kind was its name


def lifted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings of a run in the words of today.

    Raises:
        ConfigError: an old word that could stand for several of today's.
    """
    return _one_condition(_moved(copy.deepcopy(dict(settings))))


def _moved(settings: dict[str, Any]) -> dict[str, Any]:
    """What describes the data's shape was in the group ``data``."""
    for (group, name), (new_group, new_name) in MOVED.items():
        if isinstance(settings.get(group), dict) and name in settings[group]:
            settings.setdefault(new_group, {})[new_name] = settings[group].pop(name)
    if isinstance(settings.get("codec"), dict):
        settings["codec"].setdefault("kind", "pixels")
    return settings


def _one_condition(settings: dict[str, Any]) -> dict[str, Any]:
    """``condition`` was a group of its own before there were several."""
    if not isinstance(settings.get("condition"), dict):
        return settings
    given, others = settings.pop("condition"), settings.get("conditions") or {}
    if "kind" not in given:  # --set condition.width=64
        if len(others) != 1:
            names = ", ".join(others) or "none"
            raise ConfigError(
                f"condition.{next(iter(given), '')}: there is no single condition (there are: {names})",
                "name the one that is meant, e.g. --set conditions.text.width=64",
            )
        [(name, before)] = others.items()
        return {**settings, "conditions": {name: {**before, **given}}}
    kind = str(given["kind"])
    if kind == "none":
        return {**settings, "conditions": {}}
    name = NAMES.get(kind, kind)
    before = next((c for c in others.values() if isinstance(c, dict) and c.get("kind") == kind), {})
    return {**settings, "conditions": {name: {**before, **given}}}


def lifted_weights(weights: Mapping[str, Entry], names: Collection[str]) -> dict[str, Entry]:
    """Weights, or what an optimizer keeps of them, under the names that they have today.

    Args:
        weights: by name, perhaps with more before and after it ("adamw/NAME/exp_avg"). What belonged to the only
            condition of an old model, "conditioner.embedding.weight", is "conditioner.class.embedding.weight" now.
        names: of the model's weights today.
    """
    parts = {name.split(".")[1] for name in names if name.startswith("conditioner.")}
    if len(parts) != 1:
        return dict(weights)
    old, now = re.compile(rf"(^|/)conditioner\.(?!{re.escape(*parts)}\.)"), rf"\1conditioner.{parts.pop()}."
    return {old.sub(now, name): value for name, value in weights.items()}
