"""Everything that a run needs before its first step: the data, the complete settings, and the model."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sfumato import kinds
from sfumato.allocator import keep_freed_memory
from sfumato.config import Config
from sfumato.data.dataset import Dataset
from sfumato.data.facts import facts
from sfumato.data.preparation import prepare
from sfumato.data.records import Source
from sfumato.data.unique import unique
from sfumato.durable import writing
from sfumato.keyed import key
from sfumato.machine import demand_threads
from sfumato.model import Model
from sfumato.report import Report
from sfumato.training.budget import chosen, costs, sized, timed
from sfumato.training.claim import same_pictures
from sfumato.training.environment import device
from sfumato.training.loop import Trainer
from sfumato.training.resolve import gate, largest_size, like, resolve_rest, source_of
from sfumato.training.start import Donor, started


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its first step."""

    config: Config
    data: Dataset
    train_indices: list[int]
    validation_indices: list[int]
    model: Model
    lineage: dict[str, Any] = field(default_factory=dict)


def machine_settings(config: Config) -> None:
    """Set what belongs to the process: how it keeps memory, and the number of threads."""
    keep_freed_memory()
    if config.training.threads:
        torch.set_num_threads(demand_threads("training.threads", config.training.threads))


def prepare_run(config: Config, out: Path, report: Report) -> Prepared:
    """Read the data, resolve the open settings, and build the model with its first weights."""
    begin = time.perf_counter()
    donor = started(config, out)
    source = source_of(config)
    config = fitted(config, source, donor, report)
    data = prepared_data(config, out / "data", report, same_pictures(out), source)
    captions = [caption for row in data.captions for caption in row]

    def ready(config: Config) -> Prepared:
        prepared = build(config, data, captions, len(data), donor)
        with writing("the captions' vectors", out):
            prepared.model.conditioner.prepare(
                captions,
                lambda done, total: report.progress("encoding captions", done, total),
                out / "captions.safetensors",
            )
        return prepared

    prepared = ready(config)
    if prepared.config.automatic:
        cost = costs(trainer_of(prepared), lambda done, total: report.progress("measuring", done, total))
        config = timed(prepared.config, cost, len(data), time.perf_counter() - begin)
        report.say(chosen(config, cost))
        prepared = ready(config)  # the weights that were measured with are spent
    tell_of_cuts(prepared.model, sorted(set(captions)), report)
    if donor:
        report.say(donor.told(prepared.lineage["start"], prepared.model))
    if told := gate(prepared.config, len(prepared.validation_indices)):
        report.say(told)
    return prepared


def fitted(config: Config, source: Source, donor: Donor | None, report: Report) -> Config:
    """``config`` with codec, network and batch: those of the model it begins with, or what fits data and time."""
    if donor:
        config = like(config, donor.config)
    config = kinds.resolved(config, source)
    config = sized(config, lambda: largest_size(facts(source.records).short_sides), report)
    return kinds.with_second_pictures(config, source)


def tell_of_cuts(model: Model, captions: list[str], report: Report) -> None:
    """Says how many captions are longer than the encoder can read, and what it reads of the first."""
    name = model.conditioner.named("text")
    if name is None:
        return
    cut = [(text, seen) for text, seen in zip(captions, model.conditioner.seen(captions), strict=True) if seen != text]
    if cut:
        text, seen = cut[0]
        can_be_set = hasattr(model.config.conditions[name], "max_length")
        more = f"; conditions.{name}.max_length sets how much" if can_be_set else ""
        report.say(
            f"{len(cut):,} of {len(captions):,} captions are longer than this model reads{more}; "
            f"of {text[:200]!r} it reads {seen[:200]!r}"
        )


def trainer_of(prepared: Prepared) -> Trainer:
    return Trainer(prepared.config, prepared.model, prepared.data, prepared.train_indices, prepared.validation_indices)


def build(
    config: Config,
    data: Dataset,
    captions: list[str],
    pictures: int,
    donor: Donor | None = None,
) -> Prepared:
    """The resolved settings, and the model with its first weights.

    Args:
        config: settings, perhaps with "auto" left.
        data: the pictures, or (for an estimate) some of them.
        captions: of all pictures.
        pictures: how many there are in all.
        donor: the model whose weights are taken where they fit; random ones without it.
    """
    classes = len(data.classes) if data.labels else 0
    preferred = donor.config.conditions if donor else None
    config = resolve_rest(config, pictures, bool(captions), classes, preferred)
    assert config.data.validation is not None, "resolve_rest has chosen it"
    train, validation = data.split(config.data.validation)
    torch.manual_seed(key(config.training.seed, "weights"))
    files = donor.files if donor else None
    model = Model.build(config, data.classes, sorted(set(captions)), files).to(device())
    model.fit(data)
    lineage = {"start": donor.into(model)} if donor else {}
    return Prepared(config, data, train.tolist(), validation.tolist(), model, lineage)


def prepared_data(
    config: Config,
    cache: Path,
    report: Report,
    accept: Callable[[str], None] = lambda manifest_hash: None,
    source: Source | None = None,
) -> Dataset:
    """The data of ``data.path``, checked and fitted to the codec, from the cache when nothing has changed.

    Args:
        config: settings with nothing of the codec left open.
        cache: a folder for the prepared data.
        report: where progress goes.
        accept: see ``prepare``.
        source: that of ``data.path``, where it has been listed already.
    """
    source = source or source_of(config)
    kind = kinds.kind_of(config.codec)
    data = prepare(
        source,
        kind.reader(config),
        cache,
        policy=config.data.policy,
        progress=lambda done, total: report.progress("reading the data", done, total),
        accept=accept,
        beside=kinds.readers_beside(config),
    )
    if config.data.duplicates == "drop":
        codec = kind.codec(config.codec)
        codec.fit(data.rows)
        data = unique(data, codec, lambda done, total: report.progress("searching near-duplicates", done, total))
    report.say(data.describe())
    return data
