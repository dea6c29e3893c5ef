"""The sample sheet of a run: the same seeds and prompts at every interval, so that progress can be seen."""

from collections.abc import Sequence
from pathlib import Path

from sfumato.codecs.grid import encoded, labelled_grid
from sfumato.conditioning.conditioners import Condition
from sfumato.durable import write_atomically
from sfumato.material import conditions_of
from sfumato.model import Model
from sfumato.training.loop import Trainer

PICTURES = 16
COLUMNS = 8


def sheet_conditions(trainer: Trainer) -> tuple[list[Condition], int]:
    """What the sheet shows, and its columns: the recipe's prompts; else two of every class; else the captions of
    held-out pictures; else pictures without a condition."""
    config, data = trainer.config, trainer.data
    if config.sampling.prompts:
        return list(config.sampling.prompts), COLUMNS
    if config.condition.kind == "class":
        classes: list[Condition] = list(data.classes[:PICTURES])
        return 2 * classes, len(classes)
    shown = list(trainer.validation_indices or trainer.train_indices)[:PICTURES]
    texts = [conditions_of(data, i, config.condition.kind) for i in shown]
    return ([row[0] if row else None for row in texts] + [None] * PICTURES)[:PICTURES], COLUMNS


def draw_sheet(model: Model, conditions: Sequence[Condition], columns: int, path: Path) -> None:
    """Draws each condition with the seed of its place and writes the labelled sheet to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = []
    for _, x in model.drawn(conditions, range(len(conditions)), model.sampling()):
        # An early network may diverge; that is worth seeing on the sheet, and not worth a run.
        pictures += model.pictures(x.nan_to_num())
    write_atomically(path, encoded(labelled_grid(pictures, [c or "" for c in conditions], columns)))


def sample_sheet(trainer: Trainer, path: Path) -> None:
    """The sheet of a run at its present step, drawn with the averaged weights."""
    trainer.model.eval()
    with trainer.ema.swapped(trainer.config.sampling.ema), trainer.autocast():
        draw_sheet(trainer.model, *sheet_conditions(trainer), path)
