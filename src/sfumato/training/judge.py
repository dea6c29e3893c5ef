"""Judging a run while it trains, for ``training.evaluate_every``: KID of what the averaged weights draw.

KID has no bias for few pictures, where a Fréchet distance has a large one. Sfumato learns its features on the training
pictures (``learned_features``), once in a run; `sfumato evaluate` uses the same. Drawn pictures are compared with
training pictures; the control value compares held-out pictures with them.

If there are enough pictures, the prompts of the drawn ones come from other training pictures than those they are
compared with: sets whose conditions agree more than by chance are nearer than their laws are. In small data they do
agree, so a score may lie below the score of held-out pictures, even below 0; the order of the scores is still right.

Seeds, conditions and real pictures are always the same. So the scores of a run share most of their chance, and their
order is more certain than their intervals suggest, which are for new pictures. But the lowest of many scores is also
the luckiest: use `sfumato evaluate`, with other seeds, to say what a finished model is worth.
"""

from pathlib import Path

import numpy as np

from sfumato.conditioning.values import Condition
from sfumato.features.learned import learned
from sfumato.features.spaces import LearnedFeatures, features_of
from sfumato.material import asked_of, chosen
from sfumato.measures.kernel import kid
from sfumato.report import Report
from sfumato.training.best import Score
from sfumato.training.loop import Trainer

REFERENCE = 2000  # training pictures at most; their features are computed once in a run
FEWEST = 16  # held-out pictures for a control value
SEED = 0  # seed of the choice of real pictures; picture i is drawn with seed i


def judge(trainer: Trainer, folder: Path, report: Report) -> Score:
    """The score of the weights that are in the model.

    Args:
        trainer: the trainer, with its model in evaluation mode.
        folder: keeps the learned features, and the features of the real pictures.
        report: gets the progress.

    Raises:
        UserError: the contents of the folder are damaged, or it cannot be written.
    """
    data, (reference, asked, control) = trainer.data, real_pictures(trainer)
    codec = trainer.model.codec
    space = LearnedFeatures(learned(data, codec, np.asarray(trainer.train_indices), folder, report), codec.encode)
    of_reference = features_of(space, data.rows[reference], report, folder)
    rows = drawn(trainer, asked_of(trainer.model, data, asked), report)
    found = kid(of_reference, features_of(space, rows, report))

    real = None
    if len(control) >= FEWEST:
        real = 1000 * kid(of_reference, features_of(space, data.rows[control], report, folder)).mean
    low, high = (None if end is None else 1000 * end for end in (found.low, found.high))
    return Score("KID x 1000", 1000 * found.mean, low, high, real)


def real_pictures(trainer: Trainer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the reference, of the pictures that give the prompts (repeated if there are too few), and of the
    control: the first two are training pictures, the last are held-out ones."""
    n = trainer.config.training.evaluate_pictures
    own, held_out = (np.asarray(i, dtype=np.int64) for i in (trainer.train_indices, trainer.validation_indices))
    order = chosen(own, REFERENCE + n, SEED)
    return order[:REFERENCE], np.resize(order[-n:], n), chosen(held_out, n, SEED)


def drawn(trainer: Trainer, conditions: list[Condition], report: Report) -> np.ndarray:
    """Stored rows (N, ...), one a condition, in the precision of the training; picture i has seed i."""
    model, rows = trainer.model, []
    with trainer.autocast():
        report.progress("drawing to evaluate", 0, len(conditions))
        for places, x in model.drawn(conditions, range(len(conditions)), model.sampling()):
            # An early network may diverge; that makes a bad score, and is not worth a run.
            rows.append(model.codec.decode(x.nan_to_num()))
            report.progress("drawing to evaluate", places.stop, len(conditions))
    return np.concatenate(rows)
