"""The best step of a run: at intervals a judge scores what the model draws, and the best step's weights are kept.

Scores and weights are part of the run's state, like the optimizer: a checkpoint holds them (``best.safetensors``),
hashed and written with everything else. So they always belong to the losses and the step in the same checkpoint, and a
run that was killed between two checkpoints has no score of a step that it has yet to repeat.

``sfumato.training.judge`` is the judge.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.report import Report
from sfumato.training.loop import Trainer


@dataclass(frozen=True)
class Score:
    """How far drawn pictures are from real ones; lower is better.

    Attributes:
        name: what was measured, e.g. "KID x 1000".
        value: of the drawn pictures.
        low, high: its interval of 95 %, None if there is only one number.
        control: the same for held-out real pictures, which a perfect model would reach; None if there are too few.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    control: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]"
        control = "" if self.control is None else f"; held-out pictures {self.control:.2f}"
        return f"{self.name} {self.value:.2f}{interval}{control}"

    def numbers(self) -> dict[str, float]:
        """For the log."""
        named = {"score": self.value, "score_low": self.low, "score_high": self.high, "score_control": self.control}
        return {name: value for name, value in named.items() if value is not None}


# Called with the averaged weights in the model; the folder keeps what is made once in a run. It must give the same
# score for the same weights, and report often, because Ctrl-C ends it in a report.
Judge = Callable[[Trainer, Path, Report], Score]


@dataclass
class Best:
    """The scores so far, and the averaged weights of the lowest.

    Attributes:
        scores: (step, score), in order.
        weights: by name, on the CPU; none before the first score.
    """

    scores: list[tuple[int, Score]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def restored(cls, state: Mapping[str, Any], parts: Mapping[str, dict[str, Tensor]]) -> "Best":
        """Restore the results of ``state`` and ``parts``."""
        return cls([(step, Score(**score)) for step, score in state.get("scores", ())], parts.get("best", {}))

    def state(self) -> dict[str, Any]:
        return {"scores": [(step, asdict(score)) for step, score in self.scores]} if self.scores else {}

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {"best": self.weights} if self.weights else {}

    @property
    def lowest(self) -> tuple[int, Score]:
        """Step and score of the kept weights; among equal scores the first."""
        return min(self.scores, key=lambda row: row[1].value)

    def due(self, trainer: Trainer) -> bool:
        """Whether to score the trainer's step: a multiple of ``evaluate_every`` or the last, not scored yet."""
        step, training = trainer.step, trainer.config.training
        if not training.evaluate_every or not step or step in dict(self.scores):
            return False
        return step % training.evaluate_every == 0 or step == training.steps

    def add(self, trainer: Trainer, judge: Judge, folder: Path, report: Report) -> Score:
        """Score the trainer's step, and keep its averaged weights if no score was lower."""
        track = trainer.config.sampling.ema
        trainer.model.eval()
        with trainer.ema.swapped(track):
            score = judge(trainer, folder, report)
        self.scores.append((trainer.step, score))
        if self.lowest[0] == trainer.step:
            tensors = {**trainer.ema.tracks[track], **trainer.model.buffers()}
            self.weights = {name: value.cpu().clone() for name, value in tensors.items()}
        return score

    def record(self) -> dict[str, Any]:
        """The entry for the model's record; empty if nothing was scored."""
        if not self.scores:
            return {}
        step, score = self.lowest
        return {"best_step": step, "best_score": asdict(score), "evaluations": len(self.scores)}
