"""What a codec says of its rows: levels of pictures, values and pictures of arrays."""

import numpy as np
import pytest

from sfumato.codecs.arrays import Arrays
from sfumato.codecs.pixels import Pixels
from sfumato.codecs.plotted import lines


def test_real_numbers_are_scaled_a_channel_at_a_time_and_come_back():
    chance = np.random.default_rng(0)
    rows = np.stack([chance.normal(280, 15, (200, 9, 8)), chance.normal(0.01, 0.002, (200, 9, 8))], 1)
    codec = Arrays((2, 9, 8), "float64")
    codec.fit(rows)
    x = codec.encode(rows)
    assert x.mean((0, 2, 3)).abs().max() < 1e-3 and (x.std((0, 2, 3)) - 0.5).abs().max() < 1e-2
    np.testing.assert_allclose(codec.decode(x), rows, rtol=1e-5)
    again = Arrays((2, 9, 8), "float64")
    again.load_state(codec.state())
    assert (again.encode(rows) == x).all() and again.scaling == codec.scaling
    assert again.picture(rows[0]).size == (17, 9)  # the two channels side by side


def test_levels_of_8_bits_are_the_pixels_and_those_of_16_lie_between():
    eight = np.arange(255, dtype=np.uint8).reshape(1, 15, 17, 1)
    assert Pixels((17, 15), 1).levels(eight) is eight
    deep = Pixels((17, 15), 1, 16).levels(eight.astype(np.uint16) * 257 + 128)
    assert deep.dtype == np.float32 and np.allclose(deep - eight, 128 / 257, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_transparent_is_laid_on_white(bits):
    largest = 2**bits - 1
    rows = np.zeros((1, 1, 3, 4), np.uint8 if bits == 8 else np.uint16)
    rows[0, 0, :, 3] = (0, largest, round(largest / 2))
    levels = Pixels((3, 1), 4, bits).levels(rows)
    assert levels.shape == (1, 1, 3, 3) and np.allclose(levels[0, 0, :, 0], (255, 0, 127.5), atol=0.6)


def test_one_peak_among_a_hundred_thousand_values_is_seen():
    signal = np.full((1, 100_000), 0.1)
    flat = np.asarray(lines(signal))
    signal[0, 61_234] = 1
    seen = np.asarray(lines(signal))
    assert flat[:40].min() == 255 and seen[:40].min() < 200
