"""One training run: a folder that explains itself, and one command that starts and resumes it.

run/
  config.yaml         the resolved settings          data.json          hash and description of the data
  environment.json    machine, versions, commit      loss.jsonl         every step's loss
  samples/            same-seed grids from step 0    tensorboard/       the same for TensorBoard
  checkpoint-<step>/  the newest few                 model/             the saved model, when done
  captions.safetensors  what a frozen text encoder made of the captions
  start/                with start.model: a copy of that model
  tokenizer.json        the vocabulary, where a text encoder is trained
  features/             with training.evaluate_every: learned features, and those of the real pictures
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato.config import Config
from sfumato.data.listing import MARKER
from sfumato.data.map_style import MapStyle
from sfumato.diffusion.objectives import Loss
from sfumato.durable import writing
from sfumato.lift import lifted_weights
from sfumato.model import Model, halved
from sfumato.report import Report, Silent
from sfumato.training.best import Best
from sfumato.training.budget import Promise
from sfumato.training.card import loss_curve, model_card, read_losses
from sfumato.training.checkpoint import RunLock, newest_whole, save_checkpoint
from sfumato.training.claim import claim, other_threads, settled
from sfumato.training.events import Callback, Event, Telling
from sfumato.training.interrupts import Interrupted, Interruptible, Stop
from sfumato.training.judge import judge
from sfumato.training.log import Log
from sfumato.training.loop import Trainer, run
from sfumato.training.optimizers import rate_factor
from sfumato.training.own import Own
from sfumato.training.prepared import machine_settings, prepare_run, trainer_of
from sfumato.training.room import demand_room
from sfumato.training.samples import draw_sheet, sample_sheet, sheet_conditions

LOG_EVERY = 20  # steps between two numbers on TensorBoard


def train(
    config: Config,
    out: Path | str,
    report: Report | None = None,
    command: str = "train(...) again",
    *,
    data: MapStyle | None = None,
    network: nn.Module | None = None,
    objective: Loss | None = None,
    callbacks: Sequence[Callback] = (),
) -> Model:
    """Trains, or goes on with, the run in folder ``out`` and returns the finished model (also in ``out/model``).

    Args:
        config: settings; "auto" entries are resolved against the data.
        out: the run folder. One that holds checkpoints is resumed, and goes on where more steps are asked for.
        report: where progress goes.
        command: the command that resumes the run, for messages.
        data, network, objective: parts of one's own in the place of those that the settings name (see
            ``sfumato.training.own.Own``). The run and its model know them by their names.
        callbacks: called with every ``sfumato.training.events.Event``.

    Raises:
        UserError: bad data, a part that cannot be used, another process in the folder, settings that the folder's run
            cannot take, or a damaged run.
        Interrupted: stopped by a signal, everything saved.
    """
    out, told = Path(out), Telling(report or Silent(), callbacks)
    own = Own(data, network, objective)
    config = own.named(config)
    with writing("the run", out):
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()  # so that a run inside a folder of pictures is not taken for pictures
        lock = RunLock(out)
    stop, chance = Stop(out, command), torch.get_rng_state()
    try:
        machine_settings(config)
        prepared = prepare_run(settled(config, out), out, Interruptible(told, stop), own)
        with writing("the run", out):
            claim(out, prepared.config, prepared.data, prepared.model)
        if words := other_threads(out):
            told.say(words)
        trainer = trainer_of(prepared)
        demand_room(trainer)
        with writing("the run", out):
            progress = fit(trainer, out, told, stop)
            if trainer.step < prepared.config.training.steps:
                raise stop.interrupted(f"at step {trainer.step:,}")
            model = finish(trainer, progress, out, {"command": command, **prepared.lineage}, told)
        told.tell(Event("finished", trainer.step, trainer.step, file=out / "model"))
        return model
    finally:
        torch.set_rng_state(chance)  # a network that the program makes next has first weights of its own
        stop.restore()
        lock.release()


@dataclass
class Progress:
    """What a run knows of itself beside its weights.

    Attributes:
        rate: how long its steps took.
        best: the best of those that were scored.
        schedules: {"from": step, "steps": length} of every length that the run was given, the first from step 0.
    """

    rate: "Rate"
    best: Best
    schedules: list[dict[str, int]]


def lengthened(trainer: Trainer, schedules: list[dict[str, int]], report: Report) -> list[dict[str, int]]:
    """``schedules``, and the present one where it is another than the last. From here on the learning rate is that of
    the new length at the same step, so a rate that had begun to fall rises at once; weights, averages and the
    optimizer's moments go on as they are."""
    training, optimizer = trainer.config.training, trainer.config.optimizer
    if schedules and schedules[-1]["steps"] == training.steps:
        return schedules
    if schedules:
        before, now = (
            optimizer.lr * rate_factor(trainer.step, steps, optimizer.warmup, optimizer.decay)
            for steps in (schedules[-1]["steps"], training.steps)
        )
        report.say(
            f"a new length: {training.steps:,} steps instead of {schedules[-1]['steps']:,}, from step {trainer.step:,} "
            f"on; the learning rate goes from {before:.2g} to {now:.2g} and then follows the new length"
        )
    return [*schedules, {"from": trainer.step, "steps": training.steps}]


def fit(trainer: Trainer, out: Path, report: Telling, stop: Stop) -> Progress:
    """Resumes from the newest whole checkpoint, trains to the end or to a signal, and saves."""
    training = trainer.config.training

    report.steps = training.steps

    def tell(name: str, numbers: dict[str, float] | None = None, file: Path | None = None) -> None:
        report.step = trainer.step
        report.tell(Event(name, trainer.step, training.steps, numbers or {}, file=file))

    found = newest_whole(out, report.say)
    state, parts = found or ({"log_bytes": 0, "seconds": 0.0}, {})
    parts = {part: lifted_weights(tensors, trainer.parameters) for part, tensors in parts.items()}
    best = Best.restored(state, parts)
    if found:
        trainer.restore(state["step"], parts, state.get("frozen", ""))
        report.say(f"resuming at step {trainer.step:,} of {training.steps:,}")
    schedules = lengthened(trainer, state.get("schedules", []), report)
    log = Log(out, state["log_bytes"], trainer.step, report.say)
    rate = Rate(training.batch * training.accumulate, state["seconds"], state.get("waited", 0.0))

    promise = Promise(training.time, training.steps)

    def on_step(numbers: dict[str, float]) -> None:
        seconds, waited = numbers.pop("seconds"), numbers.pop("waited")
        log.write(trainer.step, **numbers)
        speed = rate.update(seconds, waited)
        note = f"loss {rate.smooth(numbers['loss']):.4f}  {speed:.0f} pictures/s"
        report.progress("training", trainer.step, training.steps, note)
        if late := promise.broken(trainer.step, rate.total):
            report.say(late)
        if trainer.step % LOG_EVERY == 0:
            log.scalars(trainer.step, pictures_per_second=speed, waiting_for_data=waited / seconds, **numbers)
        tell("step", {"pictures_per_second": speed, **numbers})

    def validate() -> None:
        due = trainer.step % training.validate_every == 0 or trainer.step == training.steps
        if not (due and trainer.validation_indices):
            return
        loss = trainer.validate()
        log.write(trainer.step, validation_loss=loss)
        log.scalars(trainer.step, validation_loss=loss)
        report.say(f"step {trainer.step:,}: validation loss {loss:.4f}")
        tell("validated", {"validation_loss": loss})

    def sample() -> None:
        sheet = out / "samples" / f"step-{trainer.step:08d}.png"
        sample_sheet(trainer, sheet)
        tell("sampled", file=sheet)

    def evaluate() -> None:
        if not best.due(trainer):
            return
        score = best.add(trainer, judge, out / "features", Interruptible(report, stop))
        log.write(trainer.step, **score.numbers())
        log.scalars(trainer.step, **score.numbers())
        mark = "  (best so far)" if best.lowest[0] == trainer.step else ""
        report.say(f"step {trainer.step:,}: {score}{mark}")
        tell("evaluated", score.numbers())

    def save() -> None:
        facts = {"log_bytes": log.length(), "seconds": rate.total, "waited": rate.waited, "schedules": schedules}
        facts |= best.state() | ({"frozen": trainer.frozen} if trainer.frozen else {})
        folder = save_checkpoint(out, trainer.step, trainer.parts() | best.parts(), facts, training.keep)
        tell("saved", file=folder)

    try:
        if trainer.step == 0 and not stop():
            sample()
        evaluate()  # what a signal ended in the process before
        report.progress("training", trainer.step, training.steps)
        actions = [
            (1, validate),
            (training.sample_every, sample),
            (1, evaluate),
            (training.checkpoint_every, save),
        ]
        run(trainer, on_step, actions, stop)
        save()
    except BaseException as error:
        # In an evaluation the step before it is done, and the evaluation comes first next time.
        if isinstance(error, Interrupted) or report.failed:
            save()
        raise
    finally:
        log.close()
    return Progress(rate, best, schedules)


def finish(trainer: Trainer, progress: Progress, out: Path, lineage: dict[str, Any], report: Report) -> Model:
    """Puts the averaged weights, the best where steps were scored, into the model and saves it, with its card, sample
    sheet and loss curve."""
    config, model, data = trainer.config, trainer.model, trainer.data
    rate, best = progress.rate, progress.best
    averages, step = trainer.ema.tracks[config.sampling.ema], trainer.step
    if best.scores:
        averages, step = best.weights, best.lowest[0]
        report.say(f"the model gets the weights of step {step:,}, the best of {len(best.scores)} evaluations")
    with torch.no_grad():
        for name, parameter in model.parameters().items():
            value = averages.get(name, parameter)
            parameter.copy_(halved(value) if config.training.half else value)
        for name, buffer in model.buffers().items():
            buffer.copy_(averages.get(name, buffer))  # of the best step, where it was kept
    texts = (model.conditioner.text_of(model.conditioner.normalize(asked)) for asked in sheet_conditions(trainer)[0])
    training, validation = read_losses(out / "loss.jsonl")
    known = [loss for measured_at, loss in validation if measured_at <= step]
    model.record = {
        "steps": trainer.step,
        "hours": rate.total / 3600,
        "waiting_for_data": rate.waited / rate.total if rate.total else 0.0,
        "seed": config.training.seed,
        "precision": str(trainer.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.parameters().values()),
        "validation_loss": known[-1] if known else None,
        "manifest_sha256": data.manifest_hash,
        "pictures": len(data),
        "held_out": len(trainer.validation_indices),
        "environment": json.loads((out / "environment.json").read_text()),
        **lineage,
        **({"schedules": progress.schedules} if len(progress.schedules) > 1 else {}),
        "example": next(filter(None, texts), None),
        **best.record(),
    }
    folder = out / "model"
    draw_sheet(model.eval(), *sheet_conditions(trainer), folder / "samples.png")
    files = {
        "README.md": model_card(config, data, model.record).encode("utf-8", "backslashreplace"),
        "samples.png": (folder / "samples.png").read_bytes(),
        "loss.svg": loss_curve(training, validation).encode(),
    }
    model.save(folder, files, half=config.training.half)
    report.say(f"the model is in {folder}")
    return model


class Rate:
    """Pictures per second over the last steps, the seconds of all steps and what of them was waited for data, and a
    smoothed loss for the eye."""

    def __init__(self, pictures: int, total: float, waited: float) -> None:
        self.pictures, self.total, self.waited = pictures, total, waited
        self.seconds: float | None = None
        self.loss: float | None = None

    def update(self, seconds: float, waited: float) -> float:
        self.total += seconds
        self.waited += waited
        self.seconds = seconds if self.seconds is None else 0.95 * self.seconds + 0.05 * seconds
        return self.pictures / self.seconds

    def smooth(self, loss: float) -> float:
        self.loss = loss if self.loss is None else 0.98 * self.loss + 0.02 * loss
        return self.loss
