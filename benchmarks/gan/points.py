"""Networks of points in the plane, several runs side by side: member m of a network sees only its own part of a batch.

Small matrices keep a processor waiting for the program; ten runs in one product take little longer than one. The parts
of a batch (M x B, ...) stand one after another. Nothing passes from one member to another: each has its own weights,
first and last, its own data and noise, and Adam goes its way number by number.

A perceptron is slow to learn functions that change over less than its unit of length (Rahaman et al. 2019,
arXiv:1806.08734). So a network that judges points may also see them by waves (Tancik et al. 2020, arXiv:2006.10739).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

LEVELS = tuple(math.pi * k for k in range(1, 5))  # the waves by which a noise level in [0, 1] is seen


class Linear(nn.Module):
    """A linear layer a member: x (M, B, inputs) -> (M, B, outputs), its first weights those of He et al. 2015."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, inputs, outputs) * (2 / inputs) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Norm(nn.Module):
    """Batch normalisation a member, by the statistics of the batch in training and when drawing: x (M, B, width)."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(members, 1, width)), nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt() * self.gain + self.bias


class Members(nn.Module):
    """Rows (M x B, inputs), the members' parts one after another -> (M x B, outputs)."""

    def __init__(self, members: int, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members, self.layers = members, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.unflatten(0, (self.members, -1))).flatten(0, 1)


def hidden(members: int, widths: Sequence[int], activation: nn.Module, norm: bool = False) -> list[nn.Module]:
    """Linear layers of these widths, each followed by its normalisation and activation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [Linear(members, inputs, outputs), *[Norm(members, outputs)] * norm, activation]
    return layers


def waves(x: Tensor, frequencies: Sequence[float]) -> Tensor:
    """x (B, D) -> (B, D + 2 D K): itself and the sines and cosines of it times each of the K frequencies."""
    phases = [x * frequency for frequency in frequencies]
    return torch.cat([x, *map(torch.sin, phases), *map(torch.cos, phases)], dim=1)


def generator(members: int, width: int, latent: int, norm: bool) -> nn.Module:
    """Noise (M x B, latent) -> points (M x B, 2): three hidden layers."""
    layers = hidden(members, [latent, width, width, width], nn.ReLU(), norm)
    return Members(members, [*layers, Linear(members, width, 2)])


class Critic(nn.Module):
    """Points (M x B, 2), seen by waves of these frequencies -> scores (M x B, 1): three hidden layers."""

    def __init__(self, members: int, width: int, frequencies: Sequence[float], unit: float) -> None:
        super().__init__()
        self.frequencies, self.unit = frequencies, unit
        widths = [2 + 4 * len(frequencies), width, width, width]
        self.net = Members(members, [*hidden(members, widths, nn.LeakyReLU(0.2)), Linear(members, width, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(waves(self.unit * x, self.frequencies))


class Denoiser(nn.Module):
    """Points (M x B, 2), seen likewise, and noise levels (M x B,), 0 ... 1000 -> (M x B, 2): three hidden layers."""

    def __init__(self, members: int, width: int, frequencies: Sequence[float], unit: float) -> None:
        super().__init__()
        self.frequencies, self.unit = frequencies, unit
        widths = [2 + 4 * len(frequencies) + 1 + 2 * len(LEVELS), width, width, width]
        self.net = Members(members, [*hidden(members, widths, nn.SiLU()), Linear(members, width, 2)])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.net(
            torch.cat([waves(self.unit * x, self.frequencies), waves(level[:, None] / 1000, LEVELS)], dim=1)
        )
