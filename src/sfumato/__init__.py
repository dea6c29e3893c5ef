"""Sfumato: a folder of data becomes a diffusion model; a prompt becomes a picture.

    import sfumato

    config = sfumato.load_recipe("folder", ["data.path=my-pictures"])
    model = sfumato.train(config, "runs/mine")  # again: sfumato.Model.load("runs/mine/model")
    model.generate("a red apple", seed=7)[0].save("apple.png")

Importing this package costs a few milliseconds; torch and the rest load when a name is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and where they live.
_HOMES = {
    "Config": "sfumato.config",
    "load_recipe": "sfumato.config",
    "recipes": "sfumato.config",
    "Model": "sfumato.model",
    "open_source": "sfumato.data",
    "prepare": "sfumato.data",
    "Pictures": "sfumato.data.readers.pictures",
    "Terminal": "sfumato.cli.progress",
    "train": "sfumato.training.run",
    "open_model": "sfumato.generation.draw",
    "use_backend": "sfumato.export.backend",
    "UserError": "sfumato.errors",
}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
