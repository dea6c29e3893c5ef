"""How does cost grow? Time and memory of training, drawing and preparing data, from small to large.

    python benchmarks/growth.py --quick                    # two minutes
    python benchmarks/growth.py --plots docs/images        # all sizes, about 15 minutes and 6 GB of memory

A training step and an evaluation of the denoiser are those of the recipe `folder` (32 x 32 pixels, 64 channels, batch
16, no condition) with one of these made smaller or larger; drawing is that of four pictures, in so many steps. Data are
folders of tiny PNGs, hard links to a few files, which are listed, scanned, prepared, opened again, shuffled and found
again by a run that goes on from a checkpoint.

Each number comes from a process of its own (see `apart`): processor time for one thread, wall time for more, and the
peak of the memory beyond the memory at the start of the process. An exponent p is the slope of log time over log size
by least squares, with its standard error. A cost breaks at the first size where the time per unit (a pixel, a squared
channel, a picture, a step) is over 1.5 times the smallest of smaller sizes, or which needs more than the allowed time
or memory. The last table gives the share of a training step that is spent waiting for its batch.
"""

import argparse
import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from apart import Cost, Work, apart, repeated, timed
from PIL import Image

from sfumato import kinds, plots
from sfumato.allocator import keep_freed_memory
from sfumato.config import Config, load_recipe
from sfumato.data.preparation import prepare, scan
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.errors import UserError
from sfumato.keyed import Order
from sfumato.model import Model
from sfumato.report import Silent
from sfumato.training.checkpoint import newest_whole, save_checkpoint
from sfumato.training.loop import Trainer, precision_of
from sfumato.training.prepared import build, prepare_run, prepared_data
from sfumato.training.resolve import locate

BASE = {"codec.size": 32, "network.channels": 64, "training.batch": 16}
SMALLEST_NETWORK = {
    "codec.size": 8,
    "network.channels": 32,
    "network.multipliers": [1],
    "network.attention_level": None,
}
BREAK = 1.5  # factor over the smallest time per unit
FILES = 64  # different pictures that the links lead to; a file may have 65,000 names at most
COLOURS = (plots.BLUE, plots.RED, plots.GREEN, plots.VIOLET, plots.ORANGE)


@dataclass(frozen=True)
class Axis:
    """The quantity that is made larger; the number of units is the size to the `power` (2 for a side of pictures)."""

    name: str
    unit: str
    power: int
    sizes: tuple[int, ...]
    quick: tuple[int, ...]


GIVEN = {  # what the recipe leaves to the data and the machine
    "codec.kind": "pixels",
    "codec.channels": 3,
    "data.validation": 0.02,
    "network.channels": 64,
    "training.batch": 64,
    "training.validate_every": 500,
    "training.sample_every": 1000,
    "training.checkpoint_every": 500,
}
AXES = (
    Axis("resolution", "pixel", 2, (16, 32, 64, 128), (16, 32, 64)),
    Axis("width", "squared channel", 2, (32, 64, 128, 256), (32, 64, 128)),
    Axis("batch", "picture", 1, (1, 2, 4, 8, 16, 32, 64), (1, 4, 16)),
    Axis("steps", "step", 1, (1, 3, 10, 30, 100, 300, 1000), (1, 10, 30)),
    Axis("pictures", "picture", 1, (1_000, 10_000, 100_000, 1_000_000), (1_000, 4_000, 16_000)),
)


# --- what is measured ------------------------------------------------------------------------------------------------


def settings(pictures: Path, changes: Mapping[str, object]) -> Config:
    """The recipe `folder` with some settings changed, and none left open."""
    given = {"data.path": pictures, "condition.kind": "none", "training.steps": 1000, **GIVEN, **BASE, **changes}
    return load_recipe("folder", [f"{name}={'null' if value is None else value}" for name, value in given.items()])


def trainer(config: Config, cache: Path) -> Trainer:
    """A fresh run over the pictures of `config`."""
    data = prepared_data(config, cache, Silent())
    ready = build(config, data, [], len(data))
    return Trainer(ready.config, ready.model, data, ready.train_indices, ready.validation_indices)


def training_step(config: Config, cache: Path, repeats: int) -> float:
    return repeated(trainer(config, cache).train_step, repeats)


@contextmanager
def drawer(config: Config) -> Iterator[Model]:
    """A new model of `config`, ready to draw."""
    model = Model.build(config).to("cpu").eval()
    dtype = precision_of("auto", model.device)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        yield model


def evaluation(config: Config, repeats: int) -> float:
    with drawer(config) as model:
        x = torch.randn(config.training.batch, *model.codec.shape).contiguous(memory_format=torch.channels_last)
        t = torch.rand(config.training.batch)
        return repeated(lambda: model.denoiser(x, t), repeats)


def drawing(config: Config, steps: int) -> float:
    with drawer(config) as model:
        model.generate(n=model.lanes, steps=1)  # warms up
        return timed(lambda: model.generate(n=model.lanes, steps=steps))


def resumed(config: Config, out: Path) -> float:
    """Everything before the first step: list, open, build, read the checkpoint."""

    def start() -> Trainer:
        ready = prepare_run(config, out, Silent())
        run = Trainer(ready.config, ready.model, ready.data, ready.train_indices, ready.validation_indices)
        if found := newest_whole(out, print):
            run.restore(found[0]["step"], found[1])
        return run

    save_checkpoint(out, 1, start().parts(), {}, keep=1)
    return timed(start)


def of_data(folder: Path, cache: Path) -> dict[str, Work]:
    """The operations on a folder of pictures, by name, in an order in which each finds what it needs."""
    config = settings(folder, SMALLEST_NETWORK)
    size = config.codec.sides[0]

    def shuffled(epochs: int = 3) -> float:
        data = prepare(open_source(folder), Pictures(size), cache / "data")
        order = Order(torch.from_numpy(data.split(0.02)[0]), seed=0)
        return timed(lambda: [order[len(order.indices) * epoch] for epoch in range(epochs)]) / epochs

    def of_source(call: Callable) -> float:
        source = open_source(folder)
        return timed(lambda: call(source))

    return {
        "list": lambda: timed(lambda: open_source(folder)),
        "scan": lambda: of_source(lambda source: scan(source, Pictures(size))),
        "prepare": lambda: of_source(lambda source: prepare(source, Pictures(size), cache / "data")),
        "open again": lambda: timed(lambda: prepare(open_source(folder), Pictures(size), cache / "data")),
        "shuffle an epoch": shuffled,
        "resume": lambda: resumed(config, cache),
    }


def make_pictures(folder: Path, count: int, size: int = 8) -> Path:
    """A folder of `count` tiny PNGs: some files, and hard links to them."""
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i:08}.png"
        if i < FILES:
            noise = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        else:
            os.link(folder / f"{i % FILES:08}.png", path)
    return folder


def works(axis: Axis, size: int, folder: Path, repeats: int) -> dict[str, Work]:
    """What is measured at one size of an axis, by name."""
    if axis.name == "pictures":
        return of_data(make_pictures(folder / f"pictures-{size}", size), folder / f"cache-{size}")
    few = folder / "few"
    if not few.exists():
        make_pictures(few, FILES)
    if axis.name == "steps":
        return {"drawing": partial(drawing, settings(few, {}), size)}
    name = {"resolution": "codec.size", "width": "network.channels", "batch": "training.batch"}[axis.name]
    config = settings(few, {name: size})
    cache = folder / f"at-{config.codec.sides[0]}"
    prepared_data(config, cache, Silent())
    return {
        "training step": partial(training_step, config, cache, repeats),
        "evaluation": partial(evaluation, config, repeats),
    }


# --- what is found ---------------------------------------------------------------------------------------------------


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """The slope of log cost over log size by least squares, and its standard error (NaN for fewer than three)."""
    x, y = np.log(sizes), np.log(np.maximum(costs, 1e-12))
    if len(x) < 2:
        return math.nan, math.nan
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, math.sqrt(rest @ rest / (len(x) - 2) / (x @ x)) if len(x) > 2 else math.nan


def per_unit(axis: Axis, sizes: Sequence[int], costs: Sequence[float]) -> list[float]:
    """Costs of a unit, relative to the least."""
    each = [cost / size**axis.power for size, cost in zip(sizes, costs, strict=True)]
    least = min((value for value in each if value > 0), default=math.nan)
    return [value / least for value in each]


def where_it_breaks(axis: Axis, found: Mapping[int, Cost]) -> str:
    """The first size beyond the one with the smallest time per unit that costs too much, in words."""
    fine = {size: cost for size, cost in found.items() if not cost.hit}
    ratios = per_unit(axis, list(fine), [cost.seconds for cost in fine.values()])
    best = ratios.index(min(ratios)) if ratios else 0
    for size, ratio in list(zip(fine, ratios, strict=True))[best:]:
        if ratio > BREAK:
            return f"at {size:,}: {ratio:.1f} times the least time a {axis.unit}"
    hit = next((f"at {size:,}: no {cost.hit} left" for size, cost in found.items() if cost.hit), "")
    return hit or f"not up to {max(found):,}"


def shown(value: tuple[float, float]) -> str:
    return f"{value[0]:.2f}" + ("" if math.isnan(value[1]) else f" ± {value[1]:.2f}")


def row(*cells: object) -> None:
    """Prints a row of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells: str) -> None:
    row(*cells)
    print("|" + "---|" * len(cells), flush=True)


def measure(
    axis: Axis, sizes: Sequence[int], folder: Path, arguments: argparse.Namespace
) -> dict[str, dict[int, Cost]]:
    """Measures and prints one axis; after a limit, larger sizes are left out.

    Returns:
        name of what was measured -> size -> cost.
    """
    found: dict[str, dict[int, Cost]] = {}
    for size in sizes:
        for name, work in works(axis, size, folder, arguments.repeats).items():
            costs = found.setdefault(name, {})
            if not any(cost.hit for cost in costs.values()):
                costs[size] = apart(work, arguments.seconds, arguments.memory)
    print()
    head(axis.name, *(f"{name}, {what}" for name in found for what in ("s", "MiB")))
    for size in sizes:
        costs = [found[name].get(size, Cost()) for name in found]
        cells = [
            cell
            for c in costs
            for cell in ((f"{c.seconds:.3g}", f"{c.bytes / 2**20:.0f}") if not c.hit else (f"no {c.hit}", ""))
        ]
        row(f"{size:,}", *cells)
    print()
    head(f"cost over {axis.name}", "time, exponent", "memory, exponent", "breaks")
    for name, costs in found.items():
        fine = {size: cost for size, cost in costs.items() if not cost.hit}
        time_, memory = ([getattr(cost, what) for cost in fine.values()] for what in ("seconds", "bytes"))
        row(name, shown(exponent(list(fine), time_)), shown(exponent(list(fine), memory)), where_it_breaks(axis, costs))
    return found


def waiting(recipe: str, steps: int) -> tuple[float, str]:
    """The share of training steps that is spent waiting for data, and the condition, on 256 pictures of a recipe."""
    given = [f"{name}={value}" for name, value in GIVEN.items()]
    changes = ["data.path=emoji", "codec.size=32", *given] if recipe == "folder" else []
    config = load_recipe(recipe, changes)
    source = open_source(locate(config.data.path))
    few = dataclasses.replace(source, records=source.records[:: -(-len(source.records) // 256)])
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(few, kinds.kind_of(config.codec).reader(config), Path(folder) / "data")
        captions = [caption for captions in data.captions for caption in captions]
        ready = build(config, data, captions, len(source.records))
        ready.model.conditioner.prepare(captions)
        run = Trainer(ready.config, ready.model, data, ready.train_indices, ready.validation_indices)
        run.train_step()
        run.waited, begin = 0.0, time.perf_counter()
        for _ in range(steps):
            run.train_step()
        return run.waited / (time.perf_counter() - begin), ready.config.conditions_in_words


def curves(found: Mapping[str, Mapping[str, Mapping[int, Cost]]], what: str, words: str) -> str:
    """An SVG: the cost of a unit, relative to its least, over doublings of the size; the first cost of each axis."""
    lines = []
    for axis, colour in zip(AXES, COLOURS, strict=True):
        # the whole of what an axis is about: a training step, drawing, preparing
        costs = next((costs for name, costs in found.get(axis.name, {}).items() if name not in ("list", "scan")), {})
        fine = {size: getattr(cost, what) for size, cost in costs.items() if not cost.hit}
        if fine:
            x = [math.log2(size / min(fine)) for size in fine]
            lines.append(plots.Curve(axis.name, x, per_unit(axis, list(fine), list(fine.values())), colour))
    width = max((max(line.x) for line in lines), default=1.0)
    tallest = max((value for line in lines for value in line.y if math.isfinite(value)), default=1.0)
    lines.append(plots.Curve("", [0, width], [BREAK, BREAK], "#888888", dashed=True))
    ends = (0, width or 1.0), (0.7, 10 ** math.ceil(math.log10(max(tallest, 2.0))))
    label = f"{words} of a unit, relative to its least"
    return plots.plot(lines, label, "doublings of the size", f"{words} of a unit", *ends, logarithmic=True, ground=True)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes")
    for axis in AXES:
        sizes = " ".join(map(str, axis.sizes))
        parser.add_argument(f"--{axis.name}", nargs="*", type=int, help=f"instead of {sizes}; nothing: left out")
    parser.add_argument("--recipes", nargs="*", default=["fashion", "emoji", "folder"], help="for the wait for data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600, help="that one measurement may take")
    parser.add_argument("--memory", type=float, default=16, help="GiB that one measurement may take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plots", type=Path, help="write growth-time.svg and growth-memory.svg into this folder")
    arguments = parser.parse_args(given)

    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s)")
    found = {}
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        for axis in AXES:
            chosen = getattr(arguments, axis.name)
            sizes = (axis.quick if arguments.quick else axis.sizes) if chosen is None else sorted(chosen)
            if sizes:
                found[axis.name] = measure(axis, sizes, Path(folder), arguments)

    if arguments.recipes:
        print()
        head("recipe", "condition", "of a training step waiting for data")
        for recipe in arguments.recipes:
            try:
                share, condition = waiting(recipe, arguments.repeats)
                row(recipe, condition, f"{share:.2%}")
            except UserError as error:  # the data set or the sentence encoder is not here
                row(recipe, "", f"not measured: {error.message}; {error.fix}")

    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        for what, words in (("seconds", "time"), ("bytes", "memory")):
            svg = curves(found, what, words)
            (arguments.plots / f"growth-{words}.svg").write_text(svg)


if __name__ == "__main__":
    main()
