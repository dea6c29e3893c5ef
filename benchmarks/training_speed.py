"""Minutes of a processor to a Fréchet distance on Fashion-MNIST: our recipe, a plain DDPM, denoising-diffusion-pytorch.

    sfumato data get fashion-mnist
    OMP_NUM_THREADS=1 python benchmarks/training_speed.py
    OMP_NUM_THREADS=1 python benchmarks/training_speed.py --minutes 1 2 4 8 16 --pictures 1000

    sfumato                      the recipe `fashion`
    plain DDPM                   noise predicted on the linear schedule with the simple loss, AdamW at 2e-4, float32, no
                                 patches; in our trainer, with the averages of the recipe; estimates are clipped
                                 (`sampling.clip`), without which it comes to 39.6 in 8 minutes in place of 11.6
    denoising-diffusion-pytorch  Trainer and Unet of its README: 64 channels times 1, 2, 4, 8; v on the sigmoid
                                 schedule; batches of 32, two a step; Adam at 8e-5; average of 0.995. Its `amp` is
                                 bfloat16 where the processor has it, since float16, the default, is not for
                                 processors. Pictures get a black border, so that 28 pixels are 32, and are not mirrored

None is told the classes. One thread trains each, one after the other; seconds are the processor's, of the training
steps alone. The peer has its batches from memory, and not from files, at no cost.

After so many minutes each draws pictures from its averaged weights, all by 10 evaluations of DPM-Solver++(2M) on the
log-SNR grid, under bfloat16 autocast. The Fréchet distance is that of `claims/common.py`. The time at which a method
comes to a distance is read off the line between two measurements, straight in the logarithm of the distance; the
distance is the lowest that all have come to, unless `--distance` says another.

Results are kept in `benchmarks/results/training`, and the states of the trainings in runs/training-speed: the same
command goes on where it was stopped, and one with more minutes goes on from there. To use two cores, run two commands,
each with its own `--methods`; the one without draws the table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from peers import HERE
from torch import Tensor, nn
from torchvision_import import import_torchvision

from sfumato import load_recipe
from sfumato.cli.progress import Terminal
from sfumato.diffusion import (
    Denoiser,
    Gaussian,
    PosteriorMean,
    denoisers,
    dpm_solver_pp_2m,
    from_betas,
    grids,
    sample,
)
from sfumato.training.checkpoint import newest_whole, save_checkpoint
from sfumato.training.loop import Trainer, precision_of
from sfumato.training.prepared import machine_settings, prepare_run

sys.path += [str(HERE / "claims"), str(HERE / "gan")]
from common import Features, frechet, head, row  # pyright: ignore[reportMissingImports]
from contest import kept  # pyright: ignore[reportMissingImports]

RESULTS, RUNS = HERE / "results" / "training", Path("runs/training-speed")
MINUTES, EVALUATIONS, BATCH = (1, 2, 3, 5), 10, 100
TOGETHER = ("condition.kind=none", "training.sample_every=100000", "training.threads=1")
PLAIN = (
    "network.patch=1",
    "diffusion.schedule=linear",
    "diffusion.parameterization=epsilon",
    "diffusion.sigma_data=1",
    "objective.weight=simple",
    "times.kind=uniform",
    "optimizer.kind=adamw",
    "optimizer.lr=2e-4",
    "optimizer.weight_decay=0",
    "optimizer.decay=0",
    "training.precision=fp32",
    "training.steps=1000000",
)


class Contestant(Protocol):
    """A training that can be stopped.

    Attributes:
        seconds: processor time of the steps so far.
        pictures: seen so far.
        done: whether it has come to its own end.
        border: pixels on each side of what it draws that are none of the picture.
    """

    seconds: float
    border: int

    @property
    def pictures(self) -> int: ...
    @property
    def done(self) -> bool: ...
    def step(self) -> None: ...
    def save(self) -> None: ...
    def denoiser(self) -> contextlib.AbstractContextManager[PosteriorMean]: ...


class Ours:
    """A training of ours, the recipe `fashion` with some settings changed.

    Args:
        folder: of its checkpoints.
        overrides: e.g. "network.patch=1".
    """

    border = 0

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        config = load_recipe("fashion", [*TOGETHER, *overrides])
        machine_settings(config)
        with Terminal() as terminal:
            ready = prepare_run(config, folder, terminal)
        self.folder = folder
        self.trainer = Trainer(ready.config, ready.model, ready.data, ready.train_indices, ready.validation_indices)
        self.seconds = 0.0
        found = newest_whole(folder, print)
        if found:
            state, parts = found
            self.trainer.restore(state["step"], parts)
            self.seconds = state["seconds"]

    @property
    def pictures(self) -> int:
        return self.trainer.step * self.trainer.config.training.batch

    @property
    def done(self) -> bool:
        return self.trainer.step >= self.trainer.config.training.steps

    def step(self) -> None:
        self.trainer.train_step()

    def save(self) -> None:
        save_checkpoint(self.folder, self.trainer.step, self.trainer.parts(), {"seconds": self.seconds}, keep=1)

    @contextlib.contextmanager
    def denoiser(self) -> Iterator[PosteriorMean]:
        model = self.trainer.model.eval()
        with self.trainer.ema.swapped(self.trainer.config.sampling.ema):
            yield model.guided([None], model.sampling())[0]


class Steps(nn.Module):
    """A network that is asked for the step k = 0..T-1 of a chain, as our denoiser asks: for the noise level."""

    def __init__(self, network: nn.Module, schedule: Any) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        log_snr = -2 * torch.tan(level.double() * math.pi / 2000).log()
        return self.network(x, (self.schedule.T * self.schedule.time_of(log_snr) - 1).float())


class DenoisingDiffusion:
    """The Trainer of `denoising-diffusion-pytorch`.

    Args:
        folder: of its checkpoints and of the few pictures that it wants to find.
        pictures: to train on (N, 1, 28, 28) in [-1, 1].
    """

    border, batch, accumulate = 2, 32, 2
    done = False

    def __init__(self, folder: Path, pictures: Tensor) -> None:
        import_torchvision()
        from denoising_diffusion_pytorch import (  # pyright: ignore[reportMissingImports]
            GaussianDiffusion,
            Trainer,
            Unet,
        )
        from torchvision.utils import save_image  # pyright: ignore[reportMissingImports]

        self.data = nn.functional.pad((pictures + 1) / 2, [self.border] * 4)
        for i, picture in enumerate(self.data[:100]):
            path = folder / "pictures" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(picture, path)

        torch.manual_seed(0)
        unet = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1, flash_attn=True)
        self.diffusion = GaussianDiffusion(unet, image_size=32, timesteps=1000, sampling_timesteps=250)
        self.trainer = Trainer(
            self.diffusion,
            str(folder / "pictures"),
            train_batch_size=self.batch,
            train_lr=8e-5,
            train_num_steps=0,
            gradient_accumulate_every=self.accumulate,
            ema_decay=0.995,
            amp=precision_of("auto", torch.device("cpu")) == torch.bfloat16,
            mixed_precision_type="bf16",
            augment_horizontal_flip=False,
            calculate_fid=False,
            save_and_sample_every=10**9,
            results_folder=str(folder),
        )
        self.trainer.dl = self.batches()
        self.folder, self.seconds = folder, 0.0
        found = self.checkpoints()
        if found:
            with contextlib.redirect_stdout(io.StringIO()):
                self.trainer.load(found[-1].stem.removeprefix("model-"))
            self.seconds = float(found[-1].stem.split("-")[-1])

    def batches(self) -> Iterator[Tensor]:
        while True:
            for chosen in torch.randperm(len(self.data)).split(self.batch):
                yield self.data[chosen]

    def checkpoints(self) -> list[Path]:
        """The complete ones, the newest last; each is named by its steps and seconds."""
        return sorted(self.folder.glob("model-[0-9]*.pt"), key=lambda path: int(path.stem.split("-")[1]))

    @property
    def pictures(self) -> int:
        return self.trainer.step * self.batch * self.accumulate

    def step(self) -> None:
        self.trainer.train_num_steps = self.trainer.step + 1
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its progress
            self.trainer.train()

    def save(self) -> None:
        before = self.checkpoints()
        self.trainer.save("unfinished")
        final = self.folder / f"model-{self.trainer.step}-{self.seconds:.3f}.pt"
        (self.folder / "model-unfinished.pt").replace(final)
        for old in set(before) - {final}:
            old.unlink()

    @contextlib.contextmanager
    def denoiser(self) -> Iterator[Denoiser]:
        averaged = self.trainer.ema.ema_model.eval()
        schedule = from_betas(averaged.betas.double())
        yield Denoiser(Steps(averaged.model, schedule), Gaussian(schedule), denoisers.v)


METHODS = ("sfumato", "plain DDPM", "denoising-diffusion-pytorch")


def contestant(method: str, pictures: Tensor) -> Contestant:
    """A method, new or as its last checkpoint has it."""
    folder = RUNS / method.replace(" ", "-")
    if method == "denoising-diffusion-pytorch":
        return DenoisingDiffusion(folder, pictures)
    return Ours(folder, PLAIN if method == "plain DDPM" else ())


# --- training and measuring ------------------------------------------------------------------------------------------


@torch.inference_mode()
def draw(denoiser: PosteriorMean, pictures: int, border: int) -> Tensor:
    """Pictures (N, 1, 28, 28), from the same noise for every denoiser of the same size."""
    chance, side = torch.Generator().manual_seed(0), 28 + 2 * border
    times = grids.log_snr(denoiser.process.schedule, EVALUATIONS)
    drawn = []
    for done in range(0, pictures, BATCH):
        x = denoiser.process.prior(torch.randn(min(BATCH, pictures - done), 1, side, side, generator=chance))
        with torch.autocast("cpu", torch.bfloat16):
            *_, last = sample(denoiser, x, times, dpm_solver_pp_2m)
        drawn.append(last.x[..., border : border + 28, border : border + 28])
    return torch.cat(drawn)


def place(method: str, minutes: float, pictures: int) -> Path:
    return RESULTS / f"{pictures}-pictures" / method.replace(" ", "-") / f"{minutes:g}-minutes.json"


def run(method: str, minutes: Sequence[float], pictures: int) -> None:
    """Trains a method, and keeps a result after each of the `minutes` that has none."""
    torch.set_num_threads(1)
    features = Features()
    real = features(features.test)
    training = contestant(method, features.train)
    for end in sorted(m for m in minutes if not place(method, m, pictures).exists()):
        while training.seconds < 60 * end and not training.done:
            begin = time.process_time()
            training.step()
            training.seconds += time.process_time() - begin
        training.save()
        begin = time.process_time()
        with training.denoiser() as denoiser:
            distance = frechet(features(draw(denoiser, pictures, training.border)), real)
        found = {"seconds": training.seconds, "pictures": training.pictures, "distance": distance}
        kept(place(method, end, pictures), lambda found=found: found)
        drawing = time.process_time() - begin
        print(f"{method}: {training.seconds:.0f} s, distance {distance:.2f}, drawn in {drawing:.0f} s", flush=True)


def reached(seconds: Sequence[float], distances: Sequence[float], level: float) -> float | None:
    """The time at which a curve first comes down to `level`, straight in log(distance) between measurements.

    Returns:
        seconds; those of the first measurement where it is there already, None where it never is.
    """
    for i, distance in enumerate(distances):
        if distance <= level:
            if i == 0:
                return seconds[0]
            part = math.log(distances[i - 1] / level) / math.log(distances[i - 1] / distance)
            return seconds[i - 1] + part * (seconds[i] - seconds[i - 1])
    return None


def table(curves: dict[str, list[dict]], minutes: Sequence[float], level: float | None) -> None:
    """Prints the distances over the minutes, and when each method comes to `level`, or to what all have reached."""
    level = max(min(point["distance"] for point in curve) for curve in curves.values()) if level is None else level
    times = {
        method: reached([point["seconds"] for point in curve], [point["distance"] for point in curve], level)
        for method, curve in curves.items()
    }
    base = times.get("sfumato")
    head("method", "pictures/s", *(f"{m:g} min" for m in minutes), f"minutes to {level:.2f}", "times ours")
    for method, curve in curves.items():
        speed, at = curve[-1]["pictures"] / curve[-1]["seconds"], times[method]
        late = f"not in {curve[-1]['seconds'] / 60:.1f}" if at is None else f"{at / 60:.2f}"
        share = "" if at is None or base is None else f"{at / base:.1f}"
        distances = [f"{point['distance']:.2f}" for point in curve]
        row(method, f"{speed:.0f}", *distances, *[""] * (len(minutes) - len(curve)), late, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--minutes", nargs="+", type=float, default=MINUTES, help="of training, at which is measured")
    parser.add_argument("--pictures", type=int, default=500, help="drawn for a measurement")
    parser.add_argument("--distance", type=float, help="that is to be reached")
    arguments = parser.parse_args()
    minutes = sorted(arguments.minutes)

    for method in arguments.methods:
        if all(place(method, m, arguments.pictures).exists() for m in minutes):
            continue
        worker = multiprocessing.get_context("spawn").Process(target=run, args=(method, minutes, arguments.pictures))
        worker.start()
        worker.join()
        if worker.exitcode:
            sys.exit(f"{method} ended with {worker.exitcode}; the same command goes on where it was")
    curves = {
        method: [json.loads(place(method, m, arguments.pictures).read_text()) for m in minutes]
        for method in arguments.methods
    }
    table(curves, minutes, arguments.distance)


if __name__ == "__main__":
    main()
