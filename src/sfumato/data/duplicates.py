"""Near-duplicates of a prepared data set: the same picture in another brightness, compression, scale or position.

A diffusion model learns by heart what occurs often in the training data (Somepalli et al. 2023, arXiv:2305.20086;
Carlini et al. 2023, arXiv:2301.13188), and equal files are the smaller part of it. There are three stages, at no more
than 32 x 32 pixels:

1. Equal pictures count as one.
2. Candidates: pictures whose perceptual hashes differ in at most 8 of 64 bits. A bit says whether one of the 8 x 8
   lowest cosine frequencies is above their median (Zauner 2010; `phash` of imagehash) by a margin, because the many
   frequencies that an icon does not have would be bits of noise. A shift by one pixel changes about 12 bits of such a
   small picture, so each picture is searched in five positions.
3. Verification, because different pictures on a flat ground have similar hashes: the difference of the two, slightly
   blurred, is fitted by a gain, an offset and a shift of less than a pixel (the first order of Taylor's series, as in
   Lucas & Kanade 1981), and the rest must be small everywhere and on average.

The limits come from emoji and Fashion-MNIST: if less than 12 levels remain, the pictures are copies or look like
copies; above 20 they are other faces, flags and colours. Mirrored pictures and crops count as other pictures. All
hashes are compared with all, 10^9 pairs a second: minutes for 60,000 pictures, an hour for 500,000.

For other data nothing is known of what makes two the same, so the distance alone decides: equal arrays are one, and so
are arrays that are nearer, over the values of x, than a fifth of the median distance to the nearest other one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.data.dataset import Dataset
from sfumato.data.faults import printable
from sfumato.data.records import count
from sfumato.durable import write_atomically
from sfumato.errors import MissingPackage, UserError

Progress = Callable[[int, int], None]

SIDE = 32  # pixels at which pictures are compared
SMALLEST = 12  # pixels that a comparison needs
BITS = 8  # bits of 64 in which the hashes of candidates may differ
MARGIN = 0.05  # a frequency must exceed the median by this share of the root mean square of all
SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1))  # a shift back is the other picture's shift forth
GAIN = 0.2  # largest relative difference of the contrasts
OFFSET = 45.0  # largest difference of the average luminance, in levels of 255
MOVED = 1.0  # largest shift that is left to fit, in pixels
LEVELS = 12.0  # largest difference that may remain anywhere, in levels of 255
RESIDUAL = 0.15  # largest root mean square that may remain, as a share of the standard deviation
UNFITTED = 0.45  # the same of the luminance, before the fit
VALUES = 1024  # of x that are compared, at most or little more, as means of blocks
POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
# of red, green and blue (BT.601)
YCBCR = np.array([[0.299, -0.168736, 0.5], [0.587, -0.331264, -0.418688], [0.114, 0.5, -0.081312]], np.float32)
NEAR = 0.2  # in feature space: share of the median distance to the nearest picture

_QUERIES, _PAIRS = 1024, 512  # at once; with more, memory would be allocated and freed again and again
_LISTED = 10  # groups that are printed


@dataclass(frozen=True)
class Group:
    """Pictures that are the same, directly or through others.

    Attributes:
        indices: their indices in the data set, ascending.
        paths: their names.
        distance: the largest remaining difference between two linked pictures, in levels of 255.
    """

    indices: tuple[int, ...]
    paths: tuple[str, ...]
    distance: float


@dataclass(frozen=True)
class Duplicates:
    """The result of a scan of the data set with this manifest hash; its text is for people."""

    pictures: int
    manifest_sha256: str
    groups: tuple[Group, ...]

    def __str__(self) -> str:
        inside = sum(len(group.indices) for group in self.groups)
        spare = count(inside - len(self.groups), "picture")
        lines = [f"near-duplicates: {count(len(self.groups), 'group')} of {inside:,} pictures; {spare} to spare"]
        for group in sorted(self.groups, key=lambda group: -len(group.indices))[:_LISTED]:
            names = ", ".join(printable(path) for path in group.paths[:4])
            lines.append(f"  {len(group.paths):>5,} x  {names}{', ...' if len(group.paths) > 4 else ''}")
        return "\n".join([*lines, "  ..."] if len(self.groups) > _LISTED else lines)

    def save(self, path: Path) -> None:
        """Write all groups as JSON."""
        write_atomically(path, asdict(self))

    def keep(self) -> np.ndarray:
        """The indices (K,) of the data set without repetitions: of every group, the first picture."""
        spare = [index for group in self.groups for index in group.indices[1:]]
        return np.setdiff1d(np.arange(self.pictures), spare)


def find_duplicates(
    data: Dataset, codec: Codec, progress: Progress | None = None, features: np.ndarray | None = None
) -> Duplicates:
    """Find the near-duplicates of a data set. The groups are the same in any order of the rows.

    Args:
        data: prepared.
        codec: of the data, fitted to them.
        progress: called with (pictures done, pictures in all).
        features: (N, D); pictures that are neighbours in these also count as duplicates.

    Raises:
        MissingPackage: faiss, of the extra `eval`, is not installed.
        UserError: the pictures are smaller than 12 pixels.
    """
    names = [row["path"] for row in data.manifest]
    if codec.pictorial:
        parts = [codec.levels(data.rows[i : i + _QUERIES]) for i in range(0, len(data), _QUERIES)]
        found = groups_of(np.concatenate(parts), progress, features)
    else:
        found = groups_of_values(codec, data.rows, progress, features)
    return Duplicates(
        pictures=len(data),
        manifest_sha256=data.manifest_hash,
        groups=tuple(Group(group, tuple(names[i] for i in group), distance) for group, distance in found),
    )


def groups_of(
    pictures: np.ndarray, progress: Progress | None = None, features: np.ndarray | None = None
) -> list[tuple[tuple[int, ...], float]]:
    """The groups among pictures (N, H, W, 1 or 3) in levels of 255, uint8 or float32: ascending indices and the largest
    distance of a link."""
    if min(pictures.shape[1:3]) < SMALLEST:
        raise UserError(
            f"near-duplicates: pictures of {min(pictures.shape[1:3])} pixels are too small to be compared",
            fix=f"prepare them at {SMALLEST} pixels or more",
        )
    small = reduced(pictures)
    _, first, same = np.unique(small.reshape(len(small), -1), axis=0, return_index=True, return_inverse=True)
    links = [(np.arange(len(small)), first[same], np.zeros(len(small)))]
    links += [(first[a], first[b], distance) for a, b, distance in _near(small[first], progress)]
    if features is not None:
        links += list(_near_features(np.asarray(features, np.float32)))
    return linked(len(small), links)


def groups_of_values(
    codec: Codec, rows: np.ndarray, progress: Progress | None = None, features: np.ndarray | None = None
) -> list[tuple[tuple[int, ...], float]]:
    """The same among stored rows (N, ...) of any kind, by equality and by the distance over the values of x."""
    demand_faiss()
    hashes = np.array([hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest() for row in rows])
    _, first, same = np.unique(hashes, return_index=True, return_inverse=True)
    links = [(np.arange(len(rows)), first[same], np.zeros(len(rows)))]
    values = np.concatenate(
        [flat(codec.encode(rows[np.sort(first)[i : i + _QUERIES]])).numpy() for i in range(0, len(first), _QUERIES)]
    )
    places = np.sort(first)
    if len(places) > 1:
        links += [(places[a], places[b], distance) for a, b, distance in _near_features(values)]
    if features is not None:
        links += list(_near_features(np.asarray(features, np.float32)))
    if progress:
        progress(len(rows), len(rows))
    return linked(len(rows), links)


def linked(
    count: int, links: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> list[tuple[tuple[int, ...], float]]:
    """The groups of two or more among `count` that links (a, b, distance) join."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b, distance = (np.concatenate(column) for column in zip(*links, strict=True))
    _, group = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(count, count)), directed=False)
    largest = np.zeros(count)
    np.maximum.at(largest, group[a], distance)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    found = [(tuple(m.tolist()), round(float(largest[group[m[0]]]), 3)) for m in members if len(m) > 1]
    return sorted(found)


# ---- candidates


def reduced(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 1 or 3) at no more than SIDE pixels a side, of the same dtype, uint8 or float32; RGB becomes
    luminance and two colour differences (BT.601, as in JPEG)."""
    colour = pictures.shape[3] == 3
    sides = [min(side, SIDE) for side in pictures.shape[1:3]]
    if pictures.dtype != np.uint8:
        return _reduced_floats(pictures, sides)
    small = np.empty((len(pictures), *sides, pictures.shape[3]), np.uint8)
    for i, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels if colour else pixels[..., 0])
        if picture.size != (sides[1], sides[0]):
            picture = picture.resize((sides[1], sides[0]), Image.Resampling.BOX)
        small[i] = np.asarray(picture.convert("YCbCr") if colour else picture).reshape(small.shape[1:])
    return small


def _reduced_floats(pictures: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """`reduced`, without rounding: what is dark has few levels of 255, and what tells it apart lies between them."""
    parts = []
    for start in range(0, len(pictures), _QUERIES):
        x = torch.from_numpy(pictures[start : start + _QUERIES]).permute(0, 3, 1, 2)
        x = F.adaptive_avg_pool2d(x, (sides[0], sides[1])).permute(0, 2, 3, 1).numpy()
        parts.append(x @ YCBCR + (0, 128, 128) if x.shape[3] == 3 else x)
    return np.concatenate(parts).astype(np.float32)


def flat(x: Tensor) -> Tensor:
    """x (B, C, *sides) as vectors of at most VALUES entries or little more: means of blocks where there are more."""
    dims = x.dim() - 2
    each = max(1, int((VALUES / x.shape[1]) ** (1 / dims)))
    sides = [min(side, each) for side in x.shape[2:]]
    return POOL[dims](x.float(), sides).flatten(1)


def perceptual_hash(grey: np.ndarray, shift: tuple[int, int] = (0, 0), margin: float = MARGIN) -> np.ndarray:
    """The hashes, uint8 (N, 8) of 64 bits, of uint8 pictures (N, H, W) that are moved by (rows, columns)."""
    from scipy.fft import dctn

    codes = []
    for start in range(0, len(grey), _QUERIES):
        padded = np.pad(grey[start : start + _QUERIES], ((0, 0), (1, 1), (1, 1)), mode="edge")
        moved = np.roll(padded, shift, axis=(1, 2))[:, 1:-1, 1:-1]
        low = np.asarray(dctn(moved.astype(np.float64), axes=(1, 2)))[:, :8, :8].reshape(len(moved), -1)
        least = np.median(low, axis=1) + margin * np.sqrt(np.square(low[:, 1:]).mean(1))
        codes.append(np.packbits(low > least[:, None], axis=1))
    return np.concatenate(codes)


def demand_faiss() -> Any:
    """The package faiss.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingPackage("faiss-cpu", "searching near-duplicates") from None
    return faiss


def _near(pictures: np.ndarray, progress: Progress | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The verified pairs (a, b, distance) among different pictures."""
    faiss = demand_faiss()
    codes = perceptual_hash(pictures[..., 0])
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    blurred = blur(blur(pictures))
    contrast = blurred[..., 0].std((1, 2)) + 1
    for start in range(0, len(pictures), _QUERIES):
        queries = pictures[start : start + _QUERIES, ..., 0]
        for shift in SHIFTS:
            limits, _, b = index.range_search(perceptual_hash(queries, shift), BITS + 1)
            a = start + np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64)))
            other = a < b if shift == (0, 0) else a != b
            other &= np.abs(np.log(contrast[a] / contrast[b])) < 2 * GAIN
            a, b = a[other], b[other]
            for part in range(0, len(a), _PAIRS):
                one, two = a[part : part + _PAIRS], b[part : part + _PAIRS]
                grey = (_window(blurred[each][..., :1], shift, sign) for each, sign in ((two, 1), (one, -1)))
                spread = np.subtract(*grey, dtype=np.float32).std((1, 2, 3))
                likely = spread <= UNFITTED * np.sqrt(contrast[one] * contrast[two])
                one, two = one[likely], two[likely]
                distance = difference(_window(blurred[one], shift, -1), _window(blurred[two], shift, 1))
                near = distance <= LEVELS
                yield one[near], two[near], distance[near]
        if progress:
            progress(min(start + _QUERIES, len(pictures)), len(pictures))


# ---- verification


def blur(pictures: np.ndarray) -> np.ndarray:
    """(N, H - 2, W - 2, C) of the same dtype: means of 3 x 3 pixels with the weights 1 2 1, where all are inside."""
    shape = (len(pictures), pictures.shape[1] - 2, pictures.shape[2] - 2, pictures.shape[3])
    blurred, whole = np.empty(shape, pictures.dtype), pictures.dtype == np.uint8
    for start in range(0, len(pictures), _QUERIES):
        x = pictures[start : start + _QUERIES].astype(np.uint16 if whole else np.float32)
        x = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
        x = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
        blurred[start : start + _QUERIES] = np.right_shift(x + 8, 4) if whole else x / 16
    return blurred


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What remains at most of the differences of pictures (P, H, W, C): (P,) in levels of 255, inf beyond the limits.

    b - a is fitted by terms of the mean m of both, so that a and b may change places: gain x (m - its average) + offset
    + shift . gradient of m, where average and offset are of the luminance.
    """
    a, b = a.astype(np.float32), b.astype(np.float32)
    mean, change = (a + b) / 2, _inner(b - a)
    mean[..., 0] -= mean[..., 0].mean((1, 2), keepdims=True)
    mean[..., 1:] -= 128  # no colour
    down, right = np.zeros_like(mean), np.zeros_like(mean)
    down[:, 1:-1] = (mean[:, 2:] - mean[:, :-2]) / 2
    right[:, :, 1:-1] = (mean[:, :, 2:] - mean[:, :, :-2]) / 2
    luminance = np.zeros_like(mean)
    luminance[..., 0] = 1

    terms = np.stack([_inner(term) for term in (mean, luminance, down, right)], axis=1)
    # flat pictures have no gradient to fit
    products = terms @ terms.transpose(0, 2, 1) + 1e-3 * terms.shape[2] * np.eye(4, dtype=np.float32)
    gain, offset, *shift = fitted = np.linalg.solve(products, terms @ change[..., None])[..., 0].T
    rest = change - (fitted.T[:, None] @ terms)[:, 0]

    allowed = (np.abs(gain) <= GAIN) & (np.abs(offset) <= OFFSET) & (np.hypot(*shift) <= MOVED)
    allowed &= _rms(rest) <= RESIDUAL * _rms(terms[:, 0]) + 0.1
    return np.where(allowed, np.abs(rest).max(1), np.inf)


def _rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(values).mean(1))


def _inner(pictures: np.ndarray) -> np.ndarray:
    """(P, H, W, C) without its border, flat."""
    inner = pictures[:, 1:-1, 1:-1]
    return inner.reshape(len(inner), math.prod(inner.shape[1:]))


def _window(pictures: np.ndarray, shift: tuple[int, int], sign: int) -> np.ndarray:
    """What both of two shifted pictures (P, H, W, C) show: the one's part with the sign 1, the other's with -1."""
    rows, columns = (sign * pixels for pixels in shift)
    height, width = pictures.shape[1:3]
    return pictures[:, max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)]


def _near_features(features: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The pairs (a, b, 0) nearer than a share of the median distance to the nearest other one."""
    faiss = demand_faiss()
    features = features - features.mean(0)  # fewer digits are lost in |a|^2 - 2 ab + |b|^2
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    some = features[:: max(1, len(features) // 2000)]
    nearest = np.sqrt(np.maximum(index.search(some, 2)[0][:, 1], 0))
    radius = float((NEAR * np.median(nearest)) ** 2)
    for start, stop in pairwise([*range(0, len(features), _QUERIES), len(features)]):
        limits, _, b = index.range_search(features[start:stop], radius)
        a = start + np.repeat(np.arange(stop - start), np.diff(limits.astype(np.int64)))
        once = a < b
        yield a[once], b[once], np.zeros(once.sum())
