"""One training run: a folder that explains itself, and one command that starts and resumes it.

    run/
      config.yaml         the resolved settings          data.json          hash and description of the data
      environment.json    machine, versions, commit      loss.jsonl         every step's loss
      samples/            same-seed grids from step 0    tensorboard/       the same for TensorBoard
      checkpoint-<step>/  the newest few                 model/             the saved model, when done
"""

import json
import platform
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from sfumato.config import Config
from sfumato.data.dataset import Dataset
from sfumato.data.preparation import prepare
from sfumato.data.sources import open_source
from sfumato.errors import UserError
from sfumato.model import Model
from sfumato.training.card import loss_curve, model_card, read_losses
from sfumato.training.checkpoint import RunLock, newest_whole, save_checkpoint, write_atomically
from sfumato.training.keyed import key
from sfumato.training.log import Log, Report, Silent
from sfumato.training.loop import Trainer, run
from sfumato.training.resolve import adjusted, locate, resolve_rest, resolve_size
from sfumato.training.samples import draw_sheet, sample_sheet, sheet_conditions

LOG_EVERY = 20  # steps between two numbers on TensorBoard


class Interrupted(UserError):
    """Training was stopped by a signal; everything is saved."""


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its first step."""

    config: Config
    data: Dataset
    train_indices: list[int]
    validation_indices: list[int]
    model: Model


def prepare_run(config: Config, out: Path, report: Report) -> Prepared:
    """Reads the data, resolves what the settings left open, and builds the model with its first weights."""
    data = prepared_data(config, out / "data", report)
    config = resolve_rest(
        adjusted(config, f"data.size={data.size}"), len(data), any(data.captions), len(data.classes) if data.labels else 0
    )
    train, validation = data.split(config.data.validation)
    torch.manual_seed(key(config.training.seed, "weights"))
    captions = sorted({c for row in data.captions for c in row})
    model = Model.build(config, data.classes, captions).to(device())
    if config.condition.kind == "sentence":
        report.say(f"encoding {len(captions):,} captions with the frozen encoder {config.condition.encoder!r}")
        model.conditioner.prepare(captions, lambda done, total: report.progress("encoding captions", done, total))
    return Prepared(config, data, list(train), list(validation), model)


def prepared_data(config: Config, cache: Path, report: Report) -> Dataset:
    """The pictures of ``data.path``, checked and fitted to size, from the cache when nothing has changed."""
    source = open_source(locate(config.data.path))
    report.say(source.describe())
    config = resolve_size(config, lambda: short_sides(source.records))
    data = prepare(
        source,
        config.data.size,
        config.data.channels,
        cache,
        policy=config.data.policy,
        progress=lambda done, total: report.progress("reading pictures", done, total),
    )
    report.say(data.describe())
    return data


def device() -> torch.device:
    """The best device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def environment() -> dict:
    """What the run ran on: enough to explain a difference, nothing that names a person or a place."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "sfumato": version("sfumato"),
        "commit": commit or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else device().type,
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class Stop:
    """SIGTERM and Ctrl-C end the run after the step at hand; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0
        main = threading.current_thread() is threading.main_thread()  # signals can be caught there only
        self.before = {s: signal.signal(s, self._catch) for s in (signal.SIGINT, signal.SIGTERM) if main}

    def _catch(self, number: int, frame: object) -> None:
        if self.signal:
            sys.exit(128 + number)
        self.signal = number

    def __call__(self) -> bool:
        return bool(self.signal)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def train(config: Config, out: Path, report: Report | None = None, command: str = "") -> Model:
    """Trains, or goes on with, the run in folder ``out`` and returns the finished model (also in ``out/model``).

    Args:
        config: settings; "auto" entries are resolved against the data.
        out: the run folder; one that holds checkpoints is resumed.
        report: where progress goes.
        command: the command that resumes the run, for messages.

    Raises:
        UserError: bad data, another process in the folder, other settings than the folder's, a damaged run.
        Interrupted: stopped by a signal, everything saved.
    """
    report = report or Silent()
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out)
    stop = Stop()
    try:
        if config.training.threads:
            torch.set_num_threads(config.training.threads)
        prepared = prepare_run(config, out, report)
        claim(out, prepared)
        trainer = Trainer(
            prepared.config, prepared.model, prepared.data, prepared.train_indices, prepared.validation_indices
        )
        hours = fit(trainer, out, report, stop)
        if trainer.step < prepared.config.training.steps:
            raise Interrupted(f"stopped at step {trainer.step:,}; everything is saved in {out}", fix=f"resume: {command}")
        return finish(trainer, out, hours, command, report)
    finally:
        stop.restore()
        lock.release()


def claim(out: Path, prepared: Prepared) -> None:
    """Writes what the run is into a new folder, or checks that the folder holds this very run."""
    config, data = prepared.config, prepared.data
    facts = {"manifest_sha256": data.manifest_hash, "pictures": len(data), "description": data.describe()}
    kept = out / "config.yaml"
    if not kept.exists():
        write_atomically(out / "data.json", json.dumps(facts, indent=1).encode())
        write_atomically(out / "environment.json", json.dumps(environment(), indent=1).encode())
        write_atomically(kept, config.to_yaml().encode())
        return
    if kept.read_text() != config.to_yaml():
        old, new = kept.read_text().splitlines(), config.to_yaml().splitlines()
        changed = [f"{a.strip()} -> {b.strip()}" for a, b in zip(old, new, strict=False) if a != b]
        raise UserError(
            f"{out} holds a run with other settings ({'; '.join(changed[:3]) or 'entries added or removed'})",
            fix="give the settings it was started with, or choose another folder with --out",
        )
    if json.loads((out / "data.json").read_text())["manifest_sha256"] != data.manifest_hash:
        raise UserError(
            f"{out} was trained on other data: the manifest hash differs",
            fix="restore the pictures it was started with, or choose another folder with --out",
        )


def fit(trainer: Trainer, out: Path, report: Report, stop: Stop) -> float:
    """Resumes from the newest whole checkpoint, trains to the end or to a signal, and saves; the hours of all steps."""
    config = trainer.config
    training = config.training
    state = {"log_bytes": 0, "seconds": 0.0}
    found = newest_whole(out, report.say)
    if found:
        state, parts = found
        trainer.restore(state["step"], parts)
        report.say(f"resuming at step {trainer.step:,} of {training.steps:,}")
    log = Log(out, state["log_bytes"], trainer.step)
    rate = Rate(training.batch * training.accumulate, state["seconds"])

    def on_step(numbers: dict[str, float]) -> None:
        seconds = numbers.pop("seconds")
        log.write(**numbers)
        speed = rate.update(seconds)
        report.progress("training", trainer.step, training.steps, f"loss {rate.smooth(numbers['loss']):.4f}  {speed:.0f} pictures/s")
        if trainer.step % LOG_EVERY == 0:
            log.scalars(trainer.step, loss=numbers["loss"], gradient_norm=numbers["gradient_norm"], pictures_per_second=speed)

    def validate() -> None:
        loss = trainer.validate()
        log.write(step=trainer.step, validation_loss=loss)
        log.scalars(trainer.step, validation_loss=loss)
        report.say(f"step {trainer.step:,}: validation loss {loss:.4f}")

    def sample() -> None:
        sample_sheet(trainer, out / "samples" / f"step-{trainer.step:08d}.png")

    def save() -> None:
        save_checkpoint(out, trainer.step, trainer.parts(), {"log_bytes": log.length(), "seconds": rate.total}, training.keep)

    try:
        if trainer.step == 0:
            sample()
        report.progress("training", trainer.step, training.steps)
        run(
            trainer,
            on_step,
            [(training.validate_every, validate), (training.sample_every, sample), (training.checkpoint_every, save)],
            stop,
        )
        save()
    finally:
        log.close()
    return rate.total / 3600


def finish(trainer: Trainer, out: Path, hours: float, command: str, report: Report) -> Model:
    """Puts the averaged weights into the model and saves it, with its card, sample sheet and loss curve."""
    config, model, data = trainer.config, trainer.model, trainer.data
    with torch.no_grad():
        for name, parameter in model.parameters().items():
            average = trainer.ema.tracks[config.sampling.ema][name]
            parameter.copy_(average.half() if config.training.half else average)
    training, validation = read_losses(out / "loss.jsonl")
    model.record = {
        "steps": trainer.step,
        "hours": hours,
        "seed": config.training.seed,
        "precision": str(trainer.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.parameters().values()),
        "validation_loss": validation[-1][1] if validation else float("nan"),
        "manifest_sha256": data.manifest_hash,
        "pictures": len(data),
        "held_out": len(trainer.validation_indices),
        "environment": json.loads((out / "environment.json").read_text()),
        "command": command,
    }
    folder = out / "model"
    draw_sheet(model.eval(), *sheet_conditions(trainer), folder / "samples.png")
    files = {
        "README.md": model_card(config, data, model.record).encode(),
        "samples.png": (folder / "samples.png").read_bytes(),
        "loss.svg": loss_curve(training, validation).encode(),
    }
    model.save(folder, files, half=config.training.half)
    report.say(f"the model is in {folder}")
    return model


class Rate:
    """Pictures per second over the last steps, the seconds of all steps, and a smoothed loss for the eye."""

    def __init__(self, pictures: int, total: float) -> None:
        self.pictures, self.total, self.seconds, self.loss = pictures, total, None, None

    def update(self, seconds: float) -> float:
        self.total += seconds
        self.seconds = seconds if self.seconds is None else 0.95 * self.seconds + 0.05 * seconds
        return self.pictures / self.seconds

    def smooth(self, loss: float) -> float:
        self.loss = loss if self.loss is None else 0.98 * self.loss + 0.02 * loss
        return self.loss
