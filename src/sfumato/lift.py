"""From settings as an earlier version wrote them to those of today: recipes, run
folders and saved models stay readable."""

from __future__ import annotations

import copy
from typing import Any

MOVED = {("data", "size"): ("codec", "size"), ("data", "channels"): ("codec", "channels")}


def lifted(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy of `settings` in which what has moved stands in its new place."""
    settings = copy.deepcopy(settings)
    for (group, name), (new_group, new_name) in MOVED.items():
        if isinstance(settings.get(group), dict) and name in settings[group]:
            settings.setdefault(new_group, {})[new_name] = settings[group].pop(name)
    if isinstance(settings.get("codec"), dict):
        settings["codec"].setdefault("kind", "pixels")
    return settings
