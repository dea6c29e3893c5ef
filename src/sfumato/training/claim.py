"""What a run folder is: one run, on one set of pictures, with settings of which only some may change.

A command is compared with the folder before anything in it is touched. Settings that the command leaves open ("auto")
are taken from the run. Settings that differ are refused by name, except those in ``FREE``: they do not change the
weights, or they are meant to change. Pictures are known by their manifest's hash and not by their path, so a folder may
move and be written as `flat`, `./flat/` or `/data/flat`.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sfumato import saved
from sfumato.config import WITHOUT_INFLUENCE, Config, adjusted, load_recipe
from sfumato.data.dataset import INDEX, Dataset
from sfumato.durable import write_atomically
from sfumato.errors import UserError
from sfumato.model import Model
from sfumato.training.checkpoint import checkpoints, step_of
from sfumato.training.environment import environment
from sfumato.training.resolve import locate
from sfumato.training.start import KEPT

SETTINGS, FACTS, MACHINE = "config.yaml", "data.json", "environment.json"

# Settings in which a command may differ from the run that it resumes. None changes a weight, with two exceptions:
# training.steps and training.time, which lengthen the run, and training.threads, which changes the last bits of a sum.
FREE = {
    "name",
    "data.path",
    "data.policy",
    "sampling.prompts",
    "training.activation_checkpointing",
    "training.checkpoint_every",
    "training.half",
    "training.keep",
    "training.sample_every",
    "training.steps",
    "training.threads",
    "training.time",
    "training.validate_every",
}


def settled(config: Config, out: Path) -> Config:
    """``config`` with its open settings taken from the run in ``out``; unchanged if there is no run yet.

    Raises:
        UserError: the folder holds a run with other settings; they are named, and nothing was touched.
    """
    if not (out / SETTINGS).exists():
        return config
    kept = load_recipe(out / SETTINGS)
    if kept.network.kind == "own" != config.network.kind:
        name = getattr(kept.network, "name", "")
        raise UserError(
            f"{out}: the network of this run is {name}, a part of the program that began it",
            fix=f"hand it in: sfumato.train(config, out, network={name}(...)), or choose another folder with --out",
        )
    config = stretched(adopted(config, kept), config, kept)
    done = max((step_of(folder) for folder in checkpoints(out)), default=0)
    if config.training.steps < done:
        raise UserError(
            f"training.steps = {config.training.steps:,}, but the run in {out} has done {done:,} steps",
            fix=f"give {done:,} steps or more, or choose another folder with --out",
        )
    changed = {name: words for name, words in differences(kept, config).items() if name not in FREE}
    if "start.model" in changed and kept.start.model and same_model(config.start.model, out / KEPT):
        config = adjusted(config, f"start.model={json.dumps(kept.start.model, ensure_ascii=False)}")
        del changed["start.model"]  # the same model, only written in another way
    if changed:
        told = list(changed.values())
        raise UserError(
            f"{out} holds a run with other settings: {'; '.join(told[:3])}{'; ...' if len(told) > 3 else ''}",
            fix="give the settings it was started with, or choose another folder with --out",
        )
    return config


def adopted(config: Config, kept: Config) -> Config:
    """``config``, its open settings taken from ``kept``."""
    overrides = []
    for name in config.automatic:
        *groups, last = name.split(".")
        value: Any = kept.model_dump(mode="json")
        for group in groups:
            value = value[group]
        given = value if last == "kind" else {last: value[last]}
        overrides += [
            f"{'.'.join([*groups, key])}={json.dumps(entry, ensure_ascii=False)}" for key, entry in given.items()
        ]
    return adjusted(config, *overrides)


def stretched(config: Config, asked: Config, kept: Config) -> Config:
    """``config`` with the time of the run if none is given; another time lengthens the run in proportion."""
    before, now = kept.training.time, asked.training.time
    if not now:
        return adjusted(config, f"training.time={before}")
    if asked.training.steps or not before or before == now:
        return config
    return adjusted(config, f"training.steps={round(kept.training.steps * now / before)}")


def differences(kept: Config, config: Config) -> dict[str, str]:
    """The settings in which a command differs from a run, each in words, e.g. "optimizer.lr was 0.001, now 0.002".

    ``about`` and ``release`` have no influence on a run.
    """
    old, new = (flat(c.model_dump(mode="json", exclude=WITHOUT_INFLUENCE)) for c in (kept, config))
    missing = "not there"
    return {
        name: f"{name} was {old.get(name, missing)}, now {new.get(name, missing)}"
        for name in dict.fromkeys([*new, *old])
        if old.get(name, missing) != new.get(name, missing)
    }


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    entries: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{prefix}{name}"
        entries |= flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return entries


def same_model(name: str, folder: Path) -> bool:
    """Whether the model of this name ("" for none) has the same weights as the one in ``folder``."""
    if not name:
        return False
    one, other = (
        saved.read_description(place / saved.DESCRIPTION)["sha256"].get(saved.WEIGHTS)
        for place in (saved.model_folder(name), folder)
    )
    return one == other


def same_pictures(out: Path) -> Callable[[str], None]:
    """A check of a manifest's hash, to be made before newly prepared pictures replace those in ``out``.

    Raises:
        UserError: (the check) the run in ``out`` was started on other pictures.
    """
    facts = json.loads((out / FACTS).read_text()) if (out / SETTINGS).exists() else {}
    # A run that drops near-duplicates has two manifests; a run from before version 0.1.0 names only the last.
    expected = facts.get("prepared_sha256")

    def check(manifest_hash: str) -> None:
        if expected is not None and manifest_hash != expected:
            raise UserError(
                f"{out} was trained on other data: the manifest hash differs",
                fix="restore the pictures it was started with, or choose another folder with --out",
            )

    return check


def claim(out: Path, config: Config, data: Dataset, model: Model) -> None:
    """Write the description of the run into its folder.

    Args:
        out: the run folder; ``settled`` has agreed to the settings.
        config: resolved settings.
        data: the pictures that the run learns from, prepared in ``out/data``.
        model: of the run.

    Raises:
        UserError: the folder holds a run on other pictures.
    """
    kept = out / SETTINGS
    if kept.exists():
        if json.loads((out / FACTS).read_text())["manifest_sha256"] != data.manifest_hash:
            same_pictures(out)("")
    else:
        facts = {
            "manifest_sha256": data.manifest_hash,
            "prepared_sha256": json.loads((out / "data" / INDEX).read_text())["manifest_hash"],
            "pictures": len(data),
            "classes": list(data.classes),
            "description": data.describe(),
        }
        for name, content in model.conditioner.files().items():
            write_atomically(out / name, content)
        write_atomically(out / FACTS, facts)
        write_atomically(out / MACHINE, environment())
    write_atomically(kept, config.to_yaml())


def other_threads(out: Path) -> str:
    """What to say if this process has another number of threads than the run began with; otherwise nothing."""
    before, now = json.loads((out / MACHINE).read_text())["threads"], torch.get_num_threads()
    if before == now:
        return ""
    return (
        f"the run began with {before} thread(s) and goes on with {now}: sums are added up in another order, so the "
        "last bits of the weights are not those of a run that was never stopped"
    )


def run_folder(runs: Path, name: str, path: str) -> Path:
    """``runs/name``, or the first of ``runs/name-2``, ``runs/name-3``, ... that holds no run on other pictures.

    So two folders of pictures with the same name never share a run folder, and the same command finds its run again.

    Args:
        runs: the folder of all runs.
        name: name of the recipe, or of the folder of pictures.
        path: ``data.path`` of the run.
    """
    for number in itertools.count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        kept = folder / SETTINGS
        if not kept.exists() or place(load_recipe(kept).data.path) == place(path):
            return folder
    raise AssertionError("there is always one more number")


def place(path: str) -> str:
    """The same spelling for every path to the same pictures."""
    try:
        return str(locate(path).resolve())
    except UserError:
        return str(Path(path).absolute())
