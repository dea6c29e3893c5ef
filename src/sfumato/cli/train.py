"""`sfumato train`: from a folder of pictures, or a recipe, to a model."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sfumato.cli.progress import Terminal
from sfumato.config import Config, load_recipe
from sfumato.errors import UserError, shell_line

LONGEST_NAME = 48  # letters; even with four bytes each they are a possible name of a folder


def train(
    path: str | None = None,
    /,
    *,
    recipe: str | None = None,
    out: Path | None = None,
    time: str | None = None,
    changes: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    dry_run: bool = False,
) -> None:
    """Train a model; the same command resumes.

    Parameters
    ----------
    path
        Folder of data, or the name of a public data set (`sfumato data get`); by default the recipe's.
    recipe
        Name of a recipe, or path of a YAML file; by default `folder`, which fits itself to data and machine.
    out
        Run folder for checkpoints, logs, samples and the model; by default runs/NAME.
    time
        How long the run may take, e.g. 90s, 30m or 1h30m; size, network, batch and steps follow from it.
        By default an hour at most, if the recipe leaves the steps open.
    changes
        One setting, e.g. network.channels=64; may be given several times.
    dry_run
        Print pictures, bad files, parameters, steps, memory, time and disk, and stop.
    """
    if time is not None:
        changes = (f"training.time={time}", "training.steps=0", *changes)
    config, out = settings(path, recipe, out, changes)

    from sfumato.training.estimate import dry_run as estimate
    from sfumato.training.run import train as start

    with Terminal() as terminal:
        if dry_run:
            print(estimate(config, terminal, out))
            return
        model = start(config, out, terminal, command=shell_line(["sfumato", *sys.argv[1:]]))
    print(f"draw with it: {command_to_draw(model.record['example'], out / 'model')}")


def command_to_draw(prompt: str | None, model: Path) -> str:
    """A command that draws with a model, from a prompt or class name that the model knows, or without one."""
    words = ["sfumato", "generate", "--model", str(model)]
    if prompt is not None:
        words += ["--", prompt] if prompt.startswith("-") else [prompt]
    return shell_line(words)


def settings(path: str | None, recipe: str | None, out: Path | None, changes: tuple[str, ...]) -> tuple[Config, Path]:
    """The settings and the run folder that a command line asks for."""
    if not path and recipe is None:
        raise UserError(
            "train: there is neither a folder nor a recipe to train from",
            "`sfumato train ./my-pictures` trains on your own pictures, `sfumato recipes` lists the recipes",
        )
    if path is not None:
        changes = (f"data.path={json.dumps(path)}", *changes)
    if path is not None and recipe is None:
        changes = (f"name={json.dumps(name_of(Path(path)))}", *changes)
    config = load_recipe("folder" if recipe is None else recipe, changes)

    from sfumato.training.claim import run_folder

    return config, out or run_folder(Path("runs"), config.name, config.data.path)


def name_of(folder: Path) -> str:
    """A name for a run that learns from a folder: the folder's own name, with its letters of any script."""
    name = unicodedata.normalize("NFC", folder.resolve().name)
    return re.sub(r"[^\w.-]+", "-", name).strip("-._")[:LONGEST_NAME].strip("-._") or "pictures"
