"""Twenty-five Gaussians on a grid: which methods find all of them, and how often?

    python benchmarks/gan/grid25.py

The data are those of PacGAN (Lin et al. 2018, arXiv:1712.04086; the grid is Dumoulin et al.'s 2017,
arXiv:1606.00704): means -4, -2, 0, 2, 4 in both directions, standard deviation 0.05. As in that paper, three numbers
are given for 2,500 drawn points: how many modes have a good point (one within three standard deviations; 98.9 % of real
points are good), the share of good points, and the Kullback-Leibler divergence of the drawn points' nearest modes from
uniform ones.

Ten runs of a method train side by side (see `points`). Three other runs choose the rate, and whether critic or denoiser
sees coordinates or waves.
"""

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import points
import torch
from contest import (
    RATES,
    RESULTS,
    Cell,
    Contestant,
    Tell,
    best,
    fit,
    fitted,
    head,
    operations,
    results,
    row,
    size,
    spread,
)
from denoising import Diffusion
from gans import GAN, methods
from PIL import Image
from torch import Tensor, nn

from sfumato import plots
from sfumato.allocator import keep_freed_memory
from sfumato.cli.progress import Terminal
from sfumato.codecs.grid import labelled_grid
from sfumato.keyed import generator, key

METHODS = {"diffusion": plots.BLUE, "dcgan": plots.RED, "wgan-gp": plots.ORANGE, "r3gan": plots.GREEN}
SIDE, SPACING, STD, REACH = 5, 2.0, 0.05, 3.0
MODES = SIDE**2
UNIT = math.sqrt(SPACING**2 * (SIDE**2 - 1) / 12 + STD**2)  # the standard deviation of a coordinate
GOOD = 1 - math.exp(-(REACH**2) / 2)  # share of real points within three standard deviations

BATCH, WIDTH = 128, 64
LATENT = {"dcgan": 2, "wgan-gp": 8, "r3gan": 8}  # 2 and 8 were tried for each; PacGAN has 2
DRAWN, WATCHES, SHOWN = 2500, 10, 5
RUNS, TRIALS = 10, 3
PENALTY, GAMMA = 0.1, 0.1  # of WGAN-GP, as in its authors' own program for points; of R3GAN
WAVES = {
    "": (1.4, 2.8, 5.7),
    "-plain": (),
}  # radians to the unit in which the grid is spaced by 2, and so its period 3.1


def centres() -> Tensor:
    """(25, 2)"""
    line = SPACING * (torch.arange(SIDE) - (SIDE - 1) / 2)
    return torch.cartesian_prod(line, line)


def real(n: int) -> Tensor:
    """Points (n, 2) of the data, in units of their standard deviation."""
    return (centres()[torch.randint(MODES, (n,))] + STD * torch.randn(n, 2)) / UNIT


def measured(x: Tensor) -> dict[str, float]:
    """The numbers of points (N, 2) in the data's own unit.

    Returns:
        "modes" with a good point, share of "good" points, reverse "kl" over the nearest modes, and the "divergence" by
        which rates are chosen: the reverse KL over the modes' good points and, as one more bin, all others.
    """
    distance, nearest = torch.cdist(x.double(), centres().double()).min(1)
    good = distance <= REACH * STD
    caught = nearest[good].bincount(minlength=MODES) / len(x)
    drawn = torch.cat([caught, 1 - caught.sum(0, keepdim=True)])
    true = torch.tensor([GOOD / MODES] * MODES + [1 - GOOD])
    shares = nearest.bincount(minlength=MODES) / len(x)
    return {
        "modes": int((caught > 0).sum()),
        "good": good.double().mean().item(),
        "kl": divergence(shares, torch.full((MODES,), 1 / MODES)),
        "divergence": divergence(drawn, true),
    }


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) of two laws (K,), in nats."""
    return torch.xlogy(p, p / q).sum().item()


def contestant(method: str, option: str, members: int, lr: float) -> Contestant:
    """`members` new runs of a method."""
    seen = WAVES[option], UNIT
    denoiser = points.Denoiser(members, WIDTH, *seen)
    if method == "diffusion":
        return Diffusion(denoiser, (2,), 1.0, lr, sigma_min=0.003, time=(-1.0, 1.6))

    def generated(width: int) -> nn.Module:
        return points.generator(members, width, LATENT[method], norm=method == "dcgan")

    def judged(width: int) -> nn.Module:
        return points.Critic(members, width, *seen)

    drawing, judging = (net(fitted(net, size(denoiser))) for net in (generated, judged))
    return GAN(methods(PENALTY, GAMMA)[method], drawing, judging, LATENT[method], lr)


def run(cell: Cell, members: int, steps: int, folder: Path, tell: Tell) -> dict:
    """Train the runs of one cell and measure them meanwhile; the last points go to a file beside the result."""
    torch.manual_seed(key("grid25", cell.seed))
    batch = members * BATCH

    def cost(method: str) -> int:
        model = contestant(method, cell.option, members, 0.0)
        return operations(lambda: model.step(lambda: real(batch), 0.0))

    of_step = cost(cell.method)
    steps = max(WATCHES, round(cell.budget * steps * cost("diffusion") / of_step))
    model = contestant(cell.method, cell.option, members, cell.lr)
    looks: list[list[dict[str, float]]] = []
    drawn = torch.zeros(members, 0, 2)

    def watch(done: int) -> None:
        nonlocal drawn
        x = model.draw(members * DRAWN, generator("grid25", cell.seed, done), members * DRAWN) * UNIT
        drawn = x.unflatten(0, (members, DRAWN))
        looks.append([measured(part) for part in drawn])

    begin = time.process_time()
    curves = fit(model, lambda: real(batch), steps, watch, WATCHES, tell)
    if members >= SHOWN:
        np.save((folder / cell.path).with_suffix(".npy"), drawn[:SHOWN].half().numpy(), allow_pickle=False)
    return {
        "steps": steps,
        "operations": steps * of_step // members,
        "operations_a_point": operations(lambda: model.draw(members, generator("grid25"), members)) // members,
        "processor_seconds": time.process_time() - begin,  # of all members, with the looks
        "weights": {name: size(net) // members for name, net in model.networks.items()},
        "looks": looks,
        "curves": curves,
    }


# --- what is shown ---------------------------------------------------------------------------------------------------


def mean_divergence(result: dict) -> float:
    """The divergence that chooses a setting; infinite if the training broke off."""
    whole = len(result["looks"]) == WATCHES
    return statistics.fmean(run["divergence"] for run in result["looks"][-1]) if whole else math.inf


def table(chosen: dict[Cell, dict]) -> None:
    """Prints what the runs found."""
    head(
        "method",
        "rate",
        "seen by",
        "steps",
        "Tflop a run",
        "modes of 25",
        "runs with all",
        "good points",
        "reverse KL",
        "kflop a point",
    )
    for cell, result in chosen.items():
        runs = result["looks"][-1]
        modes = [run["modes"] for run in runs]
        row(
            cell.method,
            f"{cell.lr:g}",
            "coordinates" if cell.option else "waves",
            f"{result['steps']:,}",
            f"{result['operations'] / 1e12:.2f}",
            f"{spread(modes, 1)} (least {min(modes)})",
            f"{modes.count(MODES)}/{len(modes)}",
            spread([run["good"] for run in runs]),
            spread([run["kl"] for run in runs]),
            f"{result['operations_a_point'] / 1e3:,.0f}",
        )


def over_training(chosen: dict[Cell, dict]) -> str:
    """An SVG: the modes found over the training, the mean of the runs and the range of all."""
    x = [i / WATCHES for i in range(WATCHES + 1)]
    curves, bands = [], []
    for cell, result in chosen.items():
        modes = [[0.0], *([run["modes"] for run in look] for look in result["looks"])]
        colour = METHODS[cell.method]
        curves.append(plots.Curve(cell.method, x, [statistics.fmean(m) for m in modes], colour))
        bands.append(plots.Band("", x, [min(m) for m in modes], [max(m) for m in modes], colour))
    label = "modes found over the training"
    return plots.plot(curves, label, "share of the training", "modes", (0, 1), (0, 26), bands=bands, ground=True)


def density(x: Tensor, side: int = 96) -> Image.Image:
    """A picture of points (N, 2): the darker, the more."""
    edge = SPACING * SIDE / 2
    counts = torch.histogramdd(x.flip(1), [side, side], range=[-edge, edge] * 2).hist
    return Image.fromarray((255 * torch.exp(-counts)).byte().numpy())


def sheet(chosen: dict[Cell, dict], folder: Path) -> Image.Image:
    """The points of five runs a method, a row each, below five sets of real ones."""
    torch.manual_seed(0)
    tiles, names = [density(real(DRAWN) * UNIT) for _ in range(SHOWN)], ["real", *[""] * (SHOWN - 1)]
    for cell in chosen:
        drawn = torch.from_numpy(np.load((folder / cell.path).with_suffix(".npy"), allow_pickle=False))
        tiles += [density(x) for x in drawn.float()]
        names += [cell.method, *[""] * (SHOWN - 1)]
    return labelled_grid(tiles, names, SHOWN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=30_000, help="of the denoiser, whose operations all have")
    parser.add_argument("--more", type=float, help="the GANs again, with so many times the operations")
    parser.add_argument("--sheet", type=Path, help="write the drawn points of five runs a method")
    parser.add_argument("--plot", type=Path, help="write an SVG of the modes found over the training")
    arguments = parser.parse_args()

    keep_freed_memory()
    folder = RESULTS / "grid25" / f"{arguments.steps}-steps"
    chosen = {}
    with Terminal() as report:

        def found(cells: list[Cell], members: int) -> dict[Cell, dict]:
            return results(cells, folder, lambda cell, tell: run(cell, members, arguments.steps, folder, tell), report)

        tried = found([Cell(m, lr, 1, 1.0, o) for m in arguments.methods for lr in RATES for o in WAVES], TRIALS)
        for method in arguments.methods:
            setting = best({c: r for c, r in tried.items() if c.method == method}, mean_divergence)
            budgets = [1.0, arguments.more] if arguments.more and method != "diffusion" else [1.0]
            chosen |= found([replace(setting, seed=0, budget=budget) for budget in budgets], RUNS)

    table(chosen)
    once = {cell: result for cell, result in chosen.items() if cell.budget == 1}
    if arguments.plot:
        arguments.plot.write_text(over_training(once))
    if arguments.sheet:
        sheet(once, folder).save(arguments.sheet)


if __name__ == "__main__":
    main()
