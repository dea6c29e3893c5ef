"""The sample sheet of a run: the same seeds and prompts at every interval, so that progress can be seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfumato.codecs.grid import encoded, labelled_grid
from sfumato.conditioning.conditioners import Asked
from sfumato.conditioning.values import words_of
from sfumato.durable import write_atomically
from sfumato.material import asked_of
from sfumato.model import Model
from sfumato.training.loop import Trainer

PICTURES = 16
COLUMNS = 8


def sheet_conditions(trainer: Trainer) -> tuple[Sequence[Asked], int]:
    """The conditions of the sheet, and its columns.

    They are the recipe's prompts; or, if there are only classes, two of every class; or the conditions of held-out
    pictures; and then pictures without a condition.
    """
    prompts, model = trainer.config.sampling.prompts, trainer.model
    if prompts:
        return list(prompts), COLUMNS
    parts = list(model.conditioner.parts.values())
    if len(parts) == 1 and parts[0].classes:
        classes = list(parts[0].classes[:PICTURES])
        return 2 * classes, len(classes)
    shown = list(trainer.validation_indices or trainer.train_indices)[:PICTURES]
    asked = asked_of(model, trainer.data, np.array(shown, dtype=np.int64))
    return [*asked, *[None] * (PICTURES - len(asked))], COLUMNS


def draw_sheet(model: Model, conditions: Sequence[Asked], columns: int, path: Path) -> None:
    """Draws each condition with the seed of its place and writes the labelled sheet to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = []
    for _, x in model.drawn(conditions, range(len(conditions)), model.sampling()):
        # An early network may diverge: the sheet should show it, but it should not end the run.
        pictures += model.pictures(x.nan_to_num())
    labels = [words_of(model.conditioner.normalize(asked)) for asked in conditions]
    write_atomically(path, encoded(labelled_grid(pictures, labels, columns)))


def sample_sheet(trainer: Trainer, path: Path) -> None:
    """The sheet of a run at its present step, drawn with the averaged weights."""
    trainer.model.eval()
    with trainer.ema.swapped(trainer.config.sampling.ema), trainer.autocast():
        draw_sheet(trainer.model, *sheet_conditions(trainer), path)
