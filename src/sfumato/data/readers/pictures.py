"""From the bytes of a picture file to pixels of one size, trusting nothing.

The header is checked before any pixel is decoded: a 60-byte file can claim 50,000 x 50,000 pixels or 100,000 frames.
What the header promises is then converted in this order: decode (JPEG at the smallest sufficient DCT scale), fit to the
wanted size in one Lanczos filter (alpha premultiplied), alpha on white unless it is kept, colour profile to sRGB, and
EXIF orientation last: the fit is symmetric, so turning the small picture is the same as turning the large one, and
cheaper. Pictures of more than 8 bits keep them where they are asked for (see `deep`).
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import ClassVar, cast

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from sfumato.data.cropping import crop_loss
from sfumato.data.formats import EXTENSIONS, formats_of, missing_plugin
from sfumato.data.readers import FILE_BYTES, Row, Unusable, deep
from sfumato.data.readers.fitting import FITS, fit

# At most two large pictures are decoded at a time, however many workers there are: 64 megapixels take some 0.8 GB.
_LARGE_PIXELS = 8 * 2**20
_LARGE = threading.Semaphore(2)

_ORIENTATION = 0x0112
_SIDEWAYS = (
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
)  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a picture may claim before it is decoded."""

    file_bytes: int = FILE_BYTES
    pixels: int = 64 * 2**20  # 8192 x 8192
    aspect: float = 20.0  # a centre crop of anything longer shows almost nothing of it
    shortest: int = 4  # pixels of the short side; below it there is nothing to learn
    text_bytes: int = 2**20  # text chunks of a PNG, as stored
    text_chunks: int = 32  # each may unpack to 1 MiB, where Pillow stops


LIMITS = Limits()


@dataclass(frozen=True)
class Pictures:
    """The reader of pictures.

    Args:
        size: side of square pictures in pixels, or (width, height).
        channels: 1 grey, 3 colour, 4 colour and alpha.
        bits: of a stored value, 8 to 16.
        depth: bits that files of 16 bits a channel really use.
        fit: "crop", "pad" or "stretch", for pictures of another shape.
    """

    size: int | tuple[int, int]
    channels: int = 3
    bits: int = 8
    depth: int = 16
    fit: str = "crop"
    limits: Limits = LIMITS
    extensions: ClassVar[frozenset[str]] = frozenset(EXTENSIONS)

    def __post_init__(self) -> None:
        width, height = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        if min(width, height) < 1:
            raise ValueError(f"size = {self.size} must be at least 1 pixel")
        if self.channels not in (1, 3, 4):
            raise ValueError(f"channels = {self.channels} must be 1 (grey), 3 (colour) or 4 (colour and alpha)")
        if not (8 <= self.bits <= 16 and 8 <= self.depth <= 16):
            raise ValueError(f"bits = {self.bits} and depth = {self.depth} must be 8 to 16")
        if self.fit not in FITS:
            raise ValueError(f"fit = {self.fit!r} must be one of {', '.join(FITS)}")
        object.__setattr__(self, "size", (width, height))

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        width, height = cast("tuple[int, int]", self.size)
        return (height, width, self.channels)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def notes(self, row: dict) -> list[str]:
        """ "enlarged", "grey to RGB", and the depth that is given up or filled up."""
        found, (height, width, channels), mode = [], self.shape, row["mode"]
        if row["size"][0] < width or row["size"][1] < height:
            found.append("enlarged")
        if channels >= 3 and mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I"):
            found.append("grey to RGB")
        deep = any(note.startswith("16-bit") for note in row.get("notes", ()))
        if deep and self.bits == 8:
            found.append(f"{self.depth} bits to 8")
        if not deep and self.bits > 8:
            found.append(f"8 bits to {self.bits}")
        return found

    def loss(self, rows: Sequence[dict]) -> str:
        """What cropping takes from the files of the manifest's `rows`, in words; empty where it is little."""
        height, width, _ = self.shape
        return crop_loss([row["size"] for row in rows], width, height) if self.fit == "crop" else ""

    def __call__(self, data: bytes, name: str) -> Row:
        """Decode `data` and fit it.

        `name` is used for its extension alone. Raises `Unusable`, and nothing else, for any content whatever.
        """
        notes: list[str] = []
        _check_header(data, self.limits, notes)
        try:
            return self._read(data, name, notes)
        except UnidentifiedImageError:
            whole = _without_broken_chunks(data)
            if whole is None:
                raise _unknown(data) from None
        notes = []
        _check_header(whole, self.limits, notes)
        notes.append("damaged text left out")
        try:
            return self._read(whole, name, notes)
        except UnidentifiedImageError as error:
            raise _damaged(data, error) from None

    def _read(self, data: bytes, name: str, notes: list[str]) -> Row:
        try:
            with Image.open(io.BytesIO(data), formats=formats_of(data, name)) as image:
                return self._fitted(image, data, name, notes)
        except (Unusable, UnidentifiedImageError):
            raise
        except Image.DecompressionBombError:
            raise _too_large("more pixels than Pillow's own limit", self.limits) from None
        except Exception as error:  # noqa: BLE001 - hostile bytes may make a decoder raise anything
            raise _damaged(data, error) from None

    def _fitted(self, image: Image.Image, data: bytes, name: str, notes: list[str]) -> Row:
        _check_shape(*image.size, self.limits)
        _check_frames(image, notes)
        _check_name(image.format or "", name, notes)

        width, height, mode = *image.size, image.mode
        (high, wide, channels), profile = self.shape, image.info.get("icc_profile")
        is_deep, orientation = deep.is_deep(image), image.getexif().get(_ORIENTATION, 1)
        # Asking for three times the size keeps the DCT-domain reduction invisible after the Lanczos filter.
        scale = 3 * max(wide / width, high / height)
        image.draft(None, (max(1, round(width * scale)), max(1, round(height * scale))))

        large = image.width * image.height > _LARGE_PIXELS
        with _LARGE if large else contextlib.nullcontext():
            image.load()  # which turns a TIFF, and takes the tag away
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            size = (high, wide) if turn in _SIDEWAYS else (wide, high)
            if is_deep:
                note(notes, "16-bit")
            if is_deep and (self.bits > 8 or (self.depth < 16 and image.mode not in deep.GREY)):
                values = deep.decoded(image, data, _TURNS.get(orientation))
                values = deep.fitted(values, size, channels, self.bits, self.depth, self.fit)
            else:
                values = self._shallow(image, profile, size, notes)
        if turn is not None:
            values = deep.turned(values, turn)
            notes.append("EXIF rotation")
        return Row(np.ascontiguousarray(values, self.dtype), (width, height), mode, tuple(notes))

    def _shallow(
        self, image: Image.Image, profile: bytes | None, size: tuple[int, int], notes: list[str]
    ) -> np.ndarray:
        """(H, W, C) of 8 bits, or of those bits made as many as the reader's."""
        straight = _straighten(image, self.depth, notes)
        if self.channels == 4 and straight.mode in ("L", "RGB"):
            straight = straight.convert("RGBA")
        fitted = fit(straight, size, self.fit)
        pixels = np.asarray(_colours(fitted, profile, self.channels, notes), dtype=np.uint8)
        pixels = pixels.reshape(size[1], size[0], self.channels)
        if self.bits == 8:
            return pixels
        return ((pixels.astype(np.uint32) * (2**self.bits - 1) + 127) // 255).astype(np.uint16)


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
            note(notes, "16-bit")
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


def _straighten(image: Image.Image, depth: int, notes: list[str]) -> Image.Image:
    """Any mode -> one that can be filtered: L, RGB, RGBA or CMYK, 8 bits a channel. Adds what it did to `notes`."""
    if image.mode in deep.GREY:
        values, white = deep.grey(image, depth), 2**depth - 1
        note(notes, "16-bit")
        return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8))
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
    """L, RGB, RGBA or CMYK -> sRGB, sRGB with alpha, or L: alpha kept or on white, then the file's colour profile."""
    alpha = image.getchannel("A") if image.mode == "RGBA" and channels == 4 else None
    if alpha is not None:
        image = image.convert("RGB")
    elif image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "CMYK":
        notes.append("CMYK")
    if profile and image.mode in ("RGB", "CMYK"):
        image = _to_srgb(image, profile, notes)
    if channels < 4:
        return image.convert("RGB" if channels == 3 else "L")
    image = image.convert("RGBA")
    if alpha is not None:
        image.putalpha(alpha)
    return image


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


def _without_broken_chunks(data: bytes) -> bytes | None:
    """A PNG without the chunks beside its pixels whose checksum is wrong; None where there are none."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    kept, at, broken = [data[:8]], 8, False
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at : at + 12 + length]
        wrong = zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big")
        if wrong and kind[:1].islower():
            broken = True
        else:
            kept.append(chunk)
        at += 12 + length
    return b"".join(kept) if broken else None


def note(notes: list[str], kind: str) -> None:
    """Adds `kind` to `notes` once."""
    if kind not in notes:
        notes.append(kind)


def _damaged(data: bytes, error: Exception) -> Unusable:
    again = "Copy it again from where it came from, or delete it"
    words = str(error) or type(error).__name__
    if "too large" in words.lower() or isinstance(error, MemoryError):
        return Unusable("too large", f"the decoder refused it ({words})", "Save it again without its metadata")
    if isinstance(error, EOFError) or any(word in words.lower() for word in ("truncat", "not enough", "eof")):
        return Unusable("truncated", f"{len(data):,} bytes, and the picture does not end ({words})", again)
    return Unusable("damaged", f"it cannot be decoded ({words})", again)
