"""Sharpness, brightness, contrast and colourfulness of pictures, the values of other data, and how what is drawn
differs from what is real in each.

One number a picture, over its grey values Y = 0.299 R + 0.587 G + 0.114 B of 0 to 255:

    sharpness       variance of the Laplacian, levels^2             (Pech-Pacheco et al. 2000)
    brightness      mean of Y, levels
    contrast        standard deviation of Y, levels
    colourfulness   |std(rg, yb)| + 0.3 |mean(rg, yb)| with rg = R - G and yb = (R + G) / 2 - B, of colour pictures only
                    (Hasler & Süsstrunk 2003)

One number a row of other data, over the values of each channel (of all if there are more than MOST), in their unit:

    mean, standard deviation, least, largest
    roughness       root of the mean square of the differences of neighbours along all sides, over the standard
                    deviation and the root of 2: 1 for white noise, near 0 for smooth data

The means may agree although the distributions do not, so the Wasserstein-1 distance of the two, in the unit of the
number, is given as well. It is biased upwards: it is above 0 even for two sets of one law.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.measures.interval import Difference, Interval, difference, interval, jackknife, of_mean

PICTURES = 256  # at once
MOST = 8  # channels that are told one by one
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


def compared(of_real: Mapping[str, Tensor], of_drawn: Mapping[str, Tensor], seed: int) -> dict[str, Compared]:
    """Every statistic (N,) of real rows against that of drawn ones (M,), both from `statistics`.

    Raises:
        UserError: fewer than 8 rows in a set.
    """
    return {name: compare(of_real[name], of_drawn[name], seed) for name in of_real}


def statistics(codec: Codec, rows: np.ndarray) -> dict[str, Tensor]:
    """Every statistic (N,) of stored rows (N, ...)."""
    one = of_pictures if codec.pictorial else of_values
    see = codec.levels if codec.pictorial else codec.values
    parts = [one(torch.from_numpy(np.array(see(rows[i : i + PICTURES])))) for i in range(0, len(rows), PICTURES)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def of_values(values: Tensor) -> dict[str, Tensor]:
    """Those of numbers on a grid, (B, C, *sides)."""
    channels = values.shape[1]
    parts = values.double().split(1 if channels <= MOST else channels, dim=1)
    found = {}
    for c, part in enumerate(parts, start=1):
        of = f" of channel {c}" if len(parts) > 1 else ""
        flat = part.flatten(1)
        spread = flat.std(1, correction=0)
        steps = [part.diff(dim=d).flatten(1).square() for d in range(2, part.dim()) if part.shape[d] > 1]
        rough = torch.cat(steps, 1).mean(1).sqrt() if steps else torch.zeros_like(spread)
        found |= {
            f"mean{of}": flat.mean(1),
            f"standard deviation{of}": spread,
            f"least{of}": flat.amin(1),
            f"largest{of}": flat.amax(1),
            f"roughness{of}": rough / (2**0.5 * spread).clamp(min=torch.finfo(torch.float64).tiny),
        }
    return found


def of_pictures(pictures: Tensor) -> dict[str, Tensor]:
    """Those of pictures (B, H, W, 1 or 3) in levels of 255, of 3 x 3 or more; colourfulness of colour ones."""
    pictures = pictures.double()
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
