"""Pictures that several tests of evaluation measure on."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path):
    """Sixty pictures of noise in two classes of their own colour."""
    generator = np.random.default_rng(0)
    for i in range(60):
        place = tmp_path / "pictures" / ("cat", "house")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        pixels[:, :, i % 2] //= 4
        Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path / "pictures"
