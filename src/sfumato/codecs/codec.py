"""What a codec is: the one place that knows how a kind of data is stored, shown and written, and what its x is.

Everything above (training, sampling, the saved model, evaluation) knows only x (B, C, *sides) and the shapes that the
codec names, and nothing of pictures, arrays or sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import UserError


class Codec:
    """Abstract: stored rows <-> x.

    Attributes:
        shape: shape of one x_0, (C, *sides).
        bin: the width of one stored value in units of x, for likelihoods; None if values are continuous.
        bounds: the smallest and the largest possible x_0; None if there are no bounds.
        pictorial: whether rows are pictures, whose greys or colours ``levels`` gives.
    """

    shape: tuple[int, ...]
    bin: float | None = None
    bounds: tuple[float, float] | None = None
    pictorial: bool = False

    def encode(self, rows: np.ndarray) -> Tensor:
        """Stored rows (B, ...) -> float32 (B, C, *sides), of any sides."""
        raise NotImplementedError(f"{type(self).__name__} must say how stored rows become x")

    def decode(self, x: Tensor) -> np.ndarray:
        """float (B, C, *sides) -> stored rows (B, ...), of any sides."""
        raise NotImplementedError(f"{type(self).__name__} must say how x becomes stored rows")

    def picture(self, row: np.ndarray) -> Image.Image:
        """One stored row as a picture for people."""
        raise NotImplementedError(f"{type(self).__name__} must say how a row is seen")

    def levels(self, rows: np.ndarray) -> np.ndarray:
        """The greys or colours (B, H, W, 1 or 3) of pictures, 0 black and 255 white: uint8 where there are no levels in
        between, else float32. Only of a codec that is ``pictorial``."""
        raise NotImplementedError(f"{type(self).__name__} is of no pictures")

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Stored rows as float64 (B, C, *sides) in the unit that people know; x where there is none."""
        return self.encode(rows).double().numpy()

    @property
    def scaling(self) -> str:
        """How x comes of stored values, in words that differ where it does: features of x are known by them."""
        state = b"".join(value.cpu().contiguous().numpy().tobytes() for value in self.state().values())
        return f"{type(self).__name__} {hashlib.sha256(state).hexdigest()[:12]}"

    def files(self, row: np.ndarray, texts: Mapping[str, str]) -> dict[str, bytes]:
        """The files of one stored row by their endings, e.g. {".png": ...}; the first is the row itself.

        Args:
            row: a row from ``decode``.
            texts: texts to keep with it, by keyword: inside the file if it can hold texts, otherwise beside it.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how a row is written")

    def of_file(self, array: np.ndarray) -> Tensor | None:
        """x (C, *any sides) of an array that a person gives in the form of this kind's own files; None where arrays
        are not its files."""
        return None

    def augment(self, x_0: Tensor, u: Tensor) -> Tensor:
        """x_0 (B, C, *sides), mirrored along the last side where u (B,), uniform on [0, 1), is below 1/2."""
        return torch.where(u.view(-1, *[1] * (x_0.dim() - 1)) < 0.5, x_0.flip(-1), x_0)

    def fit(self, rows: np.ndarray) -> None:
        """Learn what ``encode`` needs to know from all stored rows (N, ...) of a data set, before training starts."""

    def state(self) -> dict[str, Tensor]:
        """What ``fit`` has learned, by name; saved with the weights."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of ``state``.

        Raises:
            KeyError, ValueError: an entry is missing or of another shape.
        """

    def pictures(self, x: Tensor) -> list[Image.Image]:
        """Each x of (B, C, *sides) as a picture for people."""
        return [self.picture(row) for row in self.decode(x)]

    def sized(self, size: int | Sequence[int] | None) -> tuple[int, ...]:
        """The shape (C, *sides) at another size.

        Args:
            size: one side for all, or all sides as people write them, (width, height) of a picture; None for its own.

        Raises:
            UserError: there are more or fewer sides.
        """
        channels, *sides = self.shape
        if size is None:
            return self.shape
        wanted = [size] * len(sides) if isinstance(size, int) else list(size)[::-1]
        if len(wanted) != len(sides):
            raise UserError(
                f"size: {'x'.join(map(str, reversed(wanted)))} has {len(wanted)} sides, but this model draws "
                f"{self.describe()}",
                fix=f"give one number, or {len(sides)} of the form {'x'.join(map(str, reversed(sides)))}",
            )
        return (channels, *wanted)

    def describe(self) -> str:
        """The shape for people, e.g. "32 x 32 x 3"."""
        channels, *sides = self.shape
        return " x ".join(map(str, (*reversed(sides), channels)))


def affine(x: Tensor, half: float, dtype: np.dtype[Any]) -> np.ndarray:
    """x in [-1, 1] -> whole numbers 0 to 2 `half`, rounded to the nearest; values beyond are cut to the ends."""
    return x.float().clamp(-1, 1).add(1).mul(half).round().cpu().numpy().astype(dtype)
