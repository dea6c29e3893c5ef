"""Sheets of drawn pictures with names beside the rows and above the columns."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfumato.codecs.grid import fit, shorten

GAP, LETTERS, WIDEST = 8, 13, 220  # pixels: between tiles, of the letters, of the names beside the rows


def image(picture: np.ndarray) -> Image.Image:
    """uint8 (H, W, C), C = 1 or 3."""
    return Image.fromarray(np.array(picture if picture.shape[2] == 3 else picture[:, :, 0]))


def strip(pictures: Sequence[np.ndarray], side: int = 64) -> Image.Image:
    """Pictures (H, W, C) beside each other, each at most `side` pixels, or its own where those are up to twice as many;
    small ones are enlarged by a whole factor."""
    fitted = [
        fit(image(picture), side if picture.shape[0] > 2 * side else max(side, picture.shape[0]))
        for picture in pictures
    ]
    width = sum(tile.width for tile in fitted) + 2 * (len(fitted) - 1)
    whole = Image.new("RGB", (width, max(tile.height for tile in fitted)), "white")
    x = 0
    for tile in fitted:
        whole.paste(tile, (x, 0))
        x += tile.width + 2
    return whole


def labelled_rows(tiles: Sequence[Sequence[Image.Image]], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """A sheet on white.

    Args:
        tiles: rows of columns of pictures.
        rows: a name beside each row; long ones are cut.
        columns: a name above each column; long ones are cut.
    """
    font = ImageFont.load_default(LETTERS)
    width, height = (max(getattr(tile, side) for row in tiles for tile in row) for side in ("width", "height"))
    left = min(WIDEST, int(max(font.getlength(name) for name in rows))) + 2 * GAP
    top = 2 * LETTERS if any(columns) else GAP
    step_x, step_y = width + GAP, max(height, 2 * LETTERS) + GAP
    sheet = Image.new("RGB", (left + len(columns) * step_x, top + len(rows) * step_y), "white")
    canvas = ImageDraw.Draw(sheet)

    for j, name in enumerate(columns):
        canvas.text((left + j * step_x, GAP // 2), shorten(name, font, width), fill="black", font=font)
    for i, (name, row) in enumerate(zip(rows, tiles, strict=True)):
        y = top + i * step_y
        canvas.text((GAP, y + height // 2 - LETTERS), shorten(name, font, left - 2 * GAP), fill="black", font=font)
        for j, tile in enumerate(row):
            sheet.paste(tile, (left + j * step_x, y))
    return sheet
