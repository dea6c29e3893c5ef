"""A picture or an array that a person gives as a condition: a file, an image, an array, a tensor -> x."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sfumato.bounded import read_bytes
from sfumato.codecs.codec import Codec
from sfumato.data.formats import FORMATS
from sfumato.data.readers import FILE_BYTES, Unusable, arrays, deep
from sfumato.data.readers.pictures import LIMITS, Pictures
from sfumato.durable import sha256
from sfumato.errors import UserError

MODES = {1: "L", 3: "RGB"}
READ = "give a PNG, JPEG or another picture, or an array (.npy)"


def given(
    value: Any, channels: int, field: str, codec: Codec | None = None, depth: int = 16
) -> tuple[Tensor, Tensor | None, str, str]:
    """What a person gave, as x.

    Args:
        value: the path of a picture or of a .npy; an image; uint8 or uint16 (H, W, C); numbers (C, *sides) in units of
            x. If it has one more channel, the last one gives the opacity.
        channels: C of x.
        field: the name for the message.
        codec: reads a .npy if such files are of its kind; otherwise they are in units of x.
        depth: bits that pictures of 16 bits use; all are kept.

    Returns:
        x (C, *sides) in units of x; where it is opaque, bool (*sides), or None without opacity; the name of the file
        and the SHA-256 of its bytes, empty if it was not a file.

    Raises:
        UserError: there is no such file, it cannot be read, or it has other channels.
    """
    if isinstance(value, str | Path):
        path = Path(value).expanduser()
        data = content(path, field)
        if path.suffix.lower() == ".npy":
            array = np_of(data, path, field)
            of_file = codec.of_file(array) if codec else None
            array = array if of_file is None else of_file
        else:
            array = image_of(data, path, field, depth)
        return *as_x(array, channels, field), path.name, sha256(data)
    return *as_x(value, channels, field), "", ""


def with_mask(value: Any) -> tuple[Any, Any]:
    """A picture and its mask, from a pair or from "picture.png:mask.png"; None for the mask if there is none."""
    if isinstance(value, tuple) and len(value) == 2:
        return value
    if isinstance(value, str) and ":" in value and not Path(value).expanduser().exists():
        picture, _, mask = value.rpartition(":")
        return picture, mask
    return value, None


def known_of(mask: Any, field: str) -> tuple[Tensor, str, str]:
    """Where a mask hides nothing, bool (*sides); the name of its file and the SHA-256 of its bytes.

    Args:
        mask: a picture, white where it hides; or an array (*sides), not 0 where it hides.
        field: the name for the message.
    """
    if isinstance(mask, str | Path) and Path(mask).suffix.lower() == ".npy":
        path = Path(mask).expanduser()
        data = content(path, field)
        return torch.from_numpy(np_of(data, path, field) == 0), path.name, sha256(data)
    if isinstance(mask, np.ndarray | Tensor):
        return torch.as_tensor(mask) == 0, "", ""
    x, _, file, digest = given(mask, 1, field)
    return x[0] <= 0, file, digest


def content(path: Path, field: str) -> bytes:
    """The bytes of a file within bounds; a pipe or a device is none."""
    try:
        return read_bytes(path, FILE_BYTES, "give a smaller picture")
    except OSError as error:
        raise UserError(f"{field}: {path} cannot be read: {error.strerror}", fix=READ) from None
    except UserError as error:
        raise UserError(f"{field}: {error.message}", fix=error.fix) from None


def np_of(data: bytes, path: Path, field: str) -> np.ndarray:
    try:
        return arrays.opened(data)
    except Unusable as error:
        raise UserError(f"{field}: {path} is not an array: {error.reason}", fix=READ) from None


def image_of(data: bytes, path: Path, field: str, depth: int = 16) -> Image.Image | np.ndarray:
    """A picture; one of more than 8 bits as uint16 (H, W, 4), colours and opacity."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LIMITS.pixels:
                raise UserError(f"{field}: {path} has more than {LIMITS.pixels:,} pixels", fix="give a smaller picture")
            if deep.is_deep(image):
                size = ImageOps.exif_transpose(image).size
                return Pictures(size, 4, 16, depth)(data, path.name).values
            return ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Unusable as error:
        raise UserError(f"{field}: {path}: {error.reason}", fix=error.fix) from None
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything
        raise UserError(f"{field}: {path} cannot be read as a picture ({error})", fix=READ) from None


def as_x(value: Any, channels: int, field: str) -> tuple[Tensor, Tensor | None]:
    """x (C, *sides), and where it is opaque."""
    if isinstance(value, Image.Image):
        value = pixels(value, channels)
    if isinstance(value, np.ndarray) and value.dtype in (np.uint8, np.uint16):
        half = 127.5 if value.dtype == np.uint8 else 32767.5
        rows = torch.from_numpy(value[..., None].astype(np.float32) if value.ndim == 2 else value.astype(np.float32))
        value = rows.movedim(-1, 0) / half - 1
        if len(value) == 4 and channels == 1:  # a deep picture: colours and opacity
            value = torch.cat([torch.tensordot(torch.from_numpy(deep.LUMA), value[:3], 1)[None], value[3:]])
        value[channels:] = (value[channels:] + 1) / 2  # opacity goes from 0 to 1
    elif isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor) or not value.is_floating_point() or not 2 <= value.ndim <= 4:
        raise UserError(f"{field}: {type(value).__name__} is no picture", fix=READ)
    if value.shape[0] not in (channels, channels + 1) or not value.isfinite().all() or not value.numel():
        raise UserError(
            f"{field}: an array of shape {tuple(value.shape)} is not one of finite numbers with {channels} channels",
            fix=f"give ({channels}, *sides), or ({channels + 1}, *sides) with the opacity last",
        )
    x = value.detach().cpu().float()
    return x[:channels], x[channels] >= 0.5 if len(x) > channels else None


def pixels(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 (H, W, C), or (H, W, C + 1) with the opacity of a picture that has transparent parts."""
    if channels not in MODES:
        return np.asarray(image.convert("RGBA"))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535).astype(np.uint32) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return np.asarray(image.convert(MODES[channels])).reshape(image.height, image.width, channels)
    image = image.convert("RGBA")
    opacity = np.asarray(image.getchannel("A"))
    colours = np.asarray(image.convert("RGB").convert(MODES[channels])).reshape(image.height, image.width, channels)
    return np.concatenate([colours, opacity[..., None]], axis=2)
