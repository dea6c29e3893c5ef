"""Muon or AdamW: which one reaches the same quality sooner, in processor time?

    sfumato data get fashion-mnist
    python benchmarks/optimizers.py                     # about 25 minutes of one core
    python benchmarks/optimizers.py --plot docs/images/optimizers.svg

Both train the small network of the claims (`benchmarks/claims/common.py`: 0.9 M parameters, Fashion-MNIST without
classes) at the same grid of rates, which are constant after the warm-up. The averaged weights are measured, because
they are the ones that are used. The rate with the smallest validation loss at the end of a short run, whose seed is not
one of the result, trains with three seeds. Only the time of the training steps counts, including Muon's own arithmetic.

The targets are the values that AdamW itself reaches after a quarter, a half and all of its training, as means over its
seeds: validation losses, and Fréchet distances of drawn pictures to the test part in the features of the claims. The
time to a target is interpolated between measurements. A ratio compares the two runs of a seed, with Student's interval
of 95 %.

Results are kept in `results/optimizers`, one file for each run: the same command goes on where it was stopped, and
deleted results are measured anew.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from sfumato import plots
from sfumato.allocator import keep_freed_memory
from sfumato.cli.progress import Terminal
from sfumato.config import load_recipe
from sfumato.errors import UserError
from sfumato.report import Silent
from sfumato.training.loop import Trainer
from sfumato.training.prepared import prepare_run

BENCHMARKS = Path(__file__).parent
sys.path[:0] = [str(BENCHMARKS / "gan"), str(BENCHMARKS / "claims")]
from common import SMALL, Features, frechet  # noqa: E402 # pyright: ignore[reportMissingImports]
from contest import head, kept, row, spread  # noqa: E402 # pyright: ignore[reportMissingImports]
from solvers import draw  # noqa: E402 # pyright: ignore[reportMissingImports]

KINDS = {"adamw": plots.RED, "muon": plots.BLUE}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TRIAL, SEEDS = 100, (0, 1, 2)
SHARES = {"a quarter": 0.25, "a half": 0.5, "all": 1.0}  # shares of AdamW's training; the quality there is a target
OUT = Path("runs/optimizers")


def settings(kind: str, lr: float, seed: int, steps: int, extra: Sequence[str]) -> list[str]:
    """What a run changes of the recipe `fashion`."""
    own = [f"optimizer.kind={kind}", f"optimizer.lr={lr:g}", f"training.seed={seed}", f"training.steps={steps}"]
    return [*SMALL, *own, "optimizer.warmup=50", "optimizer.decay=0", "training.ema=[0.05]", *extra]


def run(
    overrides: Sequence[str],
    looks: int,
    distance: Callable[[Trainer], float] | None,
    tell: Callable[[int, int], None],
) -> dict:
    """Trains, and looks at the averaged weights after equal parts of the steps.

    Returns:
        lists, an entry a look: "steps", processor "seconds" of training, validation "loss" and, if it is asked for, the
        Fréchet "distance"; they end where a loss is no longer finite.
    """
    ready = prepare_run(load_recipe("fashion", overrides), OUT, Silent())
    trainer = Trainer(ready.config, ready.model, ready.data, ready.train_indices, ready.validation_indices)
    steps, spent = ready.config.training.steps, 0.0
    found: dict[str, list[float]] = {"steps": [], "seconds": [], "loss": [], "distance": []}
    for step in range(1, steps + 1):
        begin = time.process_time()
        try:
            trainer.train_step()
        except UserError:  # a loss or gradient is not finite: the rate is too high
            break
        spent += time.process_time() - begin
        tell(step, steps)
        if step * looks // steps == (step - 1) * looks // steps:
            continue
        found["steps"].append(step)
        found["seconds"].append(spent)
        found["loss"].append(trainer.validate())
        if distance:
            with trainer.ema.swapped(0):
                found["distance"].append(distance(trainer))
    return found


def time_to(target: float, seconds: Sequence[float], values: Sequence[float]) -> float:
    """When `values` first fall to `target`, on the line between two looks; infinite where they do not."""
    before = None
    for now, value in zip(seconds, values, strict=True):
        if value <= target:
            if before is None:
                return now
            (then, above) = before
            return then + (now - then) * (above - target) / (above - value)
        before = now, value
    return math.inf


def reached(runs: Sequence[dict], what: str, share: float) -> float:
    """The mean over runs of the values that they reached after a share of their measurements."""
    return statistics.fmean(r[what][max(1, round(share * len(r[what]))) - 1] for r in runs)


def compared(found: dict[str, list[dict]], targets: Sequence[float]) -> None:
    """Prints the seconds to each target, and the ratio by seed."""
    head("target", *(f"{kind}, processor seconds" for kind in found), "adamw / muon")
    for what, words in (("loss", "validation loss"), ("distance", "Fréchet distance")):
        chosen = [(reached(found["adamw"], what, share), f"adamw after {name}") for name, share in SHARES.items()]
        if what == "loss" and targets:
            chosen = [(target, "given") for target in targets]
        for target, name in chosen:
            times = {kind: [time_to(target, r["seconds"], r[what]) for r in runs] for kind, runs in found.items()}
            cells = [seconds_to(each) for each in times.values()]
            ratios = [a / b for a, b in zip(times["adamw"], times["muon"], strict=True) if math.isfinite(a + b)]
            row(f"{words} {target:.4g} ({name})", *cells, spread(ratios, 2))


def seconds_to(times: Sequence[float]) -> str:
    """The mean of the times, where all are finite."""
    there = [each for each in times if math.isfinite(each)]
    return spread(there, 1) if len(there) == len(times) else f"{len(there)} of {len(times)} reach it"


def plot(found: dict[str, list[dict]]) -> str:
    """An SVG of the validation losses over processor seconds: the mean of the seeds and their range."""
    curves, bands = [], []
    for kind, runs in found.items():
        looks = list(zip(*(r["loss"] for r in runs), strict=False))
        x = [statistics.fmean(s) for s in zip(*(r["seconds"] for r in runs), strict=False)]
        curves.append(plots.Curve(kind, x, [statistics.fmean(look) for look in looks], KINDS[kind]))
        bands.append(plots.Band("", x, [min(look) for look in looks], [max(look) for look in looks], KINDS[kind]))
    low = min(min(band.low) for band in bands)
    high = max(curve.y[len(curve.y) // 8] for curve in curves)  # the first looks would flatten the rest
    ends = (0, max(max(curve.x) for curve in curves)), (low - 0.05 * (high - low), high)
    label = "Validation loss over the processor seconds of training"
    return plots.plot(curves, label, "processor seconds", "validation loss", *ends, bands=bands, ground=True)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200, help="of a run of the result; half of them in a trial")
    parser.add_argument("--looks", type=int, default=16, help="in a run of the result; half of them in a trial")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--pictures", type=int, default=500, help="for a Fréchet distance")
    parser.add_argument("--targets", type=float, nargs="+", default=(), help="validation losses, in place of AdamW's")
    parser.add_argument("--set", nargs="+", default=(), help="further settings, e.g. network.channels=16")
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results" / "optimizers")
    parser.add_argument("--plot", type=Path, help="write an SVG of the losses")
    arguments = parser.parse_args(given)

    keep_freed_memory()
    torch.set_num_threads(1)  # so that the processor's time is that of the work
    steps, looks = arguments.steps, arguments.looks
    features = Features()
    real = features(features.test)

    def distance(trainer: Trainer) -> float:
        drawn = draw(trainer.model.eval(), "dpm++2m", "karras", 10, arguments.pictures, 0)
        return frechet(features(drawn), real)

    def measured(kind: str, lr: float, seed: int, trial: bool) -> dict:
        name = f"{kind}-lr{lr:g}-seed{seed}-{steps // 2 if trial else steps}-steps"

        def make() -> dict:
            with Terminal() as report:
                total = steps // 2 if trial else steps
                overrides = settings(kind, lr, seed, total, arguments.set)
                number = looks // 2 if trial else looks
                return run(overrides, number, None if trial else distance, lambda i, n: report.progress(name, i, n))

        return kept(arguments.results / f"{name}.json", make)

    head("rate", *(f"{kind}, validation loss" for kind in KINDS))
    trials = {kind: {lr: measured(kind, lr, TRIAL, True)["loss"] for lr in arguments.rates} for kind in KINDS}
    for lr in arguments.rates:
        row(f"{lr:g}", *(f"{trials[kind][lr][-1]:.4f}" if trials[kind][lr] else "not finite" for kind in KINDS))
    print()

    best = {kind: min(arguments.rates, key=lambda lr: (trials[kind][lr] or [math.inf])[-1]) for kind in KINDS}
    found = {kind: [measured(kind, best[kind], seed, False) for seed in arguments.seeds] for kind in KINDS}
    head("optimizer", "rate", "milliseconds a step", "validation loss", "Fréchet distance")
    for kind, runs in found.items():
        each = [1000 * r["seconds"][-1] / r["steps"][-1] for r in runs]
        ends = (spread([r[what][-1] for r in runs], digits) for what, digits in (("loss", 4), ("distance", 2)))
        row(kind, f"{best[kind]:g}", spread(each, 1), *ends)
    print()
    compared(found, arguments.targets)
    if arguments.plot:
        arguments.plot.write_text(plot(found))


if __name__ == "__main__":
    main()
