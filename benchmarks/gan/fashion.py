"""Fashion-MNIST: how good and how varied are the pictures, and how often does a training fail?

    sfumato data get fashion-mnist
    python benchmarks/gan/fashion.py

Every method trains at four rates with two seeds. By a rule laid down before the first run, a run fails if

    a loss is not finite,
    or the Fréchet distance is above four times the method's own best median over a rate,
    or fewer than five of the ten classes make 1 % or more of its pictures, as a classifier of real clothes sees them.

The rate with the smallest median distance trains with three further seeds, which are the result: Fréchet distance of
1,000 pictures to the test part, precision and recall (Kynkäänniemi et al. 2019, k = 5) against as many test pictures,
in the features of the claims (`benchmarks/claims/common.py`).
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from contest import RESULTS, Cell, Tell, best, head, results, row, spread
from pictures import BATCH, METHODS, Draw, contestant, keep, sheet, train
from torch import Tensor

from sfumato import plots
from sfumato.allocator import keep_freed_memory
from sfumato.cli.progress import Terminal
from sfumato.measures.manifold import prdc

sys.path.insert(0, str(Path(__file__).parents[1] / "claims"))
from common import Features, fashion_accuracy, frechet  # pyright: ignore[reportMissingImports]

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
TRIALS, SEEDS = (100, 101), (0, 1, 2)
DRAWN, LOOKS = 1000, 5
WORSE, CLASSES, PRESENT = 4.0, 10, 0.01


def present(labels: Tensor) -> int:
    """How many classes have at least their minimal share of labels (N,)."""
    return int((labels.bincount(minlength=CLASSES) >= PRESENT * len(labels)).sum())


def distance(result: dict) -> float:
    """The last Fréchet distance; infinite where the training broke off."""
    return result.get("distance", math.inf)


def failed(result: dict, best_median: float) -> bool:
    """Whether a run failed by the rule above."""
    return distance(result) > WORSE * best_median or result["classes"] < CLASSES / 2


def median(found: dict[Cell, dict], lr: float) -> float:
    """The median distance at a rate."""
    return statistics.median(distance(result) for cell, result in found.items() if cell.lr == lr)


def of_method(found: dict[Cell, dict], method: str) -> dict[Cell, dict]:
    return {cell: result for cell, result in found.items() if cell.method == method}


# --- what is shown ---------------------------------------------------------------------------------------------------


def table(chosen: dict[Cell, dict], real: dict) -> None:
    """Prints the result of each method at its best rate."""
    head(
        "method",
        "rate",
        "weights",
        "steps",
        "Tflop",
        "Fréchet distance",
        "precision",
        "recall",
        "classes",
        "Mflop a picture",
    )
    row("training pictures", "", "", "", "", *(f"{real[name]:.{n}f}" for name, n in NUMBERS.items()), "")
    for method in dict.fromkeys(cell.method for cell in chosen):
        own = of_method(chosen, method)
        cell, some = next(iter(own.items()))
        row(
            method,
            f"{cell.lr:g}",
            " + ".join(f"{n:,}" for n in some["weights"].values()),
            f"{some['steps']:,}",
            f"{some['operations'] / 1e12:.0f}",
            *(spread([r[name] for r in own.values() if name in r], n) for name, n in NUMBERS.items()),
            f"{some['operations_a_picture'] / 1e6:,.0f}",
        )


NUMBERS = {"distance": 2, "precision": 3, "recall": 3, "classes": 1}


def failures(tried: dict[Cell, dict], rates: Sequence[float]) -> None:
    """Prints the median distance at each rate, and how many of the seeds failed."""
    head("method", *(f"{lr:g}" for lr in rates), "failed")
    for method in dict.fromkeys(cell.method for cell in tried):
        own = of_method(tried, method)
        least = min(median(own, lr) for lr in rates)
        fails = {lr: [failed(r, least) for cell, r in own.items() if cell.lr == lr] for lr in rates}
        cells = [f"{median(own, lr):.1f} ({sum(fails[lr])}/{len(fails[lr])})" for lr in rates]
        row(method, *cells, f"{sum(map(sum, fails.values())) / len(own):.0%} of {len(own)}")


def loss_plot(method: str, own: dict[Cell, dict]) -> str:
    """An SVG of a method's losses, a line a seed and network."""
    colours = {"denoiser": plots.BLUE, "critic": plots.RED, "generator": plots.GREEN}
    curves = []
    for i, result in enumerate(own.values()):
        for name, losses in result["curves"].items():
            y = [math.nan if loss is None else loss for loss in losses]
            x = [(j + 1) / len(y) for j in range(len(y))]
            curves.append(plots.Curve(f"{name}'s loss" if i == 0 else "", x, y, colours[name]))
    values = sorted(v for curve in curves for v in curve.y if math.isfinite(v))
    low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    margin = 0.05 * (high - low) or 1.0
    label = f"losses of {method}, {len(own)} seeds"
    return plots.plot(
        curves, label, "share of the training", "loss", (0, 1), (low - margin, high + margin), ground=True
    )


def distance_plot(chosen: dict[Cell, dict]) -> str:
    """An SVG of the Fréchet distance over the training: the mean of the seeds and their range."""
    curves, bands = [], []
    for method in dict.fromkeys(cell.method for cell in chosen):
        looks = list(zip(*(result["looks"] for result in of_method(chosen, method).values()), strict=False))
        x = [(i + 1) / LOOKS for i in range(len(looks))]
        curves.append(plots.Curve(method, x, [statistics.fmean(look) for look in looks], METHODS[method]))
        bands.append(plots.Band("", x, [min(look) for look in looks], [max(look) for look in looks], METHODS[method]))
    every = [v for band in bands for v in (*band.low, *band.high)]
    y_range = 10 ** math.floor(math.log10(min(every))), 10 ** math.ceil(math.log10(max(every)))
    label = "Fréchet distance over the training"
    x_label = "share of the training"
    return plots.plot(curves, label, x_label, "Fréchet distance", (0, 1), y_range, bands, logarithmic=True, ground=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=2500, help="of the denoiser, whose operations all have")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--trials", nargs="+", type=int, default=TRIALS, help="seeds at each rate")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of the result")
    parser.add_argument("--pictures", type=int, default=DRAWN)
    parser.add_argument("--sheet", type=Path, help="write ten pictures a method")
    parser.add_argument("--plots", type=Path, help="write SVGs of losses and distances into this folder")
    arguments = parser.parse_args()

    keep_freed_memory()
    folder = RESULTS / "fashion" / f"{arguments.steps}-steps-{arguments.pictures}-pictures"
    features = Features()
    test = features(features.test)

    def measured(x: Tensor) -> dict[str, float]:
        drawn = features(x)
        precision, recall, *_ = prdc(test[: len(drawn)], drawn).tolist()
        labels = fashion_accuracy.classify(features.net, x)
        return {"distance": frechet(drawn, test), "precision": precision, "recall": recall, "classes": present(labels)}

    def run(cell: Cell, tell: Tell) -> dict:
        found: dict = {"classes": 0}
        looks = []

        def watch(done: int, draw: Draw) -> None:
            drawn = draw(arguments.pictures)
            found.update(measured(drawn))
            looks.append(found["distance"])
            keep((folder / cell.path).with_suffix(".npy"), drawn)

        def real() -> Tensor:
            return features.train[torch.randint(len(features.train), (BATCH,))]

        watches = LOOKS if cell.seed in arguments.seeds else 1
        trained = train(cell, "fashion", partial(contestant, channels=1), real, arguments.steps, watch, watches, tell)
        return trained | found | {"looks": looks}

    tried, chosen = {}, {}
    with Terminal() as report:
        for method in arguments.methods:
            grid = [Cell(method, lr, seed) for lr in arguments.rates for seed in arguments.trials]
            own = results(grid, folder, run, report)
            setting = best(own, distance)
            tried |= own
            chosen |= results([replace(setting, seed=seed) for seed in arguments.seeds], folder, run, report)

    table(chosen, measured(features.train[: arguments.pictures]))
    print()
    failures(tried, arguments.rates)
    if arguments.sheet:
        firsts = {cell.method: (folder / cell.path).with_suffix(".npy") for cell in reversed(chosen)}
        sheet(dict(reversed(firsts.items()))).save(arguments.sheet)
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        (arguments.plots / "gan-distances.svg").write_text(distance_plot(chosen))
        for method in arguments.methods:
            (arguments.plots / f"gan-loss-{method}.svg").write_text(loss_plot(method, of_method(chosen, method)))


if __name__ == "__main__":
    main()
