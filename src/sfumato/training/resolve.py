"""What "auto" means: the settings of the recipe `folder` that wait for the data and the machine.

The rules are few and written down, so that a person can predict and override each:

* ``data.path``: a folder, or the name of a data set that ``sfumato data get`` has brought.
* ``codec``: what the files are. Pictures have one channel where all are grey, more than 8 bits where half of them have
  (``kinds``); their side is at most the largest of 32, 64 and 128 that the median one fills (``budget`` has the rest).
* ``data.validation``: 2 %, or what holds out enough pictures for the release gate, at most an eighth.
* ``condition.kind``: captions -> text, classes -> class, else none.
* ``network.channels``, ``training.batch``, ``training.steps`` and the intervals: what fits the time (``budget``).

With ``start.model``, side, channels, network and text condition are those of that model.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from sfumato import kinds
from sfumato.config import Config, SentenceCondition, Settings, TextCondition, adjusted, validate
from sfumato.data import catalogue
from sfumato.errors import UserError
from sfumato.measures import membership, memorization
from sfumato.user_cache import user_cache

SIZES = (32, 64, 128)
HELD_OUT = 65  # pictures: by chance hardly ever fewer than the 50 that the release gate demands
MOST_HELD_OUT = 1 / 8
LEAST_HELD_OUT = 0.02


def locate(path: str) -> Path:
    """The folder of ``data.path``: on the disk, or a named data set from the local cache."""
    folder = Path(os.path.expanduser(path))  # unchanged where there is no home
    if folder.exists():
        return folder
    if path in catalogue.CATALOGUE:
        cached = user_cache("data") / path
        if not (cached / catalogue.DONE).is_file():
            raise UserError(f"data.path: the data set {path!r} is not here yet", fix=f"sfumato data get {path}")
        return cached
    raise UserError(
        f"data.path: {path!r} is neither a folder nor a named data set ({', '.join(catalogue.CATALOGUE)})",
        fix="give the folder that holds your pictures",
    )


def largest_size(sides: Sequence[int]) -> int:
    """The largest size that the median picture fills, from the short sides of some."""
    found = sorted(sides) or [SIZES[0]]
    median = found[len(found) // 2]
    return max((size for size in SIZES if size <= median), default=SIZES[0])


def like(config: Config, model: Config) -> Config:
    """``config`` with its open codec and network as those of the model that the run begins with."""
    settings = config.model_dump(mode="json")
    own = model.codec.model_dump(mode="json")
    if "kind" in config.codec.open:
        settings["codec"] = own
    for name in config.codec.open:
        settings["codec"][name] = own.get(name, settings["codec"][name])
    if not getattr(config.network, "channels", 1):
        settings["network"] = model.network.model_dump(mode="json")
    return validate(settings, "automatic settings")


def resolve_rest(
    config: Config, pictures: int, captioned: bool, classes: int, preferred: Settings | None = None
) -> Config:
    """Condition and held-out pictures, from what the data turned out to be.

    Args:
        config: settings, perhaps with "auto" left.
        pictures: how many there are.
        captioned: whether any has a caption.
        classes: their number, 0 unless every picture has one.
        preferred: the condition of the model that the run begins with.

    Raises:
        UserError: the settings ask for a condition that the data does not have.
    """
    wanted = config.condition.kind
    if (wanted == "class" and not classes) or (wanted in ("text", "sentence") and not captioned):
        lacking = "class folders were found" if wanted == "class" else "picture has a caption"
        raise UserError(
            f"condition.kind: {wanted} is asked for, but no {lacking} in {config.data.path}",
            fix="use --set condition.kind=auto, which takes what the data has",
        )
    refuse_narrow(config)
    overrides = {}
    if wanted == "auto":
        overrides["condition.kind"] = "text" if captioned else "class" if classes > 1 else "none"
        if captioned and isinstance(preferred, TextCondition | SentenceCondition):
            entries = preferred.model_dump(mode="json")
            overrides |= {f"condition.{name}": value for name, value in entries.items()}
    if config.data.validation is None:
        share = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, HELD_OUT / max(1, pictures)))
        overrides["data.validation"] = round(share, 4)
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in overrides.items())
    return adjusted(config, *given)


def refuse_narrow(config: Config) -> None:
    """Refuses a U-Net that is narrower than what one of its positions shows: `patch` x `patch` pixels.

    It answers with as many numbers. Those of noise have nothing in common that fewer channels could hold, so noise
    would stay in what it draws, however long it is trained.

    Raises:
        UserError: `network.channels` is too small for `network.patch`.
    """
    if config.codec.open:
        return
    network, shown = config.network, kinds.kind_of(config.codec).codec(config.codec).shape[0]
    if network.kind != "unet" or not network.channels or network.channels >= network.patch**2 * shown:
        return
    numbers = network.patch**2 * shown
    raise UserError(
        f"network.channels = {network.channels} cannot carry the {numbers} numbers of {network.patch} x "
        f"{network.patch} pixels (network.patch): noise would stay in every picture",
        fix=f"use network.channels of {-(-numbers // network.groups) * network.groups} or more, or a smaller patch",
    )


def gate(config: Config, held_out: int) -> str:
    """What to say before training where too few pictures are held out for the release gate; else nothing."""
    demanded = [*config.release.at_least, *config.release.at_most]
    needs = {"memorization": memorization.FEWEST, "membership": membership.FEWEST}
    short = {name: n for name, n in needs.items() if n > held_out and any(row.startswith(name) for row in demanded)}
    if not short:
        return ""
    told = " and ".join(f"{name} ({n} pictures)" for name, n in short.items())
    return (
        f"`sfumato release` will refuse this model: its gate measures {told} on held-out pictures, and {held_out} are "
        "held out. Add pictures, raise data.validation, or train from a recipe whose group `release` is without them"
    )
