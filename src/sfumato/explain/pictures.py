"""Pictures for the page: one made by code, rows and films of pictures, and how sharp a picture is."""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.codecs.grid import labelled_grid
from sfumato.diffusion.schedules import Schedule, like

FRAME, LAST = 90, 1500  # milliseconds of each frame of a film, and of the last one
FRAMES = 32  # frames of a film, at most
TILE = 112  # approximate side of a picture in a row


def landscape(shape: Sequence[int]) -> Tensor:
    """A sun over three misty ridges, x_0 of `shape` (C, H, W), C of 1 to 4, in [-1, 1], by formula."""
    channels, height, width = shape
    size = min(height, width)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")

    def colour(code: str) -> Tensor:
        return torch.tensor(list(bytes.fromhex(code)))[:, None, None] / 127.5 - 1

    picture = torch.lerp(colour("37588f"), colour("f6cf9b"), (1.6 * y).clamp(0, 1))
    sun = torch.sigmoid((0.13 - ((x - 0.68) ** 2 + (y - 0.34) ** 2).sqrt()) * 2 * size)
    picture = torch.lerp(picture, colour("fff3d6"), sun)
    ridges = (("a98fa6", 0.52, 0.06, 5.0, 0.4), ("6d6c8e", 0.66, 0.07, 7.0, 2.2), ("27324d", 0.82, 0.06, 9.0, 4.4))
    for code, level, swing, pace, phase in ridges:
        line = level + swing * torch.sin(pace * x + phase) + swing / 3 * torch.sin(3.1 * pace * x + 2 * phase)
        picture = torch.lerp(picture, colour(code), torch.sigmoid((y - line) * 2 * size))
    if channels == 1:
        return picture.mean(0, keepdim=True)
    return torch.cat([picture, torch.ones_like(picture[: channels - 3])])  # opaque, where there is alpha


def shown(codec: Codec, x: Tensor, schedule: Schedule, t: Tensor) -> Image.Image:
    """The state x_t (C, H, W) as a picture, divided by sqrt(alpha_t^2 + sigma_t^2) and cut to [-1, 1]."""
    alpha, sigma = schedule(t)
    return codec.pictures((x / like((alpha**2 + sigma**2).sqrt(), x))[None])[0]


def row(pictures: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """Pictures of one size in rows, each enlarged by a whole factor and above its label."""
    side = pictures[0].width
    return labelled_grid(pictures, labels, columns, tile=max(1, round(TILE / side)) * side)


def film(frames: Sequence[Image.Image]) -> bytes:
    """An endless film as the bytes of an animated WebP file; it rests on its last frame."""
    file = io.BytesIO()
    first, *rest = frames
    durations = [FRAME] * len(rest) + [LAST]
    first.save(file, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, quality=50, method=4)
    return file.getvalue()


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 to count - 1, evenly, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def sharpness(x: Tensor) -> Tensor:
    """The mean squared difference of neighbouring pixels of x (..., H, W); (B, C, H, W) gives (B,).

    The average of pictures is less sharp than each of them, as it has less variance.
    """
    across, down = x.diff(dim=-1) ** 2, x.diff(dim=-2) ** 2
    return (across.mean((-3, -2, -1)) + down.mean((-3, -2, -1))) / 2
