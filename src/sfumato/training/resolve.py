"""What "auto" means: the settings of the recipe `folder` that wait for the data and the machine.

The rules are few and written down, so the user can predict and override each:

* ``data.path``: a folder, or the name of a data set that ``sfumato data get`` has brought.
* ``codec``: the kind of the files. Pictures have one channel if all are grey, and more than 8 bits if half of them have
  (``kinds``). Their side is at most the largest of 32, 64 and 128 that the median picture fills (``budget`` does the
  rest).
* ``data.validation``: 2 %, or what holds out enough pictures for the release gate, at most an eighth.
* a condition of the kind ``auto``: captions -> text, classes -> class; both where the data has both.
* ``network.channels``, ``training.batch``, ``training.steps`` and the intervals: what fits the time (``budget``).

With ``start.model``, side, channels, network and text condition are taken from that model.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato import kinds
from sfumato.config import Config, adjusted, validate
from sfumato.data import catalogue
from sfumato.data.map_style import HANDED_IN
from sfumato.data.records import Asked, Source
from sfumato.data.sources import open_source
from sfumato.errors import UserError
from sfumato.measures import membership, memorization
from sfumato.settings.conditions import ConditionSettings
from sfumato.user_cache import user_cache

SIZES = (32, 64, 128)
HELD_OUT = 65  # pictures: chance hardly ever leaves fewer than the 50 that the release gate demands
MOST_HELD_OUT = 1 / 8
LEAST_HELD_OUT = 0.02


def locate(path: str) -> Path:
    """The folder of ``data.path``: on the disk, or a named data set from the local cache."""
    if path.startswith(HANDED_IN):
        raise UserError(
            f"data.path: {path.removeprefix(HANDED_IN)} is a data set that a program handed in, and no folder",
            fix="give the folder `data` of the run, which holds it as it was prepared, or hand it in again",
        )
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


def source_of(config: Config) -> Source:
    """The data of ``data.path``, listed as the settings ask."""
    data = config.data
    stacked = None if data.stacked == "auto" else data.stacked
    return open_source(locate(data.path), asked=Asked(data.group, stacked, data.array, kinds.columns_asked(config)))


def largest_size(sides: Sequence[int]) -> int:
    """The largest size that the median picture fills, from the short sides of some pictures."""
    found = sorted(sides) or [SIZES[0]]
    median = found[len(found) // 2]
    return max((size for size in SIZES if size <= median), default=SIZES[0])


def like(config: Config, model: Config) -> Config:
    """``config`` with its open codec and network taken from the model that the run begins with."""
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
    config: Config,
    pictures: int,
    captioned: bool,
    classes: int,
    preferred: Mapping[str, ConditionSettings] | None = None,
) -> Config:
    """Resolve conditions and held-out pictures from the data.

    Args:
        config: settings, perhaps with "auto" left.
        pictures: how many there are.
        captioned: whether any has a caption.
        classes: their number, 0 unless every picture has one.
        preferred: the conditions of the model that the run begins with.

    Raises:
        UserError: the settings ask for a condition that the data does not have.
    """
    lacking = {} if captioned else {"captions": "picture has a caption"}
    lacking |= {} if classes else {"classes": "class folders were found"}
    for name, condition in config.conditions.items():
        if condition.needs in lacking:
            raise UserError(
                f"conditions.{name}: the kind {condition.kind} is asked for, but no {lacking[condition.needs]} in "
                f"{config.data.path}",
                fix="use --set condition.kind=auto, which takes what the data has",
            )
    refuse_narrow(config)
    overrides = {}
    if "conditions" in config.automatic:
        overrides["conditions"] = found_in_data(config.conditions, captioned, classes, preferred or {})
    if config.data.validation is None:
        share = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, HELD_OUT / max(1, pictures)))
        overrides["data.validation"] = round(share, 4)
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in overrides.items())
    return adjusted(config, *given)


def refuse_narrow(config: Config) -> None:
    """Refuse a U-Net with fewer channels than one of its positions has numbers: `patch` x `patch` pixels.

    The network answers with as many numbers. The numbers of noise are independent, so fewer channels cannot hold them,
    and noise would stay in every picture, however long it is trained.

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
    """What to say before training if too few pictures are held out for the release gate; otherwise nothing."""
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


def found_in_data(
    conditions: Mapping[str, ConditionSettings],
    captioned: bool,
    classes: int,
    preferred: Mapping[str, ConditionSettings],
) -> dict[str, Any]:
    """``conditions`` as plain settings, with the kind ``auto`` replaced by the conditions of the data.

    The arguments are as for ``resolve_rest``. A condition that the recipe names itself is not added again.
    """
    own = {name: c.model_dump(mode="json") for name, c in conditions.items() if c.kind != "auto"}
    needs = {c.needs for c in conditions.values()}
    like = {name: c.model_dump(mode="json") for name, c in preferred.items() if c.needs == "captions"}
    text = (like or {"text": {"kind": "text"}}) if captioned and "captions" not in needs else {}
    of_class = {"class": {"kind": "class"}} if classes > 1 and "classes" not in needs else {}
    return {**text, **of_class, **own}
