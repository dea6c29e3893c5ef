"""What "auto" means: the settings of the recipe `folder` that wait for the data and the machine.

The rules are few and written down, so that a person can predict and override each:

* ``data.path``: a folder, or the name of a data set that ``sfumato data get`` has brought.
* ``data.size``: the largest of 32, 64 and 128 that the median picture fills; on a CPU always 32.
* ``condition.kind``: captions -> text, classes -> class, else none.
* ``training.steps``: 400 epochs, at least 2,000 and at most 20,000 steps on a CPU (100,000 on a GPU).
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from sfumato.config import Config, change, validate
from sfumato.data import catalogue
from sfumato.data.formats import formats_of
from sfumato.data.records import Record
from sfumato.errors import UserError
from sfumato.user_cache import user_cache

EPOCHS = 400
STEPS = {"cpu": (2_000, 20_000), "accelerator": (2_000, 100_000)}
SIZES = {"cpu": (32,), "accelerator": (32, 64, 128)}


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


def machine() -> str:
    return "accelerator" if torch.cuda.is_available() or torch.backends.mps.is_available() else "cpu"


def adjusted(config: Config, *overrides: str) -> Config:
    """``config`` with ``path=value`` overrides, checked again."""
    return validate(change(config.model_dump(mode="json"), overrides), "automatic settings") if overrides else config


def short_sides(records: Sequence[Record], at_most: int = 200) -> list[int]:
    """The short sides in pixels of some pictures, read from their headers; broken files do not count."""
    sides = []
    for record in records[:: max(1, -(-len(records) // at_most))]:
        try:
            data = record.open()
            with Image.open(io.BytesIO(data), formats=formats_of(data, record.locator)) as picture:
                sides.append(min(picture.size))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # preparing the data will name the file and its reason
    return sides


def resolve_size(config: Config, sides: Callable[[], list[int]]) -> Config:
    """``data.size`` from the short sides of some pictures, asked for only when the size is open."""
    if config.data.size:
        return config
    choices = SIZES[machine()]
    found = sorted(sides()) or [choices[0]]
    median = found[len(found) // 2]
    return adjusted(config, f"data.size={max((s for s in choices if s <= median), default=choices[0])}")


def resolve_rest(config: Config, pictures: int, captioned: bool, classes: int) -> Config:
    """Condition and number of steps, from what the data turned out to be.

    Args:
        config: settings, perhaps with "auto" left.
        pictures: how many there are.
        captioned: whether any has a caption.
        classes: their number, 0 unless every picture has one.

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
    overrides = []
    if config.condition.kind == "auto":
        overrides.append(f"condition.kind={'text' if captioned else 'class' if classes > 1 else 'none'}")
    if not config.training.steps:
        low, high = STEPS[machine()]
        batch = config.training.batch * config.training.accumulate
        overrides.append(f"training.steps={min(high, max(low, EPOCHS * pictures // batch))}")
    return adjusted(config, *overrides)
