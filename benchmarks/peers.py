"""The peers of the benchmarks, `diffusers`, `denoising-diffusion-pytorch` and `azula`, with adapters to our networks.

They are the extra `bench`, for an environment of its own (see README.md).
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision_import import import_torchvision

from sfumato.diffusion import Discrete, noise_level
from sfumato.networks import UNet

sys.path.append(str(Path(__file__).parent / "gan"))
from contest import fitted  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent


def of_the_tests(file: str, name: str) -> Callable[..., Any]:
    """A function of the tests of networks, so that what is measured is what is checked."""
    import_torchvision()  # which `diffusers` looks for
    return runpy.run_path(str(HERE.parent / "tests" / "networks" / file))[name]


# --- our weights in their programs -----------------------------------------------------------------------------------


class Chain(nn.Module):
    """Our network as peers call it: with x_t (B, C, H, W) and the step k = 0..T-1 of the chain, () or (B,).

    Args:
        network: (x_t, noise level (B,)) -> its prediction; trained with c_in = 1, that is, sigma_data = 1.
        schedule: the chain.
        size: side of the pictures.
    """

    def __init__(self, network: nn.Module, schedule: Discrete, size: int = 28) -> None:
        super().__init__()
        self.network = network
        times = torch.arange(1, schedule.T + 1, dtype=torch.float64) / schedule.T
        self.levels = noise_level(*schedule(times)).float()
        self.size = size

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        return self.network(x, self.levels[k].expand(len(x)))


class ForDiffusers(Chain):
    """What a pipeline of `diffusers` asks of a U-Net for grey pictures."""

    dtype, device = torch.float32, torch.device("cpu")

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(in_channels=1, sample_size=self.size)

    def forward(self, x: Tensor, k: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=super().forward(x, k))


class ForGaussianDiffusion(Chain):
    """What GaussianDiffusion of `denoising-diffusion-pytorch` asks of a U-Net for grey pictures."""

    channels = out_dim = 1
    self_condition = False

    def forward(self, x: Tensor, k: Tensor, x_self_cond: None = None) -> Tensor:
        return super().forward(x, k)


class Twin(nn.Module):
    """The U-Net of `diffusers` with the weights of a network of ours, in patches as that has them.

    Args:
        network: ours.
        settings: channels, multipliers, blocks, attention_level and scale_shift of it.
    """

    def __init__(self, network: UNet, **settings: Any) -> None:
        super().__init__()
        self.patch = network.patch
        channels = network.stem.in_channels
        self.unet = of_the_tests("test_unet_agrees_with_diffusers.py", "twin")(
            network, in_channels=channels, **settings
        )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(x, self.patch), level).sample, self.patch)


# --- their U-Nets in our size ----------------------------------------------------------------------------------------


class Azula(nn.Module):
    """azula's U-Net for colour pictures: one normalisation a block, no attention, so fewer operations a weight."""

    def __init__(self, width: int, multipliers: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        from azula.nn.layers import SineEncoding  # pyright: ignore[reportMissingImports]
        from azula.nn.unet import UNet  # pyright: ignore[reportMissingImports]

        channels = [width * m for m in multipliers]
        self.encoding = SineEncoding(4 * width)
        self.unet = UNet(3, 3, hid_channels=channels, hid_blocks=[blocks] * len(channels), mod_features=4 * width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, self.encoding(t))


class DenoisingDiffusion(nn.Module):
    """The U-Net of `denoising-diffusion-pytorch` for colour pictures, as its README builds it."""

    def __init__(self, width: int, multipliers: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        import_torchvision()
        from denoising_diffusion_pytorch import Unet  # pyright: ignore[reportMissingImports]

        self.unet = Unet(dim=width, dim_mults=multipliers, flash_attn=True)  # it always has two blocks a stage

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t)


def as_large(
    kind: type[Azula] | type[DenoisingDiffusion], target: int, multipliers: tuple[int, ...], blocks: int
) -> nn.Module:
    """A U-Net of `kind` with `target` weights, as near as even widths come."""
    return kind(fitted(lambda width: kind(width, multipliers, blocks), target), multipliers, blocks)
