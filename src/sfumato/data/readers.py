"""From the bytes of a picture file to uint8 pixels of one size, trusting nothing.

The header is checked before any pixel is decoded: a 60-byte file can claim 50,000 x 50,000 pixels or 100,000 frames.
What the header promises is then converted in this order: decode (JPEG at the smallest sufficient DCT scale), centre
crop and short-side resize in one Lanczos filter (alpha premultiplied), alpha on white, colour profile to sRGB, and EXIF
orientation last: the crop is symmetric, so turning the small picture is the same as turning the large one, and cheaper.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from sfumato.data.faults import Fault
from sfumato.data.formats import EXTENSIONS, formats_of, missing_plugin

# At most two large pictures are decoded at a time, however many workers there are: 64 megapixels take some 0.8 GB.
_LARGE_PIXELS = 8 * 2**20
_LARGE = threading.Semaphore(2)

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a picture may claim before it is decoded."""

    file_bytes: int = 256 * 2**20
    pixels: int = 64 * 2**20  # 8192 x 8192
    aspect: float = 20.0  # a centre crop of anything longer shows almost nothing of it
    shortest: int = 4  # pixels of the short side; below it there is nothing to learn
    text_bytes: int = 2**20  # text chunks of a PNG, as stored
    text_chunks: int = 32  # each may unpack to 1 MiB, where Pillow stops


LIMITS = Limits()


class Unusable(Exception):
    """A picture that is a fault: `kind`, `reason`, `fix` as in `Fault`."""

    def __init__(self, kind: str, reason: str, fix: str):
        super().__init__(f"{kind}: {reason}. {fix}")
        self.kind, self.reason, self.fix = kind, reason, fix

    def at(self, path: str) -> Fault:
        return Fault(path, self.kind, self.reason, self.fix)


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8 (size, size, channels); `width`, `height`, `mode` of the file; `notes`: conversions made,
    which depend on the file alone."""

    pixels: np.ndarray
    width: int
    height: int
    mode: str
    notes: tuple[str, ...]


def read(data: bytes, name: str, size: int, channels: int, limits: Limits = LIMITS) -> Picture:
    """Decode `data` and fit it to size x size pixels of `channels` (3 = RGB, 1 = grey).

    `name` is used for its extension alone. Raises `Unusable`, and nothing else, for any content whatever.
    """
    notes: list[str] = []
    _check_header(data, limits, notes)

    try:
        with Image.open(io.BytesIO(data), formats=formats_of(data, name)) as image:
            _check_shape(*image.size, limits)
            _check_frames(image, notes)
            _check_name(image.format or "", name, notes)

            width, height, mode = *image.size, image.mode
            # Asking for three times the size keeps the DCT-domain reduction invisible after the Lanczos filter.
            scale = 3 * size / min(width, height)
            image.draft(None, (max(1, round(width * scale)), max(1, round(height * scale))))
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))

            profile = image.info.get("icc_profile")
            large = image.width * image.height > _LARGE_PIXELS
            with _LARGE if large else contextlib.nullcontext():
                fitted = _fit(_straighten(image, notes), size)
            fitted = _colours(fitted, profile, channels, notes)
            if turn is not None:
                fitted = fitted.transpose(turn)
                notes.append("EXIF rotation")
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise _unknown(data) from None
    except Image.DecompressionBombError:
        raise _too_large("more pixels than Pillow's own limit", limits) from None
    except Exception as error:  # noqa: BLE001 - hostile bytes may make a decoder raise anything
        raise _damaged(data, error) from None

    pixels = np.asarray(fitted, dtype=np.uint8).reshape(size, size, channels)
    return Picture(pixels, width, height, mode, tuple(notes))


# ---- before decoding


def _check_header(data: bytes, limits: Limits, notes: list[str]) -> None:
    """Size, frames and text that the first bytes declare, read here for the formats whose decoder would allocate."""
    if not data:
        raise Unusable("empty", "the file has 0 bytes", "Copy it again from where it came from, or delete it")
    if len(data) > limits.file_bytes:
        raise _too_large(f"{len(data):,} bytes, limit {limits.file_bytes:,}", limits)

    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 25:
        width, height, depth = struct.unpack(">IIB", data[16:25])
        _check_shape(width, height, limits)
        _check_png_chunks(data, limits)
        if depth == 16:
            notes.append("16-bit")
    elif data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        width, height = struct.unpack("<HH", data[6:10])
        _check_shape(width, height, limits)
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        _check_shape(width, height, limits)
        if data[20] & 2:
            raise _animated("the WebP header declares an animation")


def _check_png_chunks(data: bytes, limits: Limits) -> None:
    at, text, chunks = 8, 0, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"acTL" and length >= 8 and at + 12 <= len(data):
            frames = struct.unpack(">I", data[at + 8 : at + 12])[0]
            if frames > 1:
                raise _animated(f"{frames:,} frames")
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            text, chunks = text + length, chunks + 1
            if text > limits.text_bytes or chunks > limits.text_chunks:
                raise Unusable(
                    "too large",
                    f"more than {limits.text_bytes:,} bytes or {limits.text_chunks} chunks of text in a PNG",
                    "Save the picture again without its metadata",
                )
        at += 12 + length


def _check_shape(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise _too_large(f"the header claims {width:,} x {height:,} pixels, limit {limits.pixels:,} in all", limits)
    short, long = sorted((width, height))
    if short > 0 and long / short > limits.aspect:
        raise Unusable(
            "aspect",
            f"{width:,} x {height:,} is {long / short:,.0f} times longer than wide, limit {limits.aspect:g}",
            "Crop it to the part that should be learnt",
        )
    if short < limits.shortest:
        raise Unusable(
            "too small",
            f"{width} x {height} pixels, at least {limits.shortest} x {limits.shortest} are needed",
            "Delete it, or replace it by a larger copy",
        )


def _check_frames(image: Image.Image, notes: list[str]) -> None:
    if image.format == "MPO":  # a phone's JPEG with a preview or depth map behind the picture itself
        notes.append("multi-picture JPEG")
    elif getattr(image, "is_animated", False):
        raise _animated("more than one frame")


def _check_name(found: str, name: str, notes: list[str]) -> None:
    expected = EXTENSIONS.get(PurePath(name).suffix.lower())
    if expected is not None and expected != {"MPO": "JPEG"}.get(found, found):
        notes.append("wrong extension")


# ---- decoding


def _straighten(image: Image.Image, notes: list[str]) -> Image.Image:
    """Any mode -> one that can be filtered: L, RGB, RGBA or CMYK, 8 bits a channel. Adds what it did to `notes`."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Unusable("pixel type", "whole numbers beyond 16 bits", "Save the picture with 8 or 16 bits a channel")
        if "16-bit" not in notes:
            notes.append("16-bit")
        return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise Unusable("pixel type", "floating-point pixels have no agreed range", "Save the picture with 8 or 16 bits")

    if image.mode == "P":
        notes.append("palette")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = image.getchannel("A").getextrema() == (255, 255)
        if not opaque:
            notes.append("alpha")
        return image
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _colours(image: Image.Image, profile: bytes | None, channels: int, notes: list[str]) -> Image.Image:
    """L, RGB, RGBA or CMYK -> sRGB or L: alpha on white, then the colour profile that the file carries."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "CMYK":
        notes.append("CMYK")
    if profile and image.mode in ("RGB", "CMYK"):
        image = _to_srgb(image, profile, notes)
    return image.convert("RGB" if channels == 3 else "L")


def _to_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(space):
            return image
        converted = ImageCms.profileToProfile(image, space, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("colour profile ignored")  # broken, or of another mode than the pixels: browsers ignore it too
        return image
    notes.append("colour profile")
    return converted if converted is not None else image


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Centre crop to a square and resize to `size`, in one filter."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if (width, height) == (size, size):
        return image
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


# ---- what is said


def _too_large(what: str, limits: Limits) -> Unusable:
    side = int(limits.pixels**0.5)
    return Unusable("too large", what, f"Scale it down (to {side:,} x {side:,} at most) or delete it")


def _animated(what: str) -> Unusable:
    return Unusable("animated", what, "Choose one frame and save it as a still picture")


def _unknown(data: bytes) -> Unusable:
    if missing := missing_plugin(data):
        return Unusable("plug-in missing", *missing)
    fix = f"Delete it, or replace it by a picture ({', '.join(sorted(EXTENSIONS))})"
    head = data[:512]
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return Unusable("not a picture", "it holds a web page, as failed downloads do", "Download it again")
    if head.lstrip()[:5].lower().startswith((b"<svg", b"<?xml")):
        return Unusable("not a picture", "it holds a vector drawing (SVG or XML)", "Render it to PNG first")
    if head[:4] == b"PK\x03\x04":
        return Unusable("not a picture", "it holds a zip archive", "Unpack it")
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return Unusable("not a picture", f"its first bytes are {head[:8].hex(' ')}, of no known format", fix)
    if b"\0" not in head:
        return Unusable("not a picture", "it holds text", fix)
    return Unusable("not a picture", f"its first bytes are {head[:8].hex(' ')}, of no known format", fix)


def _damaged(data: bytes, error: Exception) -> Unusable:
    again = "Copy it again from where it came from, or delete it"
    words = str(error) or type(error).__name__
    if "too large" in words.lower() or isinstance(error, MemoryError):
        return Unusable("too large", f"the decoder refused it ({words})", "Save it again without its metadata")
    if isinstance(error, EOFError) or any(word in words.lower() for word in ("truncat", "not enough", "eof")):
        return Unusable("truncated", f"{len(data):,} bytes, and the picture does not end ({words})", again)
    return Unusable("damaged", f"it cannot be decoded ({words})", again)
