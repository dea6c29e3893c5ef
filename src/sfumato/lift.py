"""Settings and weights of older versions under today's names: the one place that knows both.

    condition: {kind: sentence, width: 64}    ->    conditions: {text: {kind: sentence, width: 64}}
    data: {size: 32, channels: 3}             ->    codec: {kind: pixels, size: 32, channels: 3}
    objective: {time_law: uniform}            ->    times: {kind: uniform}

Settings from a file or from ``--set`` are lifted before they are checked. Settings with today's names stay as they are.
"""

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from sfumato.errors import ConfigError

Entry = TypeVar("Entry")

MOVED = {("data", "size"): ("codec", "size"), ("data", "channels"): ("codec", "channels")}
TIMES = {"time_law": "kind", "time_mean": "mean", "time_std": "std"}  # of the objective -> of the times
OF_OBJECTIVE = {"simple": {"weight"}, "hybrid": {"weight", "chain", "vlb_share"}, "vlb": {"chain"}}
NAMES = {"sentence": "text"}  # kind of the single condition of old -> its name today; other kinds keep theirs


def lifted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings of a run under today's names.

    Raises:
        ConfigError: an old name could stand for several of today's.
    """
    return _one_condition(_times(_moved(copy.deepcopy(dict(settings)))))


def lifted_name(name: str) -> str:
    """The dotted name that a setting has today; "conditions" for each setting of the old, nameless condition."""
    group, _, rest = name.partition(".")
    if group == "objective" and rest in TIMES:
        return f"times.{TIMES[rest]}"
    if group == "condition":
        return "conditions"
    return ".".join(MOVED.get((group, rest), (name,)))


def _moved(settings: dict[str, Any]) -> dict[str, Any]:
    """Move the shape of the data out of the group ``data``, where it was."""
    for (group, name), (new_group, new_name) in MOVED.items():
        if isinstance(settings.get(group), dict) and name in settings[group]:
            settings.setdefault(new_group, {})[new_name] = settings[group].pop(name)
    if isinstance(settings.get("codec"), dict):
        settings["codec"].setdefault("kind", "pixels")
    return settings


def _times(settings: dict[str, Any]) -> dict[str, Any]:
    """Move the law of the times out of the group ``objective``, where it was; there, each kind had the settings of all
    kinds, and a run has written them all."""
    objective = settings.get("objective")
    if not isinstance(objective, dict):
        return settings
    kind = objective.setdefault("kind", "simple")
    given = {new: objective.pop(old) for old, new in TIMES.items() if old in objective}
    if not given:
        return settings
    whole, before = len(given) == len(TIMES), settings.get("times") or {}
    law = given.setdefault("kind", before.get("kind", "uniform"))
    if whole:
        kept = {"kind", *OF_OBJECTIVE.get(str(kind), objective)}
        settings["objective"] = {name: value for name, value in objective.items() if name in kept}
        given = given if law in ("logit_normal", "log_normal") else {"kind": law}
    return {**settings, "times": {**(before if before.get("kind") == law else {}), **given}}


def _one_condition(settings: dict[str, Any]) -> dict[str, Any]:
    """Turn the group ``condition``, from when there was only one, into an entry of ``conditions``."""
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
    """Weights, or what an optimizer keeps of them, under today's names.

    Args:
        weights: by name, perhaps with more text before and after it ("adamw/NAME/exp_avg"). The weight
            "conditioner.embedding.weight" of an old model is "conditioner.class.embedding.weight" today.
        names: the names of the model's weights today.
    """
    parts = {name.split(".")[1] for name in names if name.startswith("conditioner.")}
    if len(parts) != 1:
        return dict(weights)
    old, now = re.compile(rf"(^|/)conditioner\.(?!{re.escape(*parts)}\.)"), rf"\1conditioner.{parts.pop()}."
    return {old.sub(now, name): value for name, value in weights.items()}
