"""Conditions that are planes beside x: a mask with the known part, a smaller version, a second picture.

A plane has the sides of x. ``Denoiser.predict`` adds it to the channels of the noisy x, so the network sees at every
place what is known there (Saharia et al. 2022, arXiv:2111.05826; Ho et al. 2022, arXiv:2106.15282). Everything here
works in one to three dimensions, and for any size that is drawn.

    mask      (1 + C)   1 where x_0 is known, and x_0 there; elsewhere 0. The null is 0 everywhere: nothing is known.
    picture   (C' + 1)  a second picture of the sample, and 1; the null is 0 everywhere.
    smaller   (C + 1)   x_0 made smaller and enlarged again, and 1 minus the noise on it; the null is 0 everywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.conditioning.conditioners import Conditioner
from sfumato.conditioning.pictures import content, given, known_of, with_mask
from sfumato.conditioning.values import Planes, Value
from sfumato.data.dataset import Dataset
from sfumato.data.readers import Reader, Unusable
from sfumato.durable import sha256
from sfumato.errors import UserError
from sfumato.keyed import generator
from sfumato.transfer import moved

ENLARGED = {1: "linear", 2: "bilinear", 3: "trilinear"}
WIDEST = 0.75  # largest share of a side that a mask hides at once


class PlanesConditioner(Conditioner):
    """Abstract: a condition whose value is an array (planes, *any sides).

    Args:
        shape: of x_0, (C, *sides).
        planes: their number.
        codec: of x_0, by which arrays that a person gives are read; without it they are in units of x.
        depth: bits that pictures of 16 bits use.
    """

    takes = "picture"
    place: Tensor

    def __init__(self, shape: Sequence[int], planes: int, codec: Codec | None = None, depth: int = 16) -> None:
        super().__init__()
        self.channels, self.sides, self.planes = shape[0], tuple(shape[1:]), planes
        self.codec, self.depth = codec, depth
        self.register_buffer("place", torch.zeros(()), persistent=False)  # moves with the model

    def forward(self, values: Sequence[Value | None], sides: Sequence[int] | None = None) -> dict[str, Tensor]:
        sides = tuple(sides or self.sides)
        null = torch.zeros(self.planes, *sides)
        rows = [self.laid(value.x, sides) if isinstance(value, Planes) else null for value in values]
        return {"planes": moved(torch.stack(rows), self.place.device)}

    def laid(self, x: Tensor, sides: Sequence[int]) -> Tensor:
        """The planes (planes, *sides) of a value of any sides."""
        raise NotImplementedError(f"{type(self).__name__} must say how its values become planes")


class MaskConditioner(PlanesConditioner):
    """A mask, and x_0 where it is known.

    In training masks are drawn by a law; see ``known_by``. A person gives a picture whose transparent part is to be
    drawn, or a picture (or array) and a mask of the same sides, "picture.png:mask.png": white, or what is not 0 in an
    array, is to be drawn. What the picture has there is hidden from the network.

    Args:
        shape: of x_0, (C, *sides).
        law: "boxes", "strokes", "halves", or "mixed", any of the three.
    """

    def __init__(self, shape: Sequence[int], law: str, codec: Codec | None = None, depth: int = 16) -> None:
        super().__init__(shape, 1 + shape[0], codec, depth)
        self.law = law

    def of(self, data: Dataset, index: int, x_0: Tensor, u: float) -> Value | None:
        known = known_by(self.law, self.sides, generator("mask", index, int(u * 2**53)))[None].to(x_0)
        return Planes(torch.cat([known, x_0 * known]))

    def normalize(self, value: Any, field: str = "prompt") -> Value | None:
        if value is None or isinstance(value, Planes):
            return value
        value, mask = with_mask(value)
        x, opaque, file, digest = given(value, self.channels, field, self.codec, self.depth)
        if mask is not None:
            opaque, its_file, its_digest = known_of(mask, field)
            file, digest = f"{file}:{its_file}", sha256(f"{digest}:{its_digest}".encode()) if digest else ""
            if opaque.shape != x.shape[1:]:
                raise UserError(
                    f"{field}: the mask has the sides {tuple(opaque.shape)}, and the picture {tuple(x.shape[1:])}",
                    fix="give a mask of the sides of the picture",
                )
        if opaque is None or bool(opaque.all()):
            raise UserError(
                f"{field}: {file or 'the picture'} has no transparent part, so nothing of it is to be drawn",
                fix="erase to transparency what the model shall draw, and save it as PNG; or give a mask beside it, "
                "PICTURE:MASK, white where the model shall draw",
            )
        known = opaque[None].to(x)
        return Planes(torch.cat([known, x * known]), file, digest)

    def laid(self, x: Tensor, sides: Sequence[int]) -> Tensor:
        share = fitted(x, sides)
        known = (share[:1] > 1 - 1e-3).to(x)  # a place counts as known only if all of it is
        return torch.cat([known, share[1:] * known])


class SmallerConditioner(PlanesConditioner):
    """A smaller version of x_0: averaged down, and enlarged again by interpolation.

    In training, noise of a standard deviation s, uniform in [0, noise], is added, and the network is given 1 - s. So a
    model is ready for small pictures that another model has drawn (noise conditioning augmentation, Ho et al. 2022,
    section 4). A picture from the user gets no noise.

    Args:
        shape: of x_0, (C, *sides).
        factor: how many times smaller a side is.
        noise: the largest standard deviation, in units of x.
    """

    def __init__(
        self, shape: Sequence[int], factor: int, noise: float, codec: Codec | None = None, depth: int = 16
    ) -> None:
        super().__init__(shape, shape[0] + 1, codec, depth)
        self.factor, self.noise = factor, noise

    def smaller(self, sides: Sequence[int]) -> tuple[int, ...]:
        """The sides of the smaller picture for an x of these sides."""
        return tuple(max(1, round(side / self.factor)) for side in sides)

    def of(self, data: Dataset, index: int, x_0: Tensor, u: float) -> Value | None:
        small = F.interpolate(x_0[None], self.smaller(x_0.shape[1:]), mode="area")[0]
        chance = generator("smaller", index, int(u * 2**53))
        level = self.noise * torch.rand((), generator=chance)
        small = small + level * torch.randn(small.shape, generator=chance)
        return Planes(torch.cat([small, (1 - level).expand_as(small[:1])]))

    def normalize(self, value: Any, field: str = "prompt") -> Value | None:
        if value is None or isinstance(value, Planes):
            return value
        x, _, file, digest = given(value, self.channels, field, self.codec, self.depth)
        return Planes(_marked(x), file, digest)

    def laid(self, x: Tensor, sides: Sequence[int]) -> Tensor:
        return enlarged(fitted(x, self.smaller(sides)), sides)


class PictureConditioner(PlanesConditioner):
    """A second picture of each sample: a sketch, a scan of another kind, the state before.

    A file that a person gives is prepared as those of the training are: fitted to the same size, with all its bits.

    Args:
        shape: of x_0, (C, *sides).
        name: of the condition, by which the data have its rows.
        codec: of the second pictures.
        reader: of their files.
    """

    def __init__(self, shape: Sequence[int], name: str, codec: Codec, reader: Reader) -> None:
        super().__init__(shape, codec.shape[0] + 1, codec)
        self.name, self.own, self.reader = name, codec, reader

    def of(self, data: Dataset, index: int, x_0: Tensor, u: float) -> Value | None:
        return Planes(_marked(self.own.encode(data.beside[self.name][[index]])[0]))

    def normalize(self, value: Any, field: str = "prompt") -> Value | None:
        if value is None or isinstance(value, Planes):
            return value
        if not isinstance(value, str | Path):
            x, _, file, digest = given(value, self.own.shape[0], field, self.own)
            return Planes(_marked(x), file, digest)
        path = Path(value).expanduser()
        data = content(path, field)
        try:
            row = self.reader(data, path.name).values
        except Unusable as error:
            raise UserError(f"{field}: {path}: {error.reason}", fix=error.fix) from None
        return Planes(_marked(self.own.encode(row[None])[0]), path.name, sha256(data))

    def laid(self, x: Tensor, sides: Sequence[int]) -> Tensor:
        return fitted(x, sides)

    def fit(self, data: Dataset) -> None:
        self.own.fit(data.beside[self.name])

    def state(self) -> dict[str, Tensor]:
        return self.own.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.own.load_state(state)


def _marked(x: Tensor) -> Tensor:
    """x (C, *sides) with a plane of ones, which says that it was given."""
    return torch.cat([x, torch.ones_like(x[:1])])


# --- sizes -----------------------------------------------------------------------------------------------------------


def enlarged(x: Tensor, sides: Sequence[int]) -> Tensor:
    """x (C, *any) at other sides, linearly between its points."""
    return F.interpolate(x[None], tuple(sides), mode=ENLARGED[len(sides)], align_corners=False)[0]


def fitted(x: Tensor, sides: Sequence[int]) -> Tensor:
    """x (C, *any) at ``sides``: cut at the centre to their proportions, then averaged down or enlarged."""
    sides = tuple(sides)
    scale = min(has / wanted for has, wanted in zip(x.shape[1:], sides, strict=True))
    for axis, wanted in enumerate(sides, 1):
        kept = min(x.shape[axis], max(1, round(wanted * scale)))
        x = x.narrow(axis, (x.shape[axis] - kept) // 2, kept)
    if tuple(x.shape[1:]) == sides:
        return x
    return enlarged(x, sides) if scale < 1 else F.interpolate(x[None], sides, mode="area")[0]


# --- masks -----------------------------------------------------------------------------------------------------------


def known_by(law: str, sides: Sequence[int], chance: torch.Generator) -> Tensor:
    """A random mask (*sides), True where x_0 is known.

    boxes     one to three boxes are hidden, anywhere, each side a quarter to three quarters as long as x's
    strokes   one to four broken lines of three pieces (of one on a line) are hidden, 0.1 to 0.3 sides thick
    halves    everything beyond a cut across one axis is hidden, from a quarter to three quarters of it
    mixed     any of the three
    """
    laws = {"boxes": boxes, "strokes": strokes, "halves": halves}
    choice = int(torch.randint(len(laws), (), generator=chance))
    return ~(laws[law] if law in laws else list(laws.values())[choice])(places_of(sides), chance)


def places_of(sides: Sequence[int]) -> Tensor:
    """The centres (*sides, D) of all places, in [0, 1] along each side."""
    axes = [(torch.arange(side) + 0.5) / side for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def boxes(places: Tensor, chance: torch.Generator) -> Tensor:
    """(*sides), True in one to three boxes."""
    count, dims = int(torch.randint(1, 4, (), generator=chance)), places.shape[-1]
    length = 0.25 + (WIDEST - 0.25) * torch.rand(count, dims, generator=chance)
    low = torch.rand(count, dims, generator=chance) * (1 - length)
    inside = (places[..., None, :] >= low) & (places[..., None, :] <= low + length)
    return inside.all(-1).any(-1)


def strokes(places: Tensor, chance: torch.Generator) -> Tensor:
    """(*sides), True near one to four broken lines."""
    count, dims = int(torch.randint(1, 5, (), generator=chance)), places.shape[-1]
    pieces = 3 if dims > 1 else 1
    points = torch.rand(count, pieces + 1, dims, generator=chance)
    reach = (0.05 + 0.1 * torch.rand(count, generator=chance)).repeat_interleave(pieces)
    start, along = points[:, :-1].flatten(0, 1), points.diff(dim=1).flatten(0, 1)
    hidden = torch.zeros(places.shape[:-1], dtype=torch.bool)
    for a, way, radius in zip(start, along, reach, strict=True):
        share = (((places - a) @ way) / way.square().sum().clamp(min=1e-12)).clamp(0, 1)
        hidden |= (places - a - share[..., None] * way).norm(dim=-1) <= radius
    return hidden


def halves(places: Tensor, chance: torch.Generator) -> Tensor:
    """(*sides), True beyond a cut across one axis."""
    axis = int(torch.randint(places.shape[-1], (), generator=chance))
    share = 0.25 + (WIDEST - 0.25) * float(torch.rand((), generator=chance))
    along = places[..., axis]
    return along < share if int(torch.randint(2, (), generator=chance)) else along > 1 - share
