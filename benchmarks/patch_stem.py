"""64 pixels at the price of 32? The price and the value of a pixel-unshuffle stem (`network.patch: 2`).

    sfumato data get emoji
    python benchmarks/patch_stem.py                    # about 20 minutes of one core
    python benchmarks/patch_stem.py --only-price       # one minute

First table: processor time of a training step and of an evaluation, with one network's settings, at 64 pixels with
patch 2 and at 64 pixels with patch 1, relative to 32 pixels with patch 1. The three take turns.

Second table: what the two reach in the same processor time, on emoji of 64 pixels without captions. The time of a step
is measured first for each network; then its steps, with the fall of the rate over the last half, fill the given time.
Validation losses are comparable, because data, times, noises and weights are the same. Fréchet distances compare drawn
pictures with as many training pictures, in the features of `sfumato.evaluation` that were not learned on emoji.

The third network sees an orthonormal Haar wavelet, sums and differences of the four pixels, instead of the four pixels
themselves. That is a rotation of the channels. A convolution can undo it, and Muon, whose step is the orthogonal factor
of the gradient, rotates with it: except for the first weights, both networks learn the same. A difference could come
from the first weights, and from AdamW (--set optimizer.kind=adamw), which looks at each weight alone.

Results are kept in `results/patch-stem`, one file for each run: the same command goes on where it was stopped.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato import registry
from sfumato.allocator import keep_freed_memory
from sfumato.cli.progress import Terminal
from sfumato.config import Config, load_recipe
from sfumato.diffusion import sample
from sfumato.drawing import SeededNoise
from sfumato.features.spaces import FeatureSpace, general_space
from sfumato.keyed import key
from sfumato.measures.frechet import distance
from sfumato.model import Model
from sfumato.networks import UNet
from sfumato.report import Silent
from sfumato.training.loop import Trainer
from sfumato.training.prepared import prepare_run

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS / "gan"))
from contest import head, kept, row, spread  # noqa: E402 # pyright: ignore[reportMissingImports]

PRICES = {"patch 1, 32 px": (1, 32), "patch 2, 64 px": (2, 64), "patch 1, 64 px": (1, 64)}
STEMS = {"patch 1": 1, "patch 2": 2, "haar": 2}
SEEDS = (0, 1, 2)
SETTINGS = (
    "data.path=emoji",
    "codec.channels=3",
    "data.validation=0.05",
    "condition.kind=none",
    "network.channels=32",
    "network.attention_level=null",
    "training.batch=32",
    "training.ema=[0.1]",
    "optimizer.warmup=20",
)
BATCH, EVALUATIONS = 50, 10  # of drawing
OUT = Path("runs/patch-stem")


class Haar(nn.Module):
    """`network` on the Haar coefficients of x: low-pass, vertical, horizontal and diagonal differences, by colour.

    Args:
        network: called as network((B, 4C, H/2, W/2), ...) -> the same shape.
    """

    BANDS = (
        torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    )  # symmetric, its own inverse

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *rest: Tensor, **condition: Tensor) -> Tensor:
        return F.pixel_shuffle(rotated(self.network(rotated(F.pixel_unshuffle(x, 2)), *rest, **condition)), 2)


def rotated(x: Tensor) -> Tensor:
    """(B, 4C, H, W): each four channels times the Haar matrix, its own inverse."""
    mixed = torch.einsum("ij,bcjhw->bcihw", Haar.BANDS.to(x), x.unflatten(1, (-1, 4)))
    return mixed.flatten(1, 2).contiguous(memory_format=torch.channels_last)


def trainer(config: Config, haar: bool) -> Trainer:
    """A fresh run; `haar` puts that stem in the place of the patches."""
    ready = prepare_run(config, OUT / f"at-{config.codec.sides[0]}", Silent())
    if haar:
        settings = {**config.network.model_dump(exclude={"kind"}), "patch": 1}
        torch.manual_seed(key(config.training.seed, "weights"))  # the same numbers as with patches
        network = Haar(UNet(4 * ready.model.codec.shape[0], **settings))
        ready.model.denoiser.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Trainer(ready.config, ready.model, ready.data, ready.train_indices, ready.validation_indices)


def config_of(size: int, patch: int, seed: int, steps: int, extra: Sequence[str]) -> Config:
    own = [f"codec.size={size}", f"network.patch={patch}", f"training.seed={seed}", f"training.steps={steps}"]
    return load_recipe("folder", [*SETTINGS, *own, *extra])


# --- price -----------------------------------------------------------------------------------------------------------


def seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def prices(turns: int, extra: Sequence[str]) -> None:
    """Prints the time of a step and of an evaluation, relative to patch 1 at 32 pixels."""
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for name, (patch, size) in PRICES.items():
        run = trainer(config_of(size, patch, 0, 1000, extra), haar=False)
        calls[name] = run.train_step, evaluation(run)
    for both in calls.values():
        for call in both:
            call()

    taken = {name: ([], []) for name in PRICES}
    for _ in range(turns):
        for name, both in calls.items():
            for call, times in zip(both, taken[name], strict=True):
                times.append(seconds(call))
    base = taken["patch 1, 32 px"]
    head("network", "training step", "evaluation", "milliseconds")
    for name, both in taken.items():
        ratios = [statistics.median(a / b for a, b in zip(x, y, strict=True)) for x, y in zip(both, base, strict=True)]
        row(name, *(f"{r:.2f}" for r in ratios), ", ".join(f"{1000 * statistics.median(x):.0f}" for x in both))


def evaluation(run: Trainer) -> Callable[[], object]:
    batch = run.batch(0)

    @torch.inference_mode()
    def call() -> None:
        run.model.eval()
        with run.autocast():
            run.model.denoiser(batch.x_0, batch.u)

    return call


# --- worth -----------------------------------------------------------------------------------------------------------


def worth(stem: str, seed: int, budget: float, pictures: int, extra: Sequence[str], space: FeatureSpace) -> dict:
    """Trains for `budget` processor seconds.

    Returns:
        "steps", "seconds", validation "loss" and Fréchet "distance".
    """
    trial = trainer(config_of(64, STEMS[stem], seed, 1000, extra), stem == "haar")
    trial.train_step()
    steps = max(1, round(budget / statistics.median(seconds(trial.train_step) for _ in range(5))))

    run = trainer(config_of(64, STEMS[stem], seed, steps, extra), stem == "haar")
    with Terminal() as report:
        begin = time.process_time()
        for step in range(1, steps + 1):
            run.train_step()
            report.progress(f"{stem}, seed {seed}", step, steps)
        spent = time.process_time() - begin
    loss = run.validate()
    with run.ema.swapped(0), run.autocast():
        drawn = draw(run.model.eval(), pictures, seed)
    chosen = np.random.default_rng(seed).choice(run.train_indices, pictures, replace=False)
    there = distance(space(run.data.rows[np.sort(chosen)]), space(drawn)).item()
    return {"steps": steps, "seconds": spent, "loss": loss, "distance": there}


@torch.inference_mode()
def draw(model: Model, pictures: int, seed: int) -> np.ndarray:
    """uint8 (N, H, W, C) without a condition."""
    process, parts = model.denoiser.process, []
    times = registry.GRIDS["karras"](process.schedule, EVALUATIONS)
    for start in range(0, pictures, BATCH):
        noise = SeededNoise(range(1000 * seed + start, 1000 * seed + min(start + BATCH, pictures)), process)
        x = process.prior(noise.draw(model.codec.shape).to(memory_format=torch.channels_last))
        *_, last = sample(model.denoiser, x, times, registry.SOLVERS["dpm++2m"](), noise)
        parts.append(model.codec.decode(last.x.nan_to_num()))
    return np.concatenate(parts)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100, help="of the processor for each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--stems", nargs="+", default=list(STEMS), choices=STEMS)
    parser.add_argument("--pictures", type=int, default=250, help="for a Fréchet distance")
    parser.add_argument("--turns", type=int, default=7, help="for the price; 0: without it")
    parser.add_argument("--only-price", action="store_true")
    parser.add_argument("--set", nargs="+", default=[], help="further settings, e.g. optimizer.kind=adamw")
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results" / "patch-stem")
    arguments = parser.parse_args(given)

    keep_freed_memory()
    torch.set_num_threads(1)  # so that the processor's time is that of the work
    if arguments.turns:
        prices(arguments.turns, arguments.set)
    if arguments.only_price:
        return

    ready = prepare_run(config_of(64, 2, 0, 1, []), OUT / "at-64", Silent())
    space = general_space(ready.data, ready.model.codec, np.array(ready.train_indices))
    print()
    head("stem", "steps", "validation loss", f"Fréchet distance ({space.name})")
    folder = arguments.results / "-".join([f"{arguments.seconds:g}-seconds", *sorted(arguments.set)])
    for stem in arguments.stems:
        found = []
        for seed in arguments.seeds:

            def make(stem: str = stem, seed: int = seed) -> dict:
                return worth(stem, seed, arguments.seconds, arguments.pictures, arguments.set, space)

            found.append(kept(folder / f"{stem.replace(' ', '-')}-seed{seed}.json", make))
        numbers = (spread([f[what] for f in found], n) for what, n in (("steps", 0), ("loss", 4), ("distance", 2)))
        row(stem, *numbers)


if __name__ == "__main__":
    main()
