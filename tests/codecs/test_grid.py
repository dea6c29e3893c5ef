"""The one layout of sheets: sizes, places and labels."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from sfumato.codecs.grid import MARGIN, fit, labelled_grid, shorten

FONT = ImageFont.load_default(12)


def colours(n: int, side: int = 16) -> list[Image.Image]:
    return [Image.new("RGB", (side, side), (20 * i, 255 - 20 * i, 90)) for i in range(n)]


def test_a_sheet_without_labels_is_tiles_and_margins():
    sheet = labelled_grid(colours(5), [""] * 5, columns=2, tile=32)
    assert sheet.size == (2 * 32 + 3 * MARGIN, 3 * 32 + 4 * MARGIN)


def test_labels_take_a_line_under_every_row():
    bare = labelled_grid(colours(4), [""] * 4, columns=2, tile=64)
    labelled = labelled_grid(colours(4), ["a", "", "", ""], columns=2, tile=64)
    assert labelled.width == bare.width
    assert labelled.height - bare.height == 2 * 14  # the font's 10 pixels and room between lines


def test_pictures_stand_row_by_row_and_are_enlarged_without_blur():
    pictures = colours(3)
    sheet = np.asarray(labelled_grid(pictures, [""] * 3, columns=2, tile=32))
    for i, picture in enumerate(pictures):
        y, x = MARGIN + i // 2 * (32 + MARGIN), MARGIN + i % 2 * (32 + MARGIN)
        assert (sheet[y : y + 32, x : x + 32] == picture.getpixel((0, 0))).all()


def test_an_enlarged_picture_is_each_pixel_a_whole_square():
    checks = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    assert (np.asarray(fit(checks, 7)) == np.kron(np.asarray(checks), np.ones((3, 3), np.uint8))).all()


def test_a_picture_larger_than_its_tile_is_made_smaller_and_left_as_it_was():
    picture = Image.new("RGB", (100, 50), "red")
    assert fit(picture, 32).size == (32, 16)
    assert picture.size == (100, 50)


def test_grey_pictures_have_a_place_too():
    sheet = labelled_grid([Image.new("L", (16, 16), 77)], [""], columns=1, tile=16)
    assert sheet.getpixel((MARGIN, MARGIN)) == (77, 77, 77)


@pytest.mark.parametrize("text", ["", "a", "a red apple", "W" * 200, "a red apple " * 1000, "é" * 50, "🍎" * 50])
@pytest.mark.parametrize("width", [20, 96])
def test_a_label_is_never_wider_than_its_tile(text, width):
    short = shorten(text, FONT, width)
    assert FONT.getlength(short) <= width
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_a_label_is_cut_no_earlier_than_it_must_be():
    short = shorten("a red apple on a table", FONT, 60)
    longer = "a red apple on a table"[: len(short)] + "…"
    assert FONT.getlength(longer) > 60


def test_a_label_of_several_lines_is_written_in_one():
    several = labelled_grid(colours(1), ["a red\napple\t!"], columns=1)
    assert several.tobytes() == labelled_grid(colours(1), ["a red apple !"], columns=1).tobytes()


def test_as_many_labels_as_pictures():
    with pytest.raises(ValueError):
        labelled_grid(colours(2), ["one"], columns=2)
