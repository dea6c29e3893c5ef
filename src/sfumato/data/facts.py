"""Facts about some pictures of a data set, found before all are read: sides, colours, bits.

The settings that a recipe leaves open are resolved from these few facts; a picture that does not agree with them later
is a fault, or is counted among the conversions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sfumato.data.formats import formats_of
from sfumato.data.readers import deep
from sfumato.data.readers.pictures import LIMITS
from sfumato.data.records import Record

LOOKED_AT = 200  # pictures, evenly spaced
DEEP_LOOKED_AT = 32  # of those, how many deep ones are decoded to find how many bits they use
DEPTHS = (8, 10, 12, 14, 16)  # that cameras and scanners write into 16 bits
GREY_MODES = ("1", "L", "LA", "La", *deep.GREY)


@dataclass(frozen=True)
class Facts:
    """Facts about the pictures that could be opened.

    Attributes:
        short_sides: their short sides in pixels, ascending.
        grey: whether all are grey.
        deep: the share of pictures with more than 8 bits a channel.
        depth: bits that these use; 16 if there are none.
    """

    short_sides: tuple[int, ...]
    grey: bool
    deep: float
    depth: int


def facts(records: Sequence[Record]) -> Facts:
    """The facts of some of the records; other files than pictures do not count, because preparing will name them."""
    sides, modes, depths, deep_ones = [], [], [], 0
    for record in records[:: max(1, -(-len(records) // LOOKED_AT))]:
        try:
            data = record.open()
            with Image.open(io.BytesIO(data), formats=formats_of(data, record.locator)) as picture:
                if picture.width * picture.height > LIMITS.pixels:
                    continue
                sides.append(min(picture.size))
                modes.append(picture.mode)
                if deep.is_deep(picture):
                    deep_ones += 1
                    if len(depths) < DEEP_LOOKED_AT:
                        depths.append(_depth(picture, data))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, deep.Unusable):
            continue
    return Facts(
        short_sides=tuple(sorted(sides)),
        grey=bool(modes) and all(mode in GREY_MODES for mode in modes),
        deep=deep_ones / len(modes) if modes else 0.0,
        depth=max(depths, default=16),
    )


def _depth(picture: Image.Image, data: bytes) -> int:
    """Bits that one deep picture uses: the number in the file, or else the fewest that hold its largest value."""
    said = _said(picture, data)
    if said:
        return said
    picture.load()
    largest = int(np.asarray(deep.decoded(picture, data, None)).max(initial=0))
    return next((depth for depth in DEPTHS if largest < 2**depth), 16)


def _said(picture: Image.Image, data: bytes) -> int:
    """The bits by the chunk sBIT of a PNG or the tags of a TIFF; 0 if the file does not say."""
    if picture.format == "PNG":
        at = data.find(b"sBIT", 0, 4096)
        return data[at + 4] if at > 0 and 8 < data[at + 4] <= 16 else 0
    tags = getattr(picture, "tag_v2", {})
    largest = tags.get(deep.LARGEST_VALUE, 0)
    largest = max(largest) if isinstance(largest, tuple) else largest
    bits = max(tags.get(deep.BITS_PER_SAMPLE, (16,)))
    if 8 < bits < 16:
        return bits
    return int(largest).bit_length() if 255 < largest < 65535 else 0
