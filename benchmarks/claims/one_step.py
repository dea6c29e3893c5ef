"""Claim 4: noise has to be removed a part at a time; removed at once it leaves the mean of everything possible.

    python benchmarks/claims/one_step.py --sheet docs/images/one-step.png

From the same noise, the same network draws with 1, 2, 5, 10, 50 and 250 evaluations (DDIM without noise, even steps).
The table has the Fréchet distance to real pictures, the variance of a pixel over the pictures and the energy of their
gradients, the last two as shares of the values of real pictures: a mean of many pictures has little of both.
"""

import argparse
from pathlib import Path

from common import SEEDS, Features, frechet, head, row, shown, trained
from solvers import STEPS, draw
from torch import Tensor

from sfumato.codecs.grid import labelled_grid

EVALUATIONS = (1, 2, 5, 10, 50, 250)
COLUMNS = 10


def spread(x: Tensor) -> float:
    """The variance over pictures, averaged over pixels."""
    return x.var(dim=0).mean().item()


def edges(x: Tensor) -> float:
    """The mean square of the differences of neighbouring pixels."""
    return ((x.diff(dim=2) ** 2).mean() + (x.diff(dim=3) ** 2).mean()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--sheet", type=Path, help="write a row of pictures for each number of evaluations")
    arguments = parser.parse_args()

    models = [trained("solvers", [], seed, STEPS) for seed in SEEDS]
    features = Features()
    real = features(features.test)

    tiles, names = [], []
    head("evaluations", "Fréchet distance", "variance of a pixel", "energy of edges")
    for n in EVALUATIONS:
        sets = [draw(model, "ddim", "uniform", n, arguments.pictures, seed) for seed, model in enumerate(models)]
        distances = [frechet(features(x), real) for x in sets]
        shares = [[f(x) / f(features.test) for x in sets] for f in (spread, edges)]
        row(n, shown(distances, 2), *(shown(share, 2) for share in shares))
        tiles += models[0].codec.pictures(sets[0][:COLUMNS])
        names += [f"{n} step{'s' if n > 1 else ''}", *[""] * (COLUMNS - 1)]

    if arguments.sheet:
        labelled_grid(tiles, names, COLUMNS, tile=56).save(arguments.sheet)


if __name__ == "__main__":
    main()
