"""What a run will cost, before it starts: measured on a few real steps on this machine, not guessed."""

import dataclasses
import math
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from sfumato.config import Config
from sfumato.data.preparation import Report as Scan
from sfumato.data.preparation import prepare, scan
from sfumato.data.sources import open_source
from sfumato.errors import UserError
from sfumato.report import Report
from sfumato.training.loop import Trainer
from sfumato.training.resolve import locate, resolve_size, short_sides
from sfumato.training.run import build, machine_settings
from sfumato.training.samples import sheet_conditions

WARM_UP, MEASURED = 1, 3  # steps; the first one allocates, and compiles where that is asked for
TRIAL = 256  # pictures that are prepared for them


@dataclass(frozen=True)
class Estimate:
    """The cost of a run; printed, it is what ``--dry-run`` shows."""

    scan: Scan
    config: Config
    parameters: int
    pictures_per_second: float
    seconds: float
    memory_bytes: int
    disk_bytes: int

    def __str__(self) -> str:
        hours, minutes = divmod(round(self.seconds / 60), 60)
        training = self.config.training
        seen = training.steps * training.batch * training.accumulate
        rows = {
            "parameters": f"{self.parameters:,}",
            "pictures": f"{self.config.data.size} x {self.config.data.size} x {self.config.data.channels}, "
            f"condition: {self.config.condition.kind}",
            "steps": f"{training.steps:,} of {training.batch * training.accumulate} pictures "
            f"({seen / max(1, self.scan.pictures):,.0f} epochs)",
            "speed": f"{self.pictures_per_second:,.0f} pictures/s, measured over {MEASURED} steps",
            "time": f"{hours} h {minutes:02d} min" if hours else f"{max(1, minutes)} min",
            "memory": f"{self.memory_bytes / 2**30:.1f} GiB at the peak, measured",
            "disk": f"{self.disk_bytes / 2**20:,.0f} MiB",
        }
        return "\n".join([str(self.scan), *(f"{name:<12}{value}" for name, value in rows.items())])


def dry_run(config: Config, report: Report) -> Estimate:
    """Reads all the data, trains a few steps on some of it in a temporary folder, and adds up.

    Raises:
        UserError: no picture is usable, or the settings do not fit the data.
    """
    machine_settings(config)
    source = open_source(locate(config.data.path), config.data.group)
    config = resolve_size(config, lambda: short_sides(source.records))
    found = scan(
        source,
        config.data.size,
        config.data.channels,
        progress=lambda done, total: report.progress("checking pictures", done, total),
    )
    bad = {fault.path for fault in found.faults}
    usable = [record for record in source.records if record.locator not in bad]
    if not usable:
        raise UserError(f"data: none of the {len(source.records)} files is usable\n{found}", fix="mend the files named")
    with tempfile.TemporaryDirectory() as folder:
        # without groups, of which so few pictures may be one
        few = [dataclasses.replace(record, group=None) for record in usable[:: -(-len(usable) // TRIAL)]]
        trial = dataclasses.replace(source, records=few, faults=())
        data = prepare(trial, config.data.size, config.data.channels, Path(folder) / "data")
        captions = [caption for record in usable for caption in record.captions]
        prepared = build(config, data, captions, len(usable))
        trainer = Trainer(prepared.config, prepared.model, data, prepared.train_indices, prepared.validation_indices)
        step = step_seconds(trainer, report)
        drawing = drawing_seconds(trainer)
    training, model = prepared.config.training, prepared.model
    checkpoint = sum(t.numel() * t.element_size() for part in trainer.parts().values() for t in part.values())
    pixels = len(usable) * config.data.size**2 * config.data.channels
    return Estimate(
        scan=found,
        config=prepared.config,
        parameters=sum(p.numel() for p in model.parameters().values()),
        pictures_per_second=training.batch * training.accumulate / step,
        seconds=training.steps * step + drawing,
        memory_bytes=peak_memory(model.device) + pixels,
        disk_bytes=checkpoint * (training.keep + 1) + pixels,
    )


def step_seconds(trainer: Trainer, report: Report) -> float:
    """The time of one training step."""
    for i in range(WARM_UP):
        report.progress("measuring", i, WARM_UP + MEASURED)
        trainer.train_step()
    begin = time.perf_counter()
    for i in range(WARM_UP, WARM_UP + MEASURED):
        report.progress("measuring", i, WARM_UP + MEASURED)
        trainer.train_step()
    return (time.perf_counter() - begin) / MEASURED


def drawing_seconds(trainer: Trainer) -> float:
    """The time of all that is drawn in a run, from two steps of one batch: the sample sheets, of which there is one
    before and one after it, and the evaluations. The features that these learn, once a run, are not in it."""
    model, training, conditions = trainer.model.eval(), trainer.config.training, sheet_conditions(trainer)[0]
    begin = time.perf_counter()
    with trainer.autocast():
        model.generate(conditions[0], steps=2)
    batch = (time.perf_counter() - begin) / 2 * model.sampling().steps

    batches = (2 + training.steps // training.sample_every) * len(model.batches(len(conditions)))
    if training.evaluate_every:
        evaluations = math.ceil(training.steps / training.evaluate_every)
        batches += evaluations * len(model.batches(training.evaluate_pictures))
    return batch * batches


def peak_memory(device: torch.device) -> int:
    """Bytes: of the graphics card where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
