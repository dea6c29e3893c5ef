"""Pictures of more than 8 bits a channel: decoded whole, filtered in floating point, never cut to 8 bits unseen.

Pillow decodes grey pictures of 16 bits, and reduces colour ones to 8 bits without a word. Those are read by
`imagecodecs` (PNG) and `tifffile` (TIFF), of the extra `deep`.

Files of 16 bits often use fewer: cameras and scanners write 12. The `depth` says how many; a value beyond is a fault.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sfumato.data.readers import Unusable
from sfumato.data.readers.fitting import fit
from sfumato.errors import pip_install

GREY = ("I;16", "I;16B", "I;16L", "I")
BITS_PER_SAMPLE, LARGEST_VALUE = 258, 281  # tags of TIFF
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as Pillow's


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture has more than 8 bits a channel."""
    return image.mode in GREY or bits_of(image) > 8


def bits_of(image: Image.Image) -> int:
    """Bits a channel by the header: 16 for a deep PNG, the tag of a TIFF; 8 where the format has no more."""
    if image.mode in GREY:
        return 16
    if image.format == "PNG":
        return 16 if any("16B" in str(tile) for tile in getattr(image, "tile", ())) else 8
    tags = getattr(image, "tag_v2", {})
    return max(tags.get(BITS_PER_SAMPLE, (8,)))


def decoded(image: Image.Image, data: bytes, turn: Image.Transpose | None) -> np.ndarray:
    """uint16 (H, W, C), C of 1 to 4, of a picture of more than 8 bits.

    Args:
        image: loaded.
        data: the file.
        turn: what the file's orientation asks for; applied to a TIFF, as Pillow does when it loads one.

    Raises:
        Unusable: the library for colour of 16 bits is not installed, or numbers go beyond 16 bits.
    """
    if image.mode in GREY:
        return grey(image, 16)[:, :, None]
    try:
        if image.format == "PNG":
            import imagecodecs

            values = imagecodecs.png_decode(data)
        else:
            import tifffile

            values = tifffile.imread(io.BytesIO(data))
    except ImportError:
        raise Unusable(
            "16-bit colour",
            "colour of 16 bits a channel needs imagecodecs and tifffile",
            f"Run: {pip_install('sfumato[deep]')}; or set codec.bits to 8",
        ) from None
    values = values[:, :, None] if values.ndim == 2 else values
    if image.format == "TIFF" and turn is not None and values.ndim == 3:
        values = turned(values, turn)
    if values.ndim != 3 or values.shape[2] > 4 or values.dtype != np.uint16:
        raise Unusable(
            "pixel type", f"{values.dtype} values of shape {values.shape}", "Save it with 8 or 16 bits a channel"
        )
    return values


def grey(image: Image.Image, depth: int) -> np.ndarray:
    """uint16 (H, W) of a grey picture of 16 bits.

    Raises:
        Unusable: a value is below 0 or beyond `depth` bits.
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unusable("pixel type", "whole numbers beyond 16 bits", "Save the picture with 8 or 16 bits a channel")
    check_depth(values, depth)
    return values.astype(np.uint16)


def check_depth(values: np.ndarray, depth: int) -> None:
    """Unusable where a value is beyond `depth` bits."""
    largest = int(values.max(initial=0))
    if largest >= 2**depth:
        raise Unusable(
            "bit depth",
            f"a value of {largest:,} is beyond the {depth} bits (up to {2**depth - 1:,}) that other files have",
            "Set data.depth to 16, or save all files with one depth",
        )


def fitted(values: np.ndarray, size: tuple[int, int], channels: int, bits: int, depth: int, how: str) -> np.ndarray:
    """(H, W, channels) of `bits` bits from uint16 (h, w, C), fitted to (width, height) = `size` in floating point."""
    check_depth(values, depth)
    planes = values.astype(np.float32) / (2**depth - 1)
    if channels == 4 and planes.shape[2] in (1, 3):
        planes = np.concatenate([planes, np.ones_like(planes[:, :, :1])], axis=2)
    alpha = planes[:, :, -1:] if planes.shape[2] in (2, 4) else None
    colours = planes[:, :, : 1 if planes.shape[2] < 3 else 3]
    if alpha is not None:
        colours = colours * alpha
    stack = colours if alpha is None else np.concatenate([colours, alpha], axis=2)
    empty = None if alpha is None else 0.0  # a border is transparent where there is alpha
    filtered = [fit(Image.fromarray(plane), size, how, empty) for plane in np.moveaxis(stack, 2, 0)]
    stack = np.stack([np.asarray(plane) for plane in filtered], axis=2)

    colours = stack[:, :, : colours.shape[2]]
    if alpha is not None:
        alpha = stack[:, :, -1:].clip(0, 1)
        if channels == 4:
            colours = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0)
        else:
            colours = colours + 1 - alpha  # on white
    if channels == 1 and colours.shape[2] == 3:
        colours = (colours @ LUMA)[:, :, None]
    if channels > 1:
        colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
    if channels == 4:
        assert alpha is not None
        colours = np.concatenate([colours, alpha], axis=2)
    return (colours.clip(0, 1) * (2**bits - 1)).round().astype(np.uint16)


def turned(values: np.ndarray, turn: Image.Transpose) -> np.ndarray:
    """(H, W, C) turned as Pillow turns a picture."""
    t = Image.Transpose
    if turn in (t.TRANSPOSE, t.ROTATE_90, t.ROTATE_270, t.TRANSVERSE):
        values = values.transpose(1, 0, 2)
    upside_down = turn in (t.FLIP_TOP_BOTTOM, t.ROTATE_180, t.ROTATE_90, t.TRANSVERSE)
    mirrored = turn in (t.FLIP_LEFT_RIGHT, t.ROTATE_180, t.ROTATE_270, t.TRANSVERSE)
    return values[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
