"""A run that fits into a time: its pictures' size, its network, its batch and its length, measured on this machine.

The choice is a ladder of (side in pixels, channels of the U-Net, pictures in a step); each rung is two to four times
the work of the one before. Steps of the rungs are timed from the lowest on, with made-up pictures, and the highest rung
whose network still sees ``ENOUGH`` pictures in the time is taken. Settings that the user has given stay.

Then a few steps of the run itself are timed. The run has as many steps as fit into the time that is left by everything
else: reading, sample sheets, validation, checkpoints. All choices are written to config.yaml, and a resumed run keeps
them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import torch

from sfumato import kinds
from sfumato.config import Config, adjusted
from sfumato.data.dataset import Dataset
from sfumato.errors import UserError
from sfumato.keyed import key
from sfumato.model import Model
from sfumato.report import Report
from sfumato.training.environment import device
from sfumato.training.loop import VALIDATION_DRAWS, VALIDATION_PICTURES, Trainer
from sfumato.training.room import demand_room
from sfumato.training.samples import sheet_conditions

HOUR = 3600.0  # seconds of a run that is given neither a length nor a time
# Pictures that a network must see, each counted as often as it is seen. Two of three drawn emoji were recognised after
# 192,000, nine of ten after 640,000; at equal time a network of twice the channels was behind while it had seen 10,000.
ENOUGH = 200_000
EPOCHS, FEWEST = 400, 2_000  # a run that was given no time ends after so many epochs, yet has so many steps
LADDER = ((32, 32, 32), (32, 64, 64), (64, 32, 32), (64, 64, 64), (128, 64, 64), (128, 128, 64))
MADE_UP = 64  # pictures that steps of a rung are timed on
WARM_UP, MEASURED = 1, 3  # steps; the first one allocates, and compiles where that is asked for
MEASURING = 0.03  # share of the time after which no further step of a network is measured
SPARE = 0.05  # share of the time that is kept for a machine that slows down
SURE, LATE = 0.1, 1.15  # share of the steps after which it is said that a run will be late; by how much it must be
BYTES_A_SECOND = 200e6  # of a checkpoint that is hashed and flushed, on a plain disk

# What happens at intervals: the most times in a run, and the largest share of its time.
SHEETS, VALIDATIONS, CHECKPOINTS = (10, 0.10), (20, 0.05), (20, 0.03)


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine: of a step, a sample sheet, a validation, a checkpoint."""

    step: float
    sheet: float
    validation: float
    checkpoint: float


def step_seconds(
    trainer: Trainer, progress: Callable[[int, int], None] = lambda done, total: None, most: float = math.inf
) -> float:
    """The time of one training step, from a few.

    Args:
        trainer: its weights are spent.
        progress: told the steps that were measured, of how many.
        most: seconds after which no further step is begun, so that a slow or busy machine has time left for the run.
    """
    found: list[float] = []
    while len(found) < WARM_UP + MEASURED and sum(found) <= most:
        progress(len(found), WARM_UP + MEASURED)
        begin = time.perf_counter()
        trainer.train_step()
        found.append(time.perf_counter() - begin)
    counted = found[WARM_UP:] or found
    return sum(counted) / len(counted)


def batch_seconds(trainer: Trainer) -> float:
    """The time in which one batch of pictures is drawn, from two steps of it."""
    model, conditions = trainer.model.eval(), sheet_conditions(trainer)[0]
    begin = time.perf_counter()
    with trainer.autocast():
        model.generate(conditions[0], steps=2)
    return (time.perf_counter() - begin) / 2 * model.sampling().steps


def costs(
    trainer: Trainer, progress: Callable[[int, int], None] = lambda done, total: None, held_out: int | None = None
) -> Costs:
    """What parts of a run cost, measured; the trainer's weights are spent.

    Args:
        trainer: of the run, or of one like it on fewer pictures.
        progress: told the steps that were measured, of how many.
        held_out: pictures of the run's validation; the trainer's if not given.

    Raises:
        UserError: a step needs more memory than there is.
    """
    demand_room(trainer)
    training, model = trainer.config.training, trainer.model
    step = step_seconds(trainer, progress, MEASURING * (training.time or HOUR))
    held_out = len(trainer.validation_indices) if held_out is None else held_out
    validated = min(held_out, VALIDATION_PICTURES) * VALIDATION_DRAWS
    size = sum(t.numel() * t.element_size() for part in trainer.parts().values() for t in part.values())
    return Costs(
        step=step,
        sheet=batch_seconds(trainer) * len(model.batches(len(sheet_conditions(trainer)[0]))),
        validation=step / 2 * validated / (training.batch * training.accumulate),  # without the way back, or two thirds
        checkpoint=size / BYTES_A_SECOND,
    )


def times(rule: tuple[int, float], seconds: float, each: float) -> int:
    """How often something is done that takes ``each`` of ``seconds``: at least once."""
    most, share = rule
    return max(1, min(most, int(share * seconds / max(each, 1e-9))))


def length(seconds: float, cost: Costs) -> int:
    """How many steps end, with all that a run does beside them, in ``seconds``; at least one."""
    beside = (
        (1 + times(SHEETS, seconds, cost.sheet)) * cost.sheet
        + times(VALIDATIONS, seconds, cost.validation) * cost.validation
        + times(CHECKPOINTS, seconds, cost.checkpoint) * cost.checkpoint
    )
    return max(1, int((1 - SPARE) * (seconds - beside) / cost.step))


def intervals(config: Config, cost: Costs) -> list[str]:
    """The open intervals of a run whose number of steps is known, as overrides."""
    training = config.training
    seconds = training.steps * cost.step
    rules = {
        "sample_every": (SHEETS, cost.sheet),
        "validate_every": (VALIDATIONS, cost.validation),
        "checkpoint_every": (CHECKPOINTS, cost.checkpoint),
    }
    return [
        f"training.{name}={max(1, math.ceil(training.steps / times(rule, seconds, each)))}"
        for name, (rule, each) in rules.items()
        if not getattr(training, name)
    ]


# --- the ladder --------------------------------------------------------------------------------------------------


def rungs(config: Config, largest: int) -> list[tuple[int, int, int]]:
    """The rungs that agree with the settings that were given.

    Args:
        config: settings, perhaps with open ones.
        largest: side in pixels that the pictures fill.
    """
    size, channels, batch = (
        max(config.codec.sides, default=0),
        getattr(config.network, "channels", 1),
        config.training.batch,
    )
    found: list[tuple[int, int, int]] = []
    for rung in LADDER:
        given = (size or rung[0], channels or rung[1], batch or rung[2])
        if (size or given[0] <= max(largest, LADDER[0][0])) and given not in found:
            found.append(given)
    # Small networks at a larger size stand for large ones at a smaller size: one way up is enough.
    larger = any(rung[0] > LADDER[0][0] for rung in found)
    return [rung for rung in found if not (larger and not size and rung[:2] == LADDER[1][:2])]


def sized(config: Config, largest: Callable[[], int], report: Report) -> Config:
    """``config`` with the side, the channels and the batch of the highest rung that sees enough pictures.

    Args:
        config: settings, perhaps with open ones; as they are where none of the three is open.
        largest: side in pixels that the pictures fill, asked for only when it matters.
        report: told how far it is.

    A network of one's own gets the lowest rung: it has a width already.
    """
    seconds = config.training.time or HOUR
    if config.codec.sides and getattr(config.network, "channels", 1) and config.training.batch:
        return config
    ladder = rungs(config, largest())[: 1 if config.network.kind == "own" else None]
    chosen = on(config, ladder[0])
    pace = pictures_a_second(chosen) if len(ladder) > 1 else 0.0
    for rung in ladder[1:]:
        if pace * seconds < ENOUGH:  # the next one is slower still
            break
        report.progress("measuring networks", ladder.index(rung), len(ladder))
        following = on(config, rung)
        pace = pictures_a_second(following)
        if pace * seconds < ENOUGH:
            break
        chosen = following
    report.progress("measuring networks", len(ladder), len(ladder))
    return chosen


def on(config: Config, rung: tuple[int, int, int]) -> Config:
    """``config`` with the open ones of side, channels and batch as a rung has them."""
    size, channels, batch = rung
    overrides = [] if config.codec.sides else [f"codec.size={size}"]
    if not getattr(config.network, "channels", 1):
        overrides.append(f"network.channels={channels}")
    if not config.training.batch:
        overrides.append(f"training.batch={batch}")
    return adjusted(config, *overrides)


def pictures_a_second(config: Config) -> float:
    """The pace of training, on made-up pictures without a condition; 0 where a step does not fit into the memory."""
    training = config.training
    n = min(training.batch, MADE_UP)
    overrides = ["condition.kind=none", "training.steps=1000000", "objective.kind=simple"]
    overrides += [f"training.{name}=1000000" for name in ("sample_every", "validate_every", "checkpoint_every")]
    config = adjusted(config, *overrides)
    codec = kinds.kind_of(config.codec).codec(config.codec)
    torch.manual_seed(0)
    made_up = SimpleNamespace(
        rows=codec.decode(torch.rand(n, *codec.shape) * 2 - 1),
        captions=[()] * n,
        labels=None,
        classes=(),
        manifest=[{"path": "made up"}] * n,
    )
    torch.manual_seed(key(training.seed, "weights"))
    model = Model.build(config).to(device())
    trainer = Trainer(config, model, cast(Dataset, made_up), range(n), ())
    try:
        demand_room(trainer)
    except UserError:
        return 0.0
    return training.batch * training.accumulate / step_seconds(trainer, most=MEASURING * (training.time or HOUR))


# --- the length --------------------------------------------------------------------------------------------------


def timed(config: Config, cost: Costs, pictures: int, elapsed: float) -> Config:
    """``config`` with its length and its intervals.

    Args:
        config: settings; those that are given stay.
        cost: on this machine.
        pictures: how many there are.
        elapsed: seconds of the run that are gone already.
    """
    training = config.training
    if not training.steps:
        steps = length((training.time or HOUR) - elapsed, cost)
        if not training.time:
            steps = min(steps, max(FEWEST, EPOCHS * pictures // (training.batch * training.accumulate)))
        config = adjusted(config, f"training.steps={steps}")
    return adjusted(config, *intervals(config, cost))


def chosen(config: Config, cost: Costs) -> str:
    """What was chosen, in a line."""
    training = config.training
    network = f"U-Net of {config.network.channels} channels, " if config.network.kind == "unet" else ""
    seconds = duration(training.steps * cost.step)
    return (
        f"chosen for this machine: {kinds.kind_of(config.codec).codec(config.codec).describe()}, {network}"
        f"{training.steps:,} steps of {training.batch * training.accumulate} pictures, {seconds} of steps"
    )


@dataclass
class Promise:
    """A run's time, and whether its steps will keep it on a machine that may have become busy.

    Attributes:
        time: seconds that the run was given; 0 for none.
        steps: its length.
        told: whether it was said that it will be late; once is enough.
    """

    time: float
    steps: int
    told: bool = False

    def broken(self, step: int, seconds: float) -> str:
        """What to say, the first time that the run will clearly be late, after ``step`` steps that took ``seconds``."""
        expected = seconds / max(1, step) * self.steps
        if self.told or not self.time or step < SURE * self.steps or expected < LATE * self.time:
            return ""
        self.told = True
        return (
            "this machine is slower than when the run's length was chosen: its steps will take about "
            f"{duration(expected)}, not {duration(self.time)}. Beside other work one thread is often faster: stop "
            "with Ctrl-C, which saves, and go on with --set training.threads=1"
        )


def duration(seconds: float) -> str:
    """ "6 h 30 min", "12 min" or "45 s"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
