"""Claims 2 and 3: few evaluations are enough, and the grid matters more than the solver.

    python benchmarks/claims/solvers.py

For each seed, one checkpoint draws the same number of pictures with every solver and grid, and with the 1,000 steps of
DDPM. The distance is the Fréchet distance to the 10,000 test pictures, in the features of a classifier of real clothes.
Every set has the same number of pictures, and set i of each row starts from the same noise. Sets of training pictures
show what a perfect model would reach.
"""

import argparse
import time

import torch
from common import SEEDS, Features, frechet, head, row, shown, trained
from torch import Tensor

from sfumato import registry
from sfumato.diffusion import sample
from sfumato.model import Model

STEPS, BATCH = 1200, 250
DDPM = ("ddpm", "uniform", 1000)


@torch.inference_mode()
def draw(model: Model, solver: str, grid: str, evaluations: int, pictures: int, seed: int) -> Tensor:
    """Pictures (N, 1, 28, 28) without a condition."""
    generator = torch.Generator().manual_seed(seed)
    process = model.denoiser.process
    times = registry.GRIDS[grid](process.schedule, evaluations)
    drawn = []
    for _ in range(0, pictures, BATCH):
        x = process.prior(torch.randn(BATCH, 1, 28, 28, generator=generator)).to(memory_format=torch.channels_last)

        def noise(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator)

        with torch.autocast("cpu", torch.bfloat16):
            *_, last = sample(model.denoiser, x, times, registry.SOLVERS[solver](), noise)
        drawn.append(last.x)
    return torch.cat(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--solvers", nargs="+", default=["ddpm", "ddim", "dpm++2m"], choices=registry.SOLVERS)
    parser.add_argument("--grids", nargs="+", default=["uniform", "karras", "log-snr"], choices=registry.GRIDS)
    parser.add_argument("--evaluations", nargs="+", type=int, default=[5, 6, 9, 10, 20])
    parser.add_argument("--without-ddpm", action="store_true", help="leave out the 1,000 steps, nearly all of the time")
    arguments = parser.parse_args()

    models = [trained("solvers", [], seed, STEPS) for seed in SEEDS]
    features = Features()
    real = features(features.test)

    cells = [(s, g, n) for n in arguments.evaluations for s in arguments.solvers for g in arguments.grids]
    head("solver", "grid", "evaluations", "Fréchet distance, 3 seeds", "seconds")
    training = [features.train[i * arguments.pictures :][: arguments.pictures] for i in range(len(SEEDS))]
    row("training pictures", "", "", shown([frechet(features(x), real) for x in training], 2), "")
    for solver, grid, n in ([] if arguments.without_ddpm else [DDPM]) + cells:
        begin = time.perf_counter()
        sets = [draw(model, solver, grid, n, arguments.pictures, seed) for seed, model in enumerate(models)]
        seconds = time.perf_counter() - begin
        row(solver, grid, n, shown([frechet(features(x), real) for x in sets], 2), f"{seconds:.0f}")


if __name__ == "__main__":
    main()
