"""About how long an evaluation takes on this machine: measured on a few pictures, printed before it begins."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sfumato.evaluation.settings import Likelihoods
from sfumato.measures.nll import DRAWS
from sfumato.model import Model
from sfumato.settings.sampling import Sampling

PICTURES, STEPS = 8, 2  # pictures and steps of the measurement
SLOPES = 100  # of the probability-flow ODE, about; each has a derivative by every probe, which costs twice as much
SHORT = 20  # seconds; what takes less is not worth a line


@dataclass(frozen=True)
class Cost:
    """Seconds for one picture.

    Attributes:
        picture: from noise to the end, guidance and all.
        evaluation: the network asked once.
    """

    picture: float
    evaluation: float

    @classmethod
    def measured(cls, model: Model, settings: Sampling) -> Self:
        """Draw a few pictures in two steps, after as many that are not timed."""
        short = settings.model_copy(update={"steps": STEPS, "times": ()})
        condition = model.classes[0] if model.classes else None
        for _ in range(2):
            begin = time.perf_counter()
            for _ in model.drawn([condition] * PICTURES, range(PICTURES), short):
                pass
        step = (time.perf_counter() - begin) / (PICTURES * STEPS)
        guided = settings.guidance != 1 and bool(model.conditioner.parts)
        return cls(step * settings.steps, step / 2 if guided else step)

    def likelihood(self, how: Likelihoods, unseen: int) -> float:
        """Seconds of the two bounds and the ODE."""
        return min(how.pictures, unseen) * self.evaluation * (how.chain + DRAWS + SLOPES * (1 + 2 * how.probes))


def told(parts: Sequence[tuple[str, float]], instead: Sequence[tuple[str, float]]) -> str:
    """Lines with the long parts, the sum, and the parts that are left out because nobody asked for them."""
    total = sum(seconds for _, seconds in parts)
    lines = [f"  {name:<48}{duration(seconds)}" for name, seconds in parts if seconds >= SHORT]
    whole = duration(total) if total < 60 else f"about {duration(total)}"
    lines = [f"this takes {whole} here{':' if lines else ''}", *lines]
    lines += [f"  left out is {name} ({duration(seconds)}): --metrics nll" for name, seconds in instead]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A rough time in words: "less than a minute", "4 min", "1 h 20 min"."""
    minutes = math.ceil(seconds / 60)
    if seconds < 60:
        return "less than a minute"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
