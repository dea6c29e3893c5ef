"""uint8 <-> [-1, 1]: exact there and back."""

import numpy as np
import pytest
import torch

from sfumato.codecs import Pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_every_byte_survives_the_round_trip(channels):
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(channels, 3)
    codec = Pixels(16, channels)
    x = codec.encode(values)
    assert x.shape == (1, channels, 16, 16) and x.dtype == torch.float32 and x.is_contiguous()
    assert np.array_equal(codec.decode(x), values)
    assert codec.decode(x).dtype == np.uint8 and codec.shape == (channels, 16, 16)


def test_black_and_white_are_exactly_minus_one_and_one():
    codec = Pixels(1, 1)
    ends = codec.encode(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    assert ends.flatten().tolist() == [-1.0, 1.0]


def test_channels_rows_and_columns_keep_their_places():
    pictures = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = Pixels(5).encode(pictures)
    assert x[1, 2, 3, 4].item() == pytest.approx(pictures[1, 3, 4, 2].item() / 127.5 - 1, abs=1e-6)


def test_values_beyond_the_range_are_clamped_and_the_nearest_value_taken():
    codec = Pixels(1, 1)
    x = torch.tensor([-3.0, 3.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5]).reshape(4, 1, 1, 1)
    assert codec.decode(x).flatten().tolist() == [0, 255, 0, 1]


def test_pictures_of_another_size_decode_too_and_open_as_pictures():
    codec = Pixels(4)
    pixels = torch.randint(0, 256, (1, 6, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    x = Pixels(4).encode(pixels[:, :4, :4])
    assert np.array_equal(np.asarray(codec.pictures(x)[0]), pixels[0, :4, :4].numpy())
    assert codec.decode(pixels.permute(0, 3, 1, 2) / 127.5 - 1).shape == (1, 6, 9, 3)
    assert Pixels(4, 1).pictures(x[:, :1])[0].mode == "L"


def test_half_precision_decodes_within_one_step():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    codec = Pixels(16, 1)
    for dtype, steps in ((torch.float16, 0), (torch.bfloat16, 1)):  # 11 bits and 8 bits of significand for 8 of value
        back = codec.decode(codec.encode(values).to(dtype))
        assert np.abs(back.astype(int) - values.numpy().astype(int)).max() <= steps


def test_encoding_a_read_only_memory_map_copies(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 4, 4, 3), 7, np.uint8))
    pictures = np.load(tmp_path / "a.npy", mmap_mode="r")
    x = Pixels(4).encode(pictures)
    x.zero_()
    assert (pictures == 7).all()


@pytest.mark.parametrize("wrong", [(2, 4, 4, 1), (2, 5, 4, 3), (4, 4, 3)])
def test_other_shapes_and_types_are_refused_with_both_shapes(wrong):
    with pytest.raises(ValueError, match=r"expected uint8 pictures of shape \(B, 4, 4, 3\), got"):
        Pixels(4).encode(torch.zeros(wrong, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"float32"):
        Pixels(4).encode(torch.zeros(2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"expected shape \(B, 3, H, W\)"):
        Pixels(4).decode(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="size 0"):
        Pixels(0)
