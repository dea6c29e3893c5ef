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
from sfumato.data.dataset import INDEX, ROWS, Dataset
from sfumato.data.facts import facts
from sfumato.data.preparation import prepare
from sfumato.data.readers import Reader
from sfumato.data.records import Source
from sfumato.data.unique import unique
from sfumato.durable import writing
from sfumato.errors import UserError
from sfumato.keyed import key
from sfumato.machine import demand_threads
from sfumato.model import Model, own_network
from sfumato.report import Report
from sfumato.training.budget import chosen, costs, sized, timed
from sfumato.training.claim import same_pictures
from sfumato.training.environment import device
from sfumato.training.loop import Trainer
from sfumato.training.own import NOTHING, Own
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
    own: Own = NOTHING


def machine_settings(config: Config) -> None:
    """Set what belongs to the process: how it keeps memory, and the number of threads."""
    keep_freed_memory()
    if config.training.threads:
        torch.set_num_threads(demand_threads("training.threads", config.training.threads))


def prepare_run(config: Config, out: Path, report: Report, own: Own = NOTHING) -> Prepared:
    """Read the data, resolve the open settings, and build the model with its first weights.

    Args:
        config: settings that name the parts of ``own``.
        out: the run folder.
        report: where progress goes.
        own: parts that the program hands in.
    """
    begin = time.perf_counter()
    donor = started(config, out)
    source = own.source(config, report)
    config = fitted(config, source, donor, report)
    data = prepared_data(config, out / "data", report, same_pictures(out), source, own.readers)
    captions = [caption for row in data.captions for caption in row]

    def ready(config: Config) -> Prepared:
        prepared = build(config, data, captions, len(data), donor, own)
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
    return Trainer(
        prepared.config,
        prepared.model,
        prepared.data,
        prepared.train_indices,
        prepared.validation_indices,
        objective=prepared.own.objective,
    )


def build(
    config: Config,
    data: Dataset,
    captions: list[str],
    pictures: int,
    donor: Donor | None = None,
    own: Own = NOTHING,
) -> Prepared:
    """The resolved settings, and the model with its first weights.

    Args:
        config: settings, perhaps with "auto" left.
        data: the pictures, or (for an estimate) some of them.
        captions: of all pictures.
        pictures: how many there are in all.
        donor: the model whose weights are taken where they fit; random ones without it.
        own: parts that the program hands in.
    """
    classes = len(data.classes) if data.labels else 0
    preferred = donor.config.conditions if donor else None
    config = resolve_rest(config, pictures, bool(captions), classes, preferred)
    assert config.data.validation is not None, "resolve_rest has chosen it"
    train, validation = data.split(config.data.validation)
    torch.manual_seed(key(config.training.seed, "weights"))
    files = donor.files if donor else None
    network = own_network(config, own.network, "network")
    model = Model.build(config, data.classes, sorted(set(captions)), files, network=network).to(device())
    if network is not None:
        try_out(model)
    model.fit(data)
    lineage = {"start": donor.into(model)} if donor else {}
    return Prepared(config, data, train.tolist(), validation.tolist(), model, lineage, own)


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds prepared data, such as `data` in that of a run."""
    return (folder / INDEX).is_file() and (folder / ROWS).is_file()


def as_prepared(folder: Path, reader: Reader, report: Report) -> Dataset:
    """The data of a folder that was prepared before.

    Raises:
        UserError: they were prepared for another codec, or are damaged.
    """
    data = Dataset(folder)
    if data.index["reader"] != repr(reader):
        raise UserError(
            f"data.path: {folder} was prepared as {data.index['reader']}, and this model needs {reader!r}",
            fix="give the folder of the original data",
        )
    report.say(data.describe())
    return data


@torch.no_grad()
def try_out(model: Model) -> None:
    """Calls a network of one's own once, as training will, so that what does not fit is told before the first step.

    Raises:
        UserError: what it returns is not like x_0.
        Exception: what the network raises, with a note of what it was called with.
    """
    network, name = model.denoiser.network, model.config.network.name  # pyright: ignore[reportAttributeAccessIssue]
    channels, *sides = model.codec.shape
    x = torch.zeros(2, channels + model.conditioner.planes, *sides, device=model.device)
    condition = model.conditioner([{}, {}], sides)
    condition.pop("planes", None)
    told = ", ".join(
        [f"x {tuple(x.shape)}, noise level (2,)", *(f"{k} {tuple(v.shape)}" for k, v in condition.items())]
    )
    was = network.training
    network.eval()
    try:
        answer = network(x, torch.full((2,), 500.0, device=model.device), **condition)
    except Exception as error:
        error.add_note(f"in sfumato: {name} was called with {told}")
        raise
    finally:
        network.train(was)
    wanted = (2, channels * (2 if model.denoiser.learned_variance else 1), *sides)
    found = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if found != wanted:
        raise UserError(
            f"network: {name} was called with {told}, and returned {found}", fix=f"let it return a tensor {wanted}"
        )


def prepared_data(
    config: Config,
    cache: Path,
    report: Report,
    accept: Callable[[str], None] = lambda manifest_hash: None,
    source: Source | None = None,
    workers: int | None = None,
) -> Dataset:
    """The data of ``data.path``, checked and fitted to the codec, from the cache when nothing has changed.

    Args:
        config: settings with nothing of the codec left open.
        cache: a folder for the prepared data.
        report: where progress goes.
        accept: see ``prepare``.
        source: that of ``data.path``, where it has been listed already.
        workers: threads that read; see ``prepare``.
    """
    kind = kinds.kind_of(config.codec)
    reader = kind.reader(config)
    if source is None and is_prepared(Path(config.data.path)):
        return as_prepared(Path(config.data.path), reader, report)
    data = prepare(
        source or source_of(config),
        reader,
        cache,
        policy=config.data.policy,
        progress=lambda done, total: report.progress("reading the data", done, total),
        accept=accept,
        beside=kinds.readers_beside(config),
        workers=workers,
    )
    if config.data.duplicates == "drop":
        codec = kind.codec(config.codec)
        codec.fit(data.rows)
        data = unique(data, codec, lambda done, total: report.progress("searching near-duplicates", done, total))
    report.say(data.describe())
    return data
