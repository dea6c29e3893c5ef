"""Pixels as they are: uint8 pictures <-> x in [-1, 1].

x = u / 127.5 - 1, so that 0 and 255 go to -1 and 1 exactly; decode rounds to the nearest value, and the round trip of
every uint8 is exact in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Pixels:
    """The codec of pictures of size x size pixels and `channels` colours."""

    def __init__(self, size: int, channels: int = 3):
        if size < 1 or channels < 1:
            raise ValueError(f"Pixels: size {size} and channels {channels} must be at least 1")
        self.size = size
        self.channels = channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one encoded picture."""
        return (self.channels, self.size, self.size)

    def encode(self, pictures: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> float32 (B, C, H, W) in [-1, 1]."""
        if isinstance(pictures, np.ndarray):
            # A copy: the memory map behind a data set is read-only, which torch tensors cannot express.
            pictures = torch.from_numpy(np.array(pictures))
        expected = (self.size, self.size, self.channels)
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or tuple(pictures.shape[1:]) != expected:
            raise ValueError(
                f"Pixels.encode: expected uint8 pictures of shape (B, {self.size}, {self.size}, {self.channels}), "
                f"got {pictures.dtype} {tuple(pictures.shape)}; fit them with sfumato.data.prepare"
            )
        x = pictures.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return x.div_(127.5).sub_(1)

    def decode(self, x: Tensor) -> Tensor:
        """float (B, C, H, W) -> uint8 (B, H, W, C): clamped to [-1, 1], rounded to the nearest value; of any size."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"Pixels.decode: expected shape (B, {self.channels}, H, W), got {tuple(x.shape)}")
        u = x.float().clamp(-1, 1).add(1).mul(127.5).round()
        return u.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def picture(self, x: Tensor) -> Image.Image:
        """float (C, H, W) -> one picture, RGB or grey."""
        pixels = self.decode(x[None])[0].cpu().numpy()
        return Image.fromarray(pixels if self.channels == 3 else pixels[:, :, 0])
