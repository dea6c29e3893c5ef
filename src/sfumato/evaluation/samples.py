"""The drawn pictures, or other data, that a model is judged by; a drawing that was stopped goes on where it was.

A folder holds `samples.npy`, stored rows (N, ...) as the codec has them; `samples.json`, what was asked for and how
many are done; and the first of them as a person sees them (`show`). Every picture has its own seed, so that the set
does not depend on where drawing was interrupted.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sfumato.codecs.codec import Codec
from sfumato.codecs.grid import encoded
from sfumato.conditioning.conditioners import Asked
from sfumato.conditioning.values import Condition, record_of
from sfumato.diffusion.solvers import Step
from sfumato.drawing import demand_finite
from sfumato.durable import write_array, write_atomically
from sfumato.generation.recipe import of_picture
from sfumato.model import Model
from sfumato.report import Report
from sfumato.settings.sampling import Sampling

SAVE_EVERY = 30.0  # seconds
SHOWN = 8  # rows that are shown


@dataclass(frozen=True, eq=False)
class Samples:
    """What was drawn.

    Attributes:
        rows: stored rows (N, ...).
        conditions: (N) what was asked for.
        seeds: (N).
        seconds: all of the drawing took.
        evaluations: how often the network was asked for a picture, both answers of guidance as one.
    """

    rows: np.ndarray
    conditions: Sequence[Condition]
    seeds: Sequence[int]
    seconds: float
    evaluations: int


def draw_samples(
    model: Model, asked_for: Sequence[Asked], settings: Sampling, seed: int, folder: Path, report: Report
) -> Samples:
    """Draw one picture for each condition; picture i has the seed `seed` + i.

    Args:
        model: in evaluation mode.
        asked_for: (N) conditions, None for no condition.
        settings: from `model.sampling`.
        seed: seed of the first picture.
        folder: keeps the pictures; pictures of the same request in it are not drawn again.
        report: gets the progress.
    """
    conditions = [model.conditioner.normalize(condition) for condition in asked_for]
    total = len(conditions)
    asked = {
        "weights_sha256": model.fingerprint,
        "sampling": of_picture(settings),
        "conditions": [record_of(condition) for condition in conditions],
        "seed": seed,
        "threads": torch.get_num_threads(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    note, file = folder / "samples.json", folder / "samples.npy"
    state = {"done": 0, "seconds": 0.0, "evaluations": 0}
    if note.is_file() and file.is_file():
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept.pop("asked", None) == asked:
            state = kept
    if not state["done"]:
        blank = model.codec.decode(torch.zeros(1, *model.codec.shape))
        write_array(file, blank.dtype, (total, *blank.shape[1:])).flush()
    rows = np.lib.format.open_memmap(file, "r+")

    def save() -> None:
        rows.flush()
        write_atomically(note, json.dumps({**state, "asked": asked}).encode())

    seeds = range(seed, seed + total)
    before, first = state["seconds"], state["done"]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    def tell(places: range, _: int, step: Step) -> None:
        start = first + places.start
        done = start * step.total + len(places) * step.index
        report.progress("drawing", done, total * step.total, f"{start:,} of {total:,} pictures")

    hook = model.denoiser.network.register_forward_hook(count)
    begin = saved = time.monotonic()
    try:
        for places, x in model.drawn(conditions[first:], seeds[first:], settings, on_step=tell):
            stop = first + places.stop
            rows[first + places.start : stop] = model.codec.decode(demand_finite(x))
            state = {"done": stop, "seconds": before + time.monotonic() - begin, "evaluations": calls}
            calls = 0
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()
    finally:
        hook.remove()
        save()
    return Samples(rows, conditions, seeds, state["seconds"], state["evaluations"])


def show(samples: Samples, codec: Codec, folder: Path) -> None:
    """Write the first rows to `folder` as a person sees them, for pages that have no codec: 0.png, 1.png, ..."""
    for i, row in enumerate(samples.rows[:SHOWN]):
        write_atomically(folder / f"{i}.png", encoded(codec.picture(row)))


def drawn_already(folder: Path) -> int:
    """How many pictures a folder of `draw_samples` holds, of any request; for an estimate of the time."""
    note = folder / "samples.json"
    return int(json.loads(note.read_text(encoding="utf-8"))["done"]) if note.is_file() else 0
