"""Pictures of any shape, depth and channels: fitted as asked, turned once, never cut to 8 bits unseen."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sfumato.codecs.pixels import Pixels
from sfumato.codecs.png import chunk
from sfumato.data import open_source, prepare
from sfumato.data.facts import facts
from sfumato.data.readers import Unusable
from sfumato.data.readers.deep import turned
from sfumato.data.readers.pictures import _TURNS, Pictures

RAMP = np.linspace(0, 1, 24 * 40).reshape(24, 40)


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits: grey, RGB or RGBA by the channels of `values` (H, W, C), written here by the book."""
    height, width, channels = values.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + values[i].astype(">u2").tobytes() for i in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(values: np.ndarray) -> bytes:
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, values[:, :, 0] if values.shape[2] == 1 else values)
    return stream.getvalue()


# ---- shapes


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_row_has_the_wanted_width_and_height(size, fit, encoded, picture):
    row = Pictures(size, fit=fit)(encoded(picture=picture(width=40, height=24)), "a.png")
    assert row.values.shape == (size[1], size[0], 3) and row.size == (40, 24)


def test_cropping_keeps_the_centre_padding_the_whole_and_stretching_both_ends():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 2:4], pixels[:, 19:21], pixels[:, 36:38] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")

    def colours(fit: str) -> list[bool]:
        values = Pictures(20, fit=fit)(stream.getvalue(), "a.png").values.astype(int)
        return [bool((values[..., c] - values.sum(-1) / 3 > 30).any()) for c in range(3)]

    assert colours("crop") == [False, True, False]
    assert colours("pad") == colours("stretch") == [True, True, True]
    padded = Pictures(20, fit="pad")(stream.getvalue(), "a.png").values
    assert (padded[:5] == 0).all() and (padded[15:] == 0).all() and padded[5:15].any()


def test_the_border_is_transparent_where_alpha_is_kept(encoded, picture):
    row = Pictures(16, 4, fit="pad")(encoded(picture=picture(width=40, height=20)), "a.png")
    assert (row.values[:4, :, 3] == 0).all() and (row.values[4:12, :, 3] == 255).all()


# ---- orientation


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 16), (24, 12)])
def test_a_picture_is_turned_exactly_once_whatever_its_format(format, orientation, size):
    seen = Image.fromarray(np.kron(np.array([[0, 80, 160], [230, 120, 40]], np.uint8), np.ones((8, 8), np.uint8)))
    undo = orientation if orientation not in (6, 8) else 14 - orientation
    stored = seen if orientation == 1 else seen.transpose(_TURNS[undo])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored.convert("RGB").save(stream, format, exif=exif.tobytes() if format != "TIFF" else exif, quality=95)
    found = Pictures(size, 1)(stream.getvalue(), "a").values[:, :, 0].astype(int)
    upright = io.BytesIO()
    seen.convert("RGB").save(upright, "PNG")
    expected = Pictures(size, 1)(upright.getvalue(), "a").values[:, :, 0].astype(int)
    assert np.abs(found - expected).max() < 25, f"{format} {orientation}"


def test_arrays_turn_as_pillow_turns_pictures(picture):
    image = picture()
    for turn in Image.Transpose:
        assert np.array_equal(turned(np.asarray(image), turn), np.asarray(image.transpose(turn))), turn


# ---- depth


@pytest.mark.parametrize("make", [png16, tiff16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_value_of_16_bits_survives_from_file_to_file(make, channels):
    values = (RAMP[..., None] * 65535 * np.linspace(0.5, 1, channels)).astype(np.uint16)
    if channels == 4:
        values[..., 3] = 65535
    row = Pictures((40, 24), channels, 16)(make(values), "a.png").values
    assert row.dtype == np.uint16 and np.abs(row.astype(int) - values).max() <= (0 if channels < 4 else 1)

    codec = Pixels((40, 24), channels, 16)
    assert np.array_equal(codec.decode(codec.encode(row[None]))[0], row)
    again = Pictures((40, 24), channels, 16)(codec.files(row, {"sfumato": "{}"})[".png"], "a.png").values
    assert np.array_equal(again, row)


def test_values_of_12_bits_are_read_over_their_own_range_and_not_nearly_black():
    values = (RAMP[..., None] * 4095).astype(np.uint16)
    dark = Pictures((40, 24), 1)(png16(values), "a.png").values
    right = Pictures((40, 24), 1, depth=12)(png16(values), "a.png").values
    assert dark.max() == 16 and right.max() == 255
    assert np.abs(right - RAMP[..., None] * 255).max() <= 1
    colour = Pictures((40, 24), 3, depth=12)(png16(values.repeat(3, 2)), "a.png").values
    assert np.abs(colour - RAMP[..., None] * 255).max() <= 1
    kept = Pictures((40, 24), 1, 12, 12)(png16(values), "a.png").values
    assert np.array_equal(kept, values)
    assert Pixels((40, 24), 1, 12).bin == pytest.approx(2 / 4095)


def test_a_value_beyond_the_depth_is_a_fault_with_the_fix():
    values = (RAMP[..., None] * 5000).astype(np.uint16)
    for bits in (8, 16):
        with pytest.raises(Unusable, match=r"bit depth: a value of 5,000 is beyond the 12 bits \(up to 4,095\)"):
            Pictures(16, 1, bits, 12)(png16(values), "a.png")


def test_the_depth_is_found_in_the_values_and_in_what_the_file_says(tmp_path):
    for name, top in (("ten", 1023), ("twelve", 4095), ("sixteen", 65535)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png16((RAMP[..., None] * top).astype(np.uint16)))
    found = {name: facts(open_source(tmp_path / name).records) for name in ("ten", "twelve", "sixteen")}
    assert {name: one.depth for name, one in found.items()} == {"ten": 10, "twelve": 12, "sixteen": 16}
    assert all(one.grey and one.deep == 1 and one.short_sides == (24,) for one in found.values())

    (tmp_path / "said").mkdir()
    low = (RAMP[..., None] * 900).astype(np.uint16)
    codec = Pixels((40, 24), 1, 12)
    (tmp_path / "said" / "a.png").write_bytes(codec.files(low, {})[".png"])
    assert facts(open_source(tmp_path / "said").records).depth == 12  # though no value is above 900


def test_pictures_of_8_bits_beside_deep_ones_are_stretched_to_the_same_range(encoded, picture):
    shallow = picture(width=40, height=24)
    row = Pictures((40, 24), 3, 12, 12)(encoded(picture=shallow), "a.png").values
    assert np.abs(row / 4095 - np.asarray(shallow) / 255).max() < 1 / 4095


def test_giving_up_depth_is_told(tmp_path, encoded):
    (tmp_path / "p").mkdir()
    for i in range(2):
        (tmp_path / "p" / f"{i}.png").write_bytes(png16((RAMP[..., None] * (65535 - i)).astype(np.uint16)))
    data = prepare(open_source(tmp_path / "p"), Pictures(16, 1), tmp_path / "ready")
    assert "16 bits to 8 2" in data.describe()


def test_without_the_library_16_bit_colour_is_a_fault_that_names_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    values = (RAMP[..., None].repeat(3, 2) * 65535).astype(np.uint16)
    with pytest.raises(Unusable, match=r"16-bit colour: .*sfumato\[deep\]"):
        Pictures(16, 3, 16)(png16(values), "a.png")
    assert Pictures(16, 3)(png16(values), "a.png").notes == ("16-bit",)


# ---- alpha and damage


def test_alpha_is_kept_when_asked_for_and_laid_on_white_else():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, 8:] = (200, 40, 40, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    kept = Pictures(16, 4)(stream.getvalue(), "a.png").values
    assert np.array_equal(kept[..., 3], pixels[..., 3]) and (kept[:, 8:, :3] == (200, 40, 40)).all()
    white = Pictures(16, 3)(stream.getvalue(), "a.png").values
    assert (white[:, :8] == 255).all() and (white[:, 8:] == (200, 40, 40)).all()


def test_a_png_whose_text_is_damaged_is_read_and_one_whose_pixels_are_is_refused(encoded):
    data = encoded(1)
    text = bytearray(chunk(b"tEXt", b"Comment\0words"))
    text[-1] ^= 1
    row = Pictures(16)(data[:33] + bytes(text) + data[33:], "a.png")
    assert row.notes == ("damaged text left out",)
    assert np.array_equal(row.values, Pictures(16)(data, "a.png").values)
    broken = bytearray(data)
    broken[len(data) // 2] ^= 1
    with pytest.raises(Unusable, match="damaged"):
        Pictures(16)(bytes(broken), "a.png")
