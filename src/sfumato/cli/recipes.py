"""`sfumato recipes`: the list of recipes with cost and score, or one recipe in full."""

from __future__ import annotations

from sfumato import config


def recipes(name: str | None = None, /) -> None:
    """List the recipes with hardware, time and score.

    Parameters
    ----------
    name
        Print all settings of this recipe as YAML instead.
    """
    if name is not None:
        print(config.load_recipe(name).to_yaml(), end="")
        return

    for recipe in config.recipes().values():
        about = recipe.about
        print(f"{recipe.name}: {about.task}")
        for word in ("hardware", "time", "score", "licence"):
            print(f"  {word + ':':10}{getattr(about, word)}")
        print(f"  {'train:':10}sfumato train {'./my-pictures' if recipe.automatic else f'--recipe {recipe.name}'}")
