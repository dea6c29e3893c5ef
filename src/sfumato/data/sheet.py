"""A contact sheet: a data set on one page, with captions and counts."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfumato.codecs.codec import Codec
from sfumato.codecs.grid import fit
from sfumato.codecs.pixels import MODES, Pixels
from sfumato.data.dataset import Dataset
from sfumato.data.faults import DataError, printable
from sfumato.data.readers import Reader, Unusable
from sfumato.data.readers.pictures import Pictures
from sfumato.data.records import Source

MARGIN, GAP, LINE = 12, 8, 12


def contact_sheet(
    data: Dataset | Source,
    columns: int = 8,
    rows: int = 6,
    tile: int = 96,
    seed: int = 0,
    size: int | None = None,
    kind: tuple[Reader, Codec] | None = None,
) -> Image.Image:
    """A picture of `columns` x `rows` samples spread over the data, each above its caption or class.

    Width: 2 MARGIN + columns (tile + GAP) - GAP pixels. Height: a heading line for each line of `describe()`, then
    `rows` rows of tile + 2 LINE + GAP. The same data and seed give the same sheet. Unusable pictures are red tiles with
    the reason.

    Args:
        data: a data set, or files that are read for the sheet.
        columns, rows, tile, seed: of the sheet.
        size: side in pixels to which pictures are cut and scaled, as a model sees them.
        kind: the reader of the files and the codec of the rows, which is fitted to what is shown; by default those of
            pictures.
    """
    if min(columns, rows) < 1 or tile < 16:
        raise ValueError(
            f"contact_sheet: columns = {columns}, rows = {rows} must be at least 1, tile = {tile} at least 16"
        )
    heading = data.describe().splitlines()
    total = len(data) if isinstance(data, Dataset) else len(data.records)
    if not total:
        raise DataError("nothing to show: the data set has no pictures", "give a folder with pictures")

    reader, codec = kind or (Pictures(size or tile, 4), Pixels(size or tile, 4))
    if kind is None and isinstance(data, Dataset):
        codec = _pixels_of(data)

    # One sample from each of equal stretches, so that every class and folder of a sorted listing appears.
    cells = min(columns * rows, total)
    offsets = np.random.default_rng(seed).random(cells)
    chosen = ((np.arange(cells) + offsets) * total / cells).astype(int)

    samples = [_sample(data, int(index), reader) for index in chosen]
    readable = [row for row, _ in samples if row is not None]
    if readable:
        codec.fit(np.stack(readable))

    top = MARGIN + len(heading) * (LINE + 4) + GAP
    whole = (2 * MARGIN + columns * (tile + GAP) - GAP, top + rows * (tile + 2 * LINE + GAP) + MARGIN - GAP)
    sheet = Image.new("RGB", whole, "#f4f4f2")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for number, line in enumerate(heading):
        text = shorten(printable(line), whole[0] - 2 * MARGIN, font)
        draw.text((MARGIN, MARGIN + number * (LINE + 4)), text, fill="#222222", font=font)

    for cell, (row, words) in enumerate(samples):
        x = MARGIN + cell % columns * (tile + GAP)
        y = top + cell // columns * (tile + 2 * LINE + GAP)
        if row is None:
            draw.rectangle((x, y, x + tile - 1, y + tile - 1), fill="#b3261e")
        else:
            shown = fit(codec.picture(row).convert("RGBA"), tile)
            sheet.paste(shown, (x + (tile - shown.width) // 2, y + (tile - shown.height) // 2), shown)
        for number, line in enumerate(wrap(words, tile, font, 2)):
            draw.text((x, y + tile + 1 + number * LINE), line, fill="#444444", font=font)
    return sheet


def _pixels_of(data: Dataset) -> Pixels:
    """The codec of a data set of pictures, by the shape of its rows.

    Raises:
        DataError: they are none.
    """
    shape, dtype = data.rows.shape[1:], data.rows.dtype
    if len(shape) != 3 or shape[2] not in MODES or dtype not in (np.uint8, np.uint16):
        raise DataError(f"contact_sheet: rows {dtype} {shape} are no pictures", "give their reader and codec as `kind`")
    return Pixels((shape[1], shape[0]), shape[2], 8 * dtype.itemsize)


def _sample(data: Dataset | Source, index: int, reader: Reader) -> tuple[np.ndarray | None, str]:
    """The row, None for one that is unusable, and the words below it."""
    if isinstance(data, Dataset):
        words = data.captions[index][0] if data.captions[index] else ""
        if not words and data.labels is not None:
            words = data.classes[data.labels[index]]
        return data.rows[index], words

    record = data.records[index]
    try:
        row = reader(record.open(), record.locator).values
    except Unusable as error:
        return None, f"{error.kind}: {record.locator}"
    except OSError as error:
        return None, f"{error.strerror or error}: {record.locator}"
    return row, record.captions[0] if record.captions else record.label or record.locator


def shorten(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """`text`, cut with an ellipsis to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, most: int) -> list[str]:
    """`text` in at most `most` lines of `width` pixels, broken at spaces, the last one shortened."""
    lines: list[str] = []
    words = printable(text)[:400].split()
    while words and len(lines) < most - 1:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += " " + words.pop(0)
        lines.append(shorten(line, width, font))
    if words:
        lines.append(shorten(" ".join(words), width, font))
    return lines
