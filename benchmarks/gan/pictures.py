"""The contestants on pictures of 28 x 28, their training at equal operations, and the sheets of what they draw."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from contest import Cell, Contestant, Real, Tell, fit, fitted, operations, size
from convolutional import convolution, deconvolution, residual_critic, residual_generator
from denoising import Diffusion
from gans import GAN, methods
from PIL import Image
from torch import Tensor, nn

from sfumato import plots
from sfumato.codecs.grid import labelled_grid
from sfumato.codecs.pixels import Pixels
from sfumato.keyed import generator, key
from sfumato.networks.unet import UNet
from sfumato.training.loop import precision_of

Draw = Callable[[int], Tensor]  # how many -> pictures (N, C, 28, 28)

BATCH, LATENT = 32, 64
METHODS = {"diffusion": plots.BLUE, "dcgan": plots.RED, "wgan-gp": plots.ORANGE, "r3gan": plots.GREEN}
WGAN_PENALTY, R3GAN_GAMMA = 10.0, 1.0  # as in the papers
TILES = 10  # pictures of a run that are kept for a sheet


def contestant(
    method: str, lr: float, channels: int, width: int = 16, time: tuple[float, float] = (-0.2, 1.4)
) -> Contestant:
    """A new contestant by its name; each network is as large as the U-Net.

    Args:
        method: one of METHODS.
        lr: the peak learning rate.
        channels: of the pictures (channels, 28, 28).
        width: channels of the U-Net's first level.
        time: mean and deviation of the logit of the denoiser's time.
    """
    unet = UNet(channels, channels=width, multipliers=(1, 2), blocks=2, attention_level=1, patch=2, groups=16)
    if method == "diffusion":
        dtype = precision_of("auto", torch.device("cpu"))
        return Diffusion(strided(unet), (channels, 28, 28), 0.5, lr, time=time, dtype=dtype, optimizer="muon")

    def drawn(width: int) -> nn.Module:
        build = residual_generator if method == "r3gan" else deconvolution
        return build(width, channels, LATENT)

    def judged(width: int) -> nn.Module:
        return (
            residual_critic(width, channels) if method == "r3gan" else convolution(width, channels, method == "dcgan")
        )

    drawing, judging = (strided(net(fitted(net, size(unet)))) for net in (drawn, judged))
    return GAN(methods(WGAN_PENALTY, R3GAN_GAMMA)[method], drawing, judging, LATENT, lr)


def strided(net: nn.Module) -> nn.Module:
    """`net` channels-last, the layout in which convolutions are fastest."""
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def train(
    cell: Cell,
    name: str,
    build: Callable[[str, float], Contestant],
    real: Real,
    steps: int,
    watch: Callable[[int, Draw], None],
    watches: int,
    tell: Tell,
) -> dict:
    """Trains the run of a cell for the operations of `steps` steps of the denoiser.

    Args:
        cell: the run.
        name: name of the experiment, which keys the random numbers.
        build: (method, learning rate) -> a new contestant.
        real: the next batch of data.
        steps: of the denoiser.
        watch: called with the steps done and a function (number of pictures) -> pictures, `watches` times.
        watches: number of calls of `watch`; the last is at the end.
        tell: gets the progress.
    """
    torch.manual_seed(key(name, cell.seed))

    def cost(method: str) -> int:
        model = build(method, 0.0)
        return operations(lambda: model.step(real, 0.0))

    of_step = cost(cell.method)
    steps = max(1, round(cell.budget * steps * cost("diffusion") / of_step))
    model = build(cell.method, cell.lr)

    def look(done: int) -> None:
        watch(done, lambda n: model.draw(n, generator(name, cell.seed, done)))

    begin = time.process_time()
    curves = fit(model, real, steps, look, watches, tell)
    return {
        "steps": steps,
        "operations": steps * of_step,
        "operations_a_picture": drawing(model, 2 * BATCH) - drawing(model, BATCH),
        "weights": {part: size(net) for part, net in model.networks.items()},
        "processor_seconds": time.process_time() - begin,  # those of the looks, too
        "curves": curves,
    }


def drawing(model: Contestant, n: int) -> float:
    """Floating-point operations of drawing `n` pictures in batches; two such numbers give the cost of one picture."""
    return operations(lambda: model.draw(n, generator("cost"), BATCH)) / BATCH


def keep(path: Path, x: Tensor) -> None:
    """Writes the first pictures of x (N, C, 28, 28) for a sheet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, Pixels(28, x.shape[1]).decode(x[:TILES]), allow_pickle=False)


def sheet(rows: Mapping[str, Path]) -> Image.Image:
    """The pictures of the files, a labelled row each."""
    tiles, names = [], []
    for name, path in rows.items():
        pictures = np.load(path, allow_pickle=False)
        tiles += [Image.fromarray(p.squeeze()) for p in pictures]
        names += [name, *[""] * (len(pictures) - 1)]
    return labelled_grid(tiles, names, TILES, tile=56)
