"""Pictures made on the fly: each is different, by its seed, and none is flat."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def make_picture(seed: int = 0, width: int = 40, height: int = 32, mode: str = "RGB") -> Image.Image:
    """A smooth gradient with a block of noise: survives JPEG, and no two seeds are alike."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    corner = noise.integers(0, 128, 3)
    values = (corner + x[..., None] * 100 / width + y[..., None] * 27 / height).astype(np.uint8)
    values[: height // 4, : width // 4] = noise.integers(0, 255, (height // 4, width // 4, 3))
    return Image.fromarray(values).convert(mode)


def make_bytes(seed: int = 0, format: str = "PNG", picture: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture or make_picture(seed)).save(buffer, format, **options)
    return buffer.getvalue()


def make_folder(root: Path, names: list[str]) -> Path:
    """A folder of PNG pictures of these names, each different."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(make_bytes(seed))
    return root


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return make_picture


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    return make_bytes


@pytest.fixture
def folder() -> Callable[[Path, list[str]], Path]:
    return make_folder
