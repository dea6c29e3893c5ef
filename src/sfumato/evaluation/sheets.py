"""Sheets of drawn pictures with names beside the rows and above the columns."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sfumato.codecs.grid import fit, on_white, shorten

GAP, LETTERS, WIDEST = 8, 13, 220  # pixels: between tiles, of the letters, of the names beside the rows


def strip(pictures: Sequence[Image.Image], side: int = 64) -> Image.Image:
    """Pictures beside each other, each at most `side` pixels high, or its own height where that is up to twice as many,
    and at most three times as wide; small ones are enlarged by a whole factor."""

    def fitted_to(picture: Image.Image) -> Image.Image:
        high = side if picture.height > 2 * side else max(side, picture.height)
        return fit(picture, int(high * min(3, max(1, picture.width / picture.height))))

    fitted = [on_white(fitted_to(picture)) for picture in pictures]
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
