"""Table D1 of the reliability page: which files are faults, and which are converted and reported."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from sfumato.data.readers import Unusable
from sfumato.data.readers.pictures import Pictures

SIZE = 16


def loaded(data: bytes, name: str = "a.png", channels: int = 3, size: int = SIZE):
    return Pictures(size, channels)(data, name)


# ---- what is a fault


@pytest.fixture
def bad(picture, encoded):
    """name -> (bytes, the kind of fault that it is)."""
    frames = [picture(seed) for seed in range(3)]
    png = encoded(1)
    return {
        "empty.png": (b"", "empty"),
        "text.png": (b"this is a caption, not a picture\n", "not a picture"),
        "page.jpg": (b"<!DOCTYPE html><html>404</html>", "not a picture"),
        "zip.png": (b"PK\x03\x04" + bytes(100), "not a picture"),
        "noise.png": (bytes(range(128, 256)) * 4, "not a picture"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "half.jpg": (encoded(1, "JPEG")[:400], "truncated"),
        "stub.png": (png[:20], "truncated"),
        "flipped.png": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "damaged"),
        "animated.gif": (encoded(format="GIF", picture=frames[0], save_all=True, append_images=frames[1:]), "animated"),
        "animated.png": (encoded(format="PNG", picture=frames[0], save_all=True, append_images=frames[1:]), "animated"),
        "animated.webp": (
            encoded(format="WEBP", picture=frames[0], save_all=True, append_images=frames[1:]),
            "animated",
        ),
        "pages.tiff": (encoded(format="TIFF", picture=frames[0], save_all=True, append_images=frames[1:]), "animated"),
        "dot.png": (encoded(picture=picture(width=1, height=1)), "too small"),
        "line.png": (encoded(picture=picture(width=1, height=20000)), "aspect"),
        "strip.png": (encoded(picture=picture(width=2100, height=100)), "aspect"),
        "float.tiff": (encoded(format="TIFF", picture=Image.new("F", (20, 20), 0.5)), "pixel type"),
    }


def test_every_bad_file_is_refused_with_its_kind_a_reason_and_a_fix(bad):
    found = {}
    for name, (data, _) in bad.items():
        with pytest.raises(Unusable) as error:
            loaded(data, name)
        found[name] = error.value.kind
        assert error.value.reason and error.value.fix
        assert "Traceback" not in str(error.value) and "<_io" not in str(error.value)
    assert len(found) > 0
    assert found == {name: kind for name, (_, kind) in bad.items()}


def test_the_animation_test_has_teeth(encoded):
    """Negative control: one frame alone passes in each of the formats."""
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        assert loaded(encoded(1, format), "a." + format.lower()).values.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_no_cut_and_no_flipped_byte_raises_anything_but_unusable(encoded, picture, format):
    seed = 20260
    print(f"seed {seed}")
    draw = random.Random(seed)
    whole = encoded(format=format, picture=picture(3, 48, 48))
    faults = 0
    for _ in range(60):
        data = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole)
        for _ in range(draw.randrange(3)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            assert loaded(bytes(data)).values.shape == (SIZE, SIZE, 3)
        except Unusable:
            faults += 1
    assert faults > 0


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_picture_cut_short_is_never_taken_for_whole(encoded, picture, format, monkeypatch):
    whole = encoded(format=format, picture=picture(3, 256, 256))
    part = whole[: len(whole) * 3 // 4]
    with pytest.raises(Unusable):
        loaded(part)

    # Negative control: with Pillow told to pad what is missing, a cut JPEG does pass, so the test above can fail.
    if format == "JPEG":
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        assert loaded(part).values.shape == (SIZE, SIZE, 3)


# ---- what is converted, and told


def test_conversions_are_noted_and_right(picture, encoded):
    base = picture(5, SIZE, SIZE)
    exact = np.asarray(base)
    grey = np.asarray(base.convert("L"))
    palette = base.quantize(256)
    opaque = base.convert("RGBA")

    cases = {
        "plain": (encoded(picture=base), "a.png", (), exact, 0),
        "palette": (encoded(picture=palette), "a.png", ("palette",), np.asarray(palette.convert("RGB")), 0),
        "opaque alpha": (encoded(picture=opaque), "a.png", (), exact, 0),
        "wrong extension": (encoded(picture=base), "a.jpg", ("wrong extension",), exact, 0),
        "no extension": (encoded(picture=base), "sample/7", (), exact, 0),
        "grey": (encoded(picture=base.convert("L")), "a.png", (), np.repeat(grey[..., None], 3, 2), 0),
        # No profile says which inks: Pillow's plain inversion, near enough to see the same picture.
        "CMYK": (encoded(format="TIFF", picture=base.convert("CMYK")), "a.tif", ("CMYK",), exact, 2),
        "16-bit": (
            encoded(picture=Image.fromarray(grey.astype(np.uint16) * 257)),
            "a.png",
            ("16-bit",),
            np.repeat(grey[..., None], 3, 2),
            0,
        ),
    }
    for name, (data, file, notes, expected, tolerance) in cases.items():
        got = loaded(data, file)
        assert got.notes == notes, name
        assert np.abs(got.values.astype(int) - expected).max() <= tolerance, name


def test_sixteen_bit_colour_is_noted(picture):
    values = np.asarray(picture(6, SIZE, SIZE)).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    got = loaded(data)
    assert got.notes == ("16-bit",)
    assert np.array_equal(got.values, (values // 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_becomes_white(encoded, mode):
    rgba = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    rgba.paste((0, 0, 0, 255), (0, 0, SIZE // 2, SIZE))
    if mode == "P":
        picture = Image.new("P", (SIZE, SIZE), 1)
        picture.putpalette([0, 0, 0, 255, 0, 0])
        picture.paste(0, (0, 0, SIZE // 2, SIZE))
        data = encoded(picture=picture, transparency=1)
    else:
        data = encoded(format="TIFF" if mode == "PA" else "PNG", picture=rgba if mode == "PA" else rgba.convert(mode))
    got = loaded(data, "a.tif" if mode == "PA" else "a.png")
    assert "alpha" in got.notes
    assert got.values[:, : SIZE // 2].max() == 0 and got.values[:, SIZE // 2 :].min() == 255


def test_half_transparent_black_on_white_is_grey_without_a_dark_fringe_after_resizing(encoded):
    # White ink with a transparent *black* surround: a filter that ignores alpha would draw a grey edge around it.
    rgba = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    rgba.paste((255, 255, 255, 255), (16, 16, 48, 48))
    assert loaded(encoded(picture=rgba)).values.min() >= 254

    veil = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    assert abs(int(loaded(encoded(picture=veil)).values.mean()) - 127) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(encoded, orientation):
    # A picture with one corner of each colour, stored as a camera would for this orientation.
    upright = Image.new("RGB", (48, 48), "white")
    for colour, box in (("red", (0, 0, 24, 24)), ("green", (24, 0, 48, 24)), ("blue", (0, 24, 24, 48))):
        upright.paste(colour, box)
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = loaded(encoded(picture=turned, exif=exif.tobytes()), size=48)
    assert np.array_equal(got.values, np.asarray(upright))
    assert ("EXIF rotation" in got.notes) == (orientation > 1)


def test_a_wide_gamut_profile_is_converted_and_a_broken_one_told(encoded):
    red = Image.new("RGB", (SIZE, SIZE), (200, 100, 50))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = loaded(encoded(picture=red, icc_profile=srgb))
    assert np.array_equal(same.values[0, 0], (200, 100, 50)) and same.notes == ()

    other = bytearray(srgb)
    at = other.find(b"rXYZ")
    offset = struct.unpack(">I", other[at + 4 : at + 8])[0]
    other[offset + 8 : offset + 12] = struct.pack(">i", 0x8000)  # another red primary
    renamed = bytes(other).replace(b"s\0R\0G\0B", b"w\0i\0d\0e")
    got = loaded(encoded(picture=red, icc_profile=renamed))
    assert got.notes == ("colour profile",) and not np.array_equal(got.values[0, 0], (200, 100, 50))

    broken = loaded(encoded(picture=red, icc_profile=b"no profile at all"))
    assert broken.notes == ("colour profile ignored",) and np.array_equal(broken.values[0, 0], (200, 100, 50))


# ---- fitting


def test_the_centre_is_kept_when_a_picture_is_not_square(encoded):
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste("blue", (32, 0, 64, 32))
    # The filter reaches three output pixels beyond the crop.
    inner = loaded(encoded(picture=wide)).values[:, 3:-3]
    assert (inner == (0, 0, 255)).all()
    tall = loaded(encoded(picture=wide.transpose(Image.Transpose.ROTATE_90))).values[3:-3]
    assert (tall == (0, 0, 255)).all()


def test_reducing_averages_instead_of_picking_pixels(encoded):
    # A one-pixel chequerboard is even grey from afar; picking pixels would give black, white or stripes.
    board = Image.fromarray((np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8))
    pixels = loaded(encoded(picture=board)).values.astype(int)
    assert abs(pixels - 127).max() <= 3


def test_draft_decoding_of_a_large_jpeg_is_as_good_as_decoding_it_whole(picture):
    large = picture(8, 1600, 1200)
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=95)
    got = loaded(buffer.getvalue(), "a.jpg", size=32).values.astype(int)
    with Image.open(buffer) as whole:
        side = whole.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS, box=(200, 0, 1400, 1200))
    # The DCT-domain reduction and the filter differ by rounding; 4 of 255 is invisible.
    assert abs(got - np.asarray(side).astype(int)).mean() < 1 and abs(got - np.asarray(side).astype(int)).max() <= 4


def test_one_channel_gives_grey_of_the_asked_shape(encoded, picture):
    got = loaded(encoded(picture=picture(1, SIZE, SIZE)), channels=1)
    assert got.values.shape == (SIZE, SIZE, 1)
    assert np.array_equal(got.values[..., 0], np.asarray(picture(1, SIZE, SIZE).convert("L")))
