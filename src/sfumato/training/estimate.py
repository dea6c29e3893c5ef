"""What a run will cost, before it starts: measured on a few real steps on this machine, not guessed."""

import dataclasses
import math
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from sfumato import kinds, saved
from sfumato.config import Config
from sfumato.data.policies import enforce
from sfumato.data.preparation import Report as Scan
from sfumato.data.preparation import prepare, row_bytes, scan
from sfumato.report import Report
from sfumato.training.budget import MEASURED, batch_seconds, costs, duration, timed
from sfumato.training.claim import settled
from sfumato.training.environment import device
from sfumato.training.loop import Trainer
from sfumato.training.prepared import build, fitted, machine_settings, trainer_of
from sfumato.training.resolve import gate, source_of
from sfumato.training.room import free_bytes
from sfumato.training.samples import sheet_conditions
from sfumato.training.start import Donor

TRIAL = 256  # pictures that are prepared for the measured steps


@dataclass(frozen=True)
class Estimate:
    """The cost of a run; printed, it is what ``--dry-run`` shows."""

    scan: Scan
    config: Config
    parameters: int
    pictures_per_second: float
    seconds: float
    memory_bytes: int
    free_bytes: int
    disk_bytes: int
    gate: str = ""

    def __str__(self) -> str:
        training = self.config.training
        seen = training.steps * training.batch * training.accumulate
        rows = {
            "parameters": f"{self.parameters:,}",
            "shape": f"{kinds.kind_of(self.config.codec).codec(self.config.codec).describe()}, "
            f"conditions: {self.config.conditions_in_words}",
            "steps": f"{training.steps:,} of {training.batch * training.accumulate} pictures "
            f"({seen / max(1, self.scan.pictures):,.0f} epochs)",
            "speed": f"{self.pictures_per_second:,.0f} pictures/s, measured over {MEASURED} steps",
            "time": duration(self.seconds) + (f" of {duration(training.time)}" if training.time else ""),
            "memory": f"{self.memory_bytes / 2**30:.1f} GiB at the peak, measured; "
            f"{self.free_bytes / 2**30:.1f} GiB are free",
            "disk": f"{self.disk_bytes / 2**20:,.0f} MiB",
        }
        lines = [str(self.scan), *(f"{name:<12}{value}" for name, value in rows.items())]
        return "\n".join([*lines, self.gate] if self.gate else lines)


def dry_run(config: Config, report: Report, out: Path | None = None) -> Estimate:
    """Read all the data, train a few steps on some of it in a temporary folder, and add up the cost.

    Args:
        config: settings; "auto" entries are resolved against the data and the machine.
        report: where progress goes.
        out: the run folder that training would use; nothing is written to it.

    Raises:
        UserError: training would refuse the settings, the pictures or the folder, in the same words.
    """
    begin = time.perf_counter()
    machine_settings(config)
    config = settled(config, out) if out else config
    donor = Donor.read(config.start.model, saved.model_folder(config.start.model)) if config.start.model else None
    source = source_of(config)
    config = fitted(config, source, donor, report)
    reader = kinds.kind_of(config.codec).reader(config)
    beside = kinds.readers_beside(config)
    found = scan(
        source,
        reader,
        beside=beside,
        progress=lambda done, total: report.progress("checking pictures", done, total),
    )
    enforce(config.data.policy, source, found.pictures, list(found.faults))
    bad = {fault.path for fault in found.faults}
    usable = [record for record in source.records if record.locator not in bad]
    free = free_bytes(device())
    with tempfile.TemporaryDirectory() as folder:
        # without groups, of which so few pictures may be one
        few = [dataclasses.replace(record, group=None) for record in usable[:: -(-len(usable) // TRIAL)]]
        trial = dataclasses.replace(source, records=few, faults=())
        data = prepare(trial, reader, Path(folder) / "data", beside=beside)
        captions = [caption for record in usable for caption in record.captions]
        prepared = build(config, data, captions, len(usable), donor)
        trainer = trainer_of(prepared)
        held_out = round((prepared.config.data.validation or 0) * len(usable))
        cost = costs(trainer, lambda done, total: report.progress("measuring", done, total), held_out)
        trainer.config = timed(prepared.config, cost, len(usable), time.perf_counter() - begin)
        drawing = drawing_seconds(trainer)
    config, model = trainer.config, prepared.model
    training = config.training
    checkpoint = sum(t.numel() * t.element_size() for part in trainer.parts().values() for t in part.values())
    rows = len(usable) * (row_bytes(reader) + sum(row_bytes(each) for _, each in beside.values()))
    saving = -(-training.steps // training.checkpoint_every) * cost.checkpoint
    validating = -(-training.steps // training.validate_every) * cost.validation
    return Estimate(
        scan=found,
        config=config,
        parameters=sum(p.numel() for p in model.parameters().values()),
        pictures_per_second=training.batch * training.accumulate / cost.step,
        seconds=training.steps * cost.step + drawing + saving + validating,
        memory_bytes=peak_memory(model.device) + rows,
        free_bytes=free,
        disk_bytes=checkpoint * (training.keep + 1) + rows,
        gate=gate(config, held_out),
    )


def drawing_seconds(trainer: Trainer) -> float:
    """The time of all that is drawn in a run, from two steps of one batch: the sample sheets, of which there is one
    before and one after it, and the evaluations. The features that these learn, once a run, are not in it."""
    model, training = trainer.model.eval(), trainer.config.training
    conditions = sheet_conditions(trainer)[0]
    batch = batch_seconds(trainer)
    batches = (2 + training.steps // training.sample_every) * len(model.batches(len(conditions)))
    if training.evaluate_every:
        evaluations = math.ceil(training.steps / training.evaluate_every)
        batches += evaluations * len(model.batches(training.evaluate_pictures))
    return batch * batches


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes, of the graphics card if there is one, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
