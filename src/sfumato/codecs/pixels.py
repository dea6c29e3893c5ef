"""Pixels as they are: pictures of 8 to 16 bits <-> x in [-1, 1].

x = u / h - 1 with h = (2^bits - 1) / 2, so black and white become exactly -1 and 1. Decoding rounds to the nearest
value, and the round trip of every value is exact in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.codecs.codec import Codec, affine
from sfumato.codecs.png import png

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Pixels(Codec):
    """The codec of pictures.

    Args:
        size: side of square pictures in pixels, or (width, height).
        channels: 1 grey, 3 colour, 4 colour and alpha.
        bits: bits of a stored value, 8 to 16; rows are uint8, or uint16 beyond 8.
    """

    bounds = (-1.0, 1.0)
    pictorial = True

    def __init__(self, size: int | tuple[int, int], channels: int = 3, bits: int = 8):
        width, height = size if isinstance(size, tuple) else (size, size)
        if min(width, height) < 1 or channels not in MODES or not 8 <= bits <= 16:
            raise ValueError(
                f"Pixels: size {size} must be at least 1, channels {channels} one of {list(MODES)}, bits {bits} 8 to 16"
            )
        self.width, self.height, self.channels, self.bits = width, height, channels, bits
        self.half = (2**bits - 1) / 2
        self.bin = 1 / self.half
        self.shape = (channels, height, width)
        self.dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)

    def encode(self, rows: np.ndarray | Tensor) -> Tensor:
        """(B, H, W, C) -> float32 (B, C, H, W) in [-1, 1]."""
        # A copy: the memory map behind a data set is read-only, which torch tensors cannot express.
        u = torch.from_numpy(np.array(rows)) if isinstance(rows, np.ndarray) else rows
        expected = (self.height, self.width, self.channels)
        if u.dtype != (torch.uint8 if self.bits == 8 else torch.uint16) or tuple(u.shape[1:]) != expected:
            raise ValueError(
                f"Pixels.encode: expected {self.dtype} pictures of shape (B, {self.height}, {self.width}, "
                f"{self.channels}), got {u.dtype} {tuple(u.shape)}; fit them with sfumato.data.prepare"
            )
        x = u.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return x.div_(self.half).sub_(1)

    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, C, H, W) -> (B, H, W, C): clamped to [-1, 1], rounded to the nearest value; of any size."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"Pixels.decode: expected shape (B, {self.channels}, H, W), got {tuple(x.shape)}")
        return np.ascontiguousarray(affine(x.permute(0, 2, 3, 1), self.half, self.dtype))

    def picture(self, row: np.ndarray) -> Image.Image:
        """(H, W, C) -> grey, RGB or RGBA of 8 bits."""
        shown = row if self.bits == 8 else (row / self.half * 127.5).round().astype(np.uint8)
        return Image.fromarray(shown[:, :, 0] if self.channels == 1 else shown)

    def levels(self, rows: np.ndarray) -> np.ndarray:
        """Of 8 bits as they are; of more, floats between the levels. What is seen through is laid on white."""
        if self.bits == 8 and self.channels < 4:
            return rows
        levels = rows[..., :3] * np.float32(127.5 / self.half)
        if self.channels == 4:
            opaque = rows[..., 3:] * np.float32(0.5 / self.half)
            levels = 255 + opaque * (levels - 255)
        return levels.astype(np.float32)

    @property
    def scaling(self) -> str:
        return f"x / {self.half:g} - 1"

    def files(self, row: np.ndarray, texts: Mapping[str, str]) -> dict[str, bytes]:
        """A PNG of 8 or 16 bits a channel, with the texts inside."""
        return {".png": png(row, self.bits, texts)}
