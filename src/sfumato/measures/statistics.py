"""Sharpness, brightness, contrast and colourfulness of pictures, and how drawn ones differ from real ones in each.

One number a picture, over its grey values Y = 0.299 R + 0.587 G + 0.114 B of 0 to 255:

    sharpness       variance of the Laplacian, levels^2             (Pech-Pacheco et al. 2000)
    brightness      mean of Y, levels
    contrast        standard deviation of Y, levels
    colourfulness   |std(rg, yb)| + 0.3 |mean(rg, yb)| with rg = R - G and yb = (R + G) / 2 - B, of colour pictures only
                    (Hasler & Süsstrunk 2003)

The means may agree although the distributions do not, so the Wasserstein-1 distance of the two, in the unit of the
number, is given as well. It is biased upwards: it is above 0 even for two sets of one law.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.measures.interval import Difference, Interval, difference, interval, jackknife, of_mean

PICTURES = 256  # at once
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Compared:
    """One statistic, real against drawn.

    Attributes:
        real: its mean over real pictures.
        drawn: its mean over drawn ones.
        difference: drawn minus real, with Welch's interval and p-value.
        distance: the Wasserstein-1 distance of the distributions, with an interval for other sets of the same size.
    """

    real: Interval
    drawn: Interval
    difference: Difference
    distance: Interval


def compared(real: Tensor, drawn: Tensor, seed: int) -> dict[str, Compared]:
    """Every statistic of uint8 pictures (N, H, W, C) against those of (M, H, W, C).

    Raises:
        UserError: fewer than 8 pictures in a set.
    """
    of_real, of_drawn = statistics(real), statistics(drawn)
    return {name: compare(of_real[name], of_drawn[name], seed) for name in of_real}


def statistics(pictures: Tensor) -> dict[str, Tensor]:
    """Every statistic (N,) of uint8 pictures (N, H, W, C) of 3 x 3 or more; colourfulness where C = 3."""
    parts = [_statistics(part.double()) for part in pictures.split(PICTURES)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _statistics(pictures: Tensor) -> dict[str, Tensor]:
    colour = pictures.shape[3] == 3
    grey = pictures @ pictures.new_tensor(GREY) if colour else pictures.mean(3)
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    found = {
        "sharpness": laplacian.flatten(1).var(1, correction=0),
        "brightness": grey.flatten(1).mean(1),
        "contrast": grey.flatten(1).std(1, correction=0),
    }
    if colour:
        red, green, blue = pictures.flatten(1, 2).unbind(2)
        opponents = torch.stack([red - green, (red + green) / 2 - blue])
        spread = opponents.var(2, correction=0).sum(0).sqrt()
        found["colourfulness"] = spread + 0.3 * opponents.mean(2).norm(dim=0)
    return found


def compare(real: Tensor, drawn: Tensor, seed: int) -> Compared:
    """One statistic of real pictures (N,) against that of drawn ones (M,)."""
    apart = wasserstein(real, drawn).item()
    found = jackknife(wasserstein, [real, drawn], seed)
    return Compared(
        real=of_mean(real),
        drawn=of_mean(drawn),
        difference=difference(drawn, real, paired=False),
        distance=interval(apart, found.error.item(), found.freedom).within(0),
    )


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """The Wasserstein-1 distance () of the distributions of (N,) and (M,)."""
    from scipy.stats import wasserstein_distance

    return torch.tensor(wasserstein_distance(a.numpy(), b.numpy()), dtype=torch.float64)
