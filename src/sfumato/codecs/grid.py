"""Pictures side by side with a line of text under each: the one layout of sample sheets, grids and contact sheets."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 6


def encoded(picture: Image.Image, suffix: str = ".png", **options: object) -> bytes:
    """The bytes of a picture file with this ending."""
    file = io.BytesIO()
    picture.save(file, Image.registered_extensions()[suffix.lower()], **options)
    return file.getvalue()


def labelled_grid(pictures: Sequence[Image.Image], labels: Sequence[str], columns: int, tile: int = 96) -> Image.Image:
    """A sheet on white, row by row.

    Args:
        pictures: pictures of any size; each is scaled by a whole factor if possible, so that pixels stay crisp.
        labels: one for each picture; if all are empty, there is no room for text. Long ones are cut.
        columns: pictures in a row.
        tile: side of a picture on the sheet, in pixels.
    """
    font = ImageFont.load_default(max(10, tile // 8))
    labels = [" ".join(label.split()) for label in labels]  # a line is one line
    text_height = int(1.4 * max(10, tile // 8)) if any(labels) else 0
    rows = -(-len(pictures) // columns)
    step_x, step_y = tile + MARGIN, tile + text_height + MARGIN
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    canvas = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = MARGIN + i % columns * step_x, MARGIN + i // columns * step_y
        fitted = on_white(fit(picture, tile))
        sheet.paste(fitted, (x + (tile - fitted.width) // 2, y + (tile - fitted.height) // 2))
        canvas.text((x, y + tile), shorten(label, font, tile), fill="black", font=font)
    return sheet


def fit(picture: Image.Image, tile: int) -> Image.Image:
    """A copy at most ``tile`` pixels wide and high: enlarged by a whole factor, or made smaller."""
    whole = tile // max(picture.size)
    if whole:
        return picture.resize((picture.width * whole, picture.height * whole), Image.Resampling.NEAREST)
    small = picture.copy()
    small.thumbnail((tile, tile), Image.Resampling.LANCZOS)
    return small


def on_white(picture: Image.Image) -> Image.Image:
    """A picture without alpha: what can be seen through shows white."""
    if picture.mode != "RGBA":
        return picture
    whole = Image.new("RGB", picture.size, "white")
    whole.paste(picture, (0, 0), picture)
    return whole


def shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The longest beginning of ``text`` that is at most ``width`` pixels long, with an ellipsis when cut."""
    if len(text) <= width and font.getlength(text) <= width:
        return text
    text = text[:width]  # no letter is narrower than a pixel
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
