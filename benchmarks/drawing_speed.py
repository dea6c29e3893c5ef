"""Pictures a second at equal quality: our solver and time grid against the defaults of the peers.

    sfumato data get fashion-mnist
    OMP_NUM_THREADS=1 python benchmarks/drawing_speed.py

For each seed, one denoiser, trained on Fashion-MNIST to predict v on the linear schedule, draws for all programs: only
solver, grid and program differ. A denoiser that predicts the noise, the default of `diffusers`, would need far more
training than these minutes: at the noisiest times its error is 157 times as large in the picture, and the result would
depend on how a program hides that.

    diffusers DDPM                       DDPMPipeline, 1,000 steps
    diffusers DDIM                       DDIMPipeline, 50 steps
    denoising-diffusion-pytorch          GaussianDiffusion.sample, 1,000 steps
    denoising-diffusion-pytorch DDIM     the same with the 250 steps of DDIM of its README

Quality is the Fréchet distance of so many pictures to the 10,000 test pictures (`claims/common.py`), the mean of three
seeds with Student's interval of 95 %. For each peer and each setting of ours the table has the smallest number of
evaluations at which our mean distance is not above the peer's. For this, all programs draw through our network under
bfloat16 autocast, because only the number of steps and its error matter here.

Seconds for a picture are measured with the programs as they are, in float32: `Model.generate` against the pipelines of
`diffusers` with its own U-Net, which has our weights, and GaussianDiffusion with our U-Net, because its own cannot take
our weights. Each draws 16 pictures in a turn (`turns.py`).

Results are kept in `benchmarks/results/drawing`, so the same command goes on where it was stopped. The denoisers are in
runs/claims.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
import turns
from peers import HERE, ForDiffusers, ForGaussianDiffusion, Twin
from torch import Tensor, nn
from torchvision_import import import_torchvision

from sfumato import registry
from sfumato.allocator import keep_freed_memory
from sfumato.diffusion import Discrete
from sfumato.model import Model

sys.path += [str(HERE / "claims"), str(HERE / "gan")]
from common import SEEDS, Features, frechet, head, row, trained  # pyright: ignore[reportMissingImports]
from contest import kept, spread  # pyright: ignore[reportMissingImports]
from solvers import draw  # pyright: ignore[reportMissingImports]

RESULTS = HERE / "results" / "drawing"
V = (
    "diffusion.schedule=linear",
    "diffusion.parameterization=v",
    "diffusion.sigma_data=1",
    "objective.weight=v",
    "times.kind=uniform",
)
OURS = ("dpm++2m/log-snr", "dpm++2m/karras", "dpm++2m-sde/karras")  # our recipes use the first
EVALUATIONS = (3, 4, 5, 6, 8, 10, 12, 15, 20)
BATCH, TIMED = 250, 16

Drawer = Callable[[int], Tensor]  # so many pictures (N, 1, 28, 28) in [-1, 1]


# --- the peers -------------------------------------------------------------------------------------------------------


def pipeline(kind: str, network: nn.Module, schedule: Discrete) -> Drawer:
    """A pipeline of `diffusers`, "DDPM" or "DDIM", as documented."""
    import_torchvision()
    import diffusers

    scheduler = getattr(diffusers, f"{kind}Scheduler")(prediction_type="v_prediction")
    drawing = getattr(diffusers, f"{kind}Pipeline")(ForDiffusers(network, schedule), scheduler)
    drawing.set_progress_bar_config(disable=True)

    def pictures(n: int) -> Tensor:
        return torch.from_numpy(drawing(batch_size=n, output_type="np").images).permute(0, 3, 1, 2) * 2 - 1

    return pictures


def gaussian_diffusion(steps: int | None, network: nn.Module, schedule: Discrete) -> Drawer:
    """GaussianDiffusion of `denoising-diffusion-pytorch`, with `steps` of DDIM or, by default, all of the chain."""
    import_torchvision()
    from denoising_diffusion_pytorch import (  # pyright: ignore[reportMissingImports]
        GaussianDiffusion,
        denoising_diffusion_pytorch,
    )

    denoising_diffusion_pytorch.tqdm = lambda steps, **settings: steps
    asked = ForGaussianDiffusion(network, schedule)
    settings: dict[str, Any] = {"objective": "pred_v", "beta_schedule": "linear", "sampling_timesteps": steps}
    diffusion = GaussianDiffusion(asked, image_size=asked.size, **settings)
    return lambda n: diffusion.sample(batch_size=n) * 2 - 1


PEERS: dict[str, Callable[[nn.Module, Discrete], Drawer]] = {
    "diffusers DDPM": partial(pipeline, "DDPM"),
    "diffusers DDIM": partial(pipeline, "DDIM"),
    "denoising-diffusion-pytorch": partial(gaussian_diffusion, None),
    "denoising-diffusion-pytorch DDIM": partial(gaussian_diffusion, 250),
}


# --- quality ---------------------------------------------------------------------------------------------------------


def denoiser(seed: int, steps: int) -> tuple[Model, Discrete]:
    """The trained denoiser of a seed, and its schedule."""
    model = trained(f"v-{steps}", V, seed, steps)
    schedule = model.denoiser.process.schedule
    assert isinstance(schedule, Discrete)
    return model, schedule


def drawn_by(peer: str, steps: int, seed: int, pictures: int) -> Tensor:
    """Pictures that a peer draws with the denoiser of a seed."""
    model, schedule = denoiser(seed, steps)
    drawer = PEERS[peer](model.denoiser.network, schedule)
    torch.manual_seed(seed)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return torch.cat([drawer(min(BATCH, pictures - done)) for done in range(0, pictures, BATCH)])


def least(distances: Mapping[int, float], limit: float) -> int | None:
    """The smallest number of evaluations whose distance is not above `limit`; None if all are above."""
    return min((n for n, distance in distances.items() if distance <= limit), default=None)


class Distances:
    """Fréchet distances by program, a value a seed, kept in a folder.

    Args:
        steps: of the denoisers' training.
        pictures: drawn for a distance.
        seeds: of the denoisers.
    """

    def __init__(self, steps: int, pictures: int, seeds: Sequence[int]) -> None:
        self.steps, self.pictures, self.seeds = steps, pictures, seeds
        self.folder = RESULTS / f"{steps}-steps-{pictures}-pictures"
        self.features = Features()
        self.real = self.features(self.features.test)

    def __call__(self, name: str, drawer: Callable[[int], Tensor]) -> list[float]:
        """The distances of the pictures that `drawer` draws for each seed."""

        def measure(seed: int) -> dict:
            return {"distance": frechet(self.features(drawer(seed)[: self.pictures]), self.real)}

        place = self.folder / name.replace(" ", "-").replace("/", "-")
        return [kept(place / f"{seed}.json", partial(measure, seed))["distance"] for seed in self.seeds]

    def peer(self, name: str) -> list[float]:
        return self(name, lambda seed: drawn_by(name, self.steps, seed, self.pictures))

    def ours(self, setting: str, evaluations: int) -> list[float]:
        solver, grid = setting.split("/")

        def drawer(seed: int) -> Tensor:
            return draw(denoiser(seed, self.steps)[0], solver, grid, evaluations, self.pictures, seed)

        return self(f"{setting}/{evaluations}", drawer)


# --- seconds ---------------------------------------------------------------------------------------------------------


def program(name: str, steps: int, seed: int, evaluations: int) -> turns.Steps:
    """What a program does to draw `TIMED` pictures: a peer by its name, or ours as "solver/grid"."""
    model, schedule = denoiser(seed, steps)
    if name not in PEERS:
        keep_freed_memory()
        solver, grid = name.split("/")
        return {"draw": lambda: model.generate(n=TIMED, solver=solver, grid=grid, steps=evaluations)}
    network = model.denoiser.network
    if name.startswith("diffusers"):
        own = model.config.network.model_dump(include={"channels", "multipliers", "blocks", "attention_level"})
        network = Twin(network.to(memory_format=torch.contiguous_format), **own)  # pyright: ignore
    drawer = PEERS[name](network, schedule)
    return {"draw": lambda: drawer(TIMED)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200, help="of the denoisers' training")
    parser.add_argument("--pictures", type=int, default=500, help="for a Fréchet distance")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--ours", nargs="+", default=OURS, metavar="SOLVER/GRID")
    parser.add_argument("--evaluations", nargs="+", type=int, default=EVALUATIONS)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    for setting in arguments.ours:
        solver, grid = setting.split("/")
        registry.resolve("solver", registry.SOLVERS, solver)
        registry.resolve("grid", registry.GRIDS, grid)

    distances = Distances(arguments.steps, arguments.pictures, arguments.seeds)
    ours = {s: {n: distances.ours(s, n) for n in arguments.evaluations} for s in arguments.ours}
    head("ours", *(f"{n} evaluations" for n in arguments.evaluations))
    for setting, found in ours.items():
        row(setting, *(spread(values, 2) for values in found.values()))
    print()

    head("peer", "its distance", "ours", "evaluations", "our distance", "its s a picture", "ours", "ratio")
    for peer in arguments.peers:
        theirs = distances.peer(peer)
        enough = {s: least({n: fmean(v) for n, v in found.items()}, fmean(theirs)) for s, found in ours.items()}
        for setting in [s for s, n in enough.items() if n is None]:
            row(peer, spread(theirs, 2), setting, f"more than {max(arguments.evaluations)}", "", "", "", "")
        programs = {peer: 0, **{s: n for s, n in enough.items() if n is not None}}
        if len(programs) == 1:
            continue
        pipes = [turns.start(program, p, arguments.steps, arguments.seeds[0], n) for p, n in programs.items()]
        taken = turns.measure(pipes, "draw", arguments.turns, warm=1)
        turns.end(pipes)
        for column, (setting, n) in list(enumerate(programs.items()))[1:]:
            own, other = (f"{turns.of(taken, i) / TIMED:.4f}" for i in (column, 0))
            distance = spread(ours[setting][n], 2)
            row(peer, spread(theirs, 2), setting, n, distance, other, own, turns.ratio(taken, 0, column))


if __name__ == "__main__":
    main()
