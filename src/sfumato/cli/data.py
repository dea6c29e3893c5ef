"""`sfumato data get | show | scan`: bring public data, look at data, check data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from sfumato.cli.progress import Terminal
from sfumato.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.codecs.codec import Codec
    from sfumato.data.dataset import Dataset
    from sfumato.data.duplicates import Group
    from sfumato.data.readers import Reader
    from sfumato.data.records import Source

app = App(
    name="data",
    help_formatter="default",
    help="Bring, look at and check data.",
    help_prologue="""\
Examples:
  sfumato data get emoji             bring a public data set
  sfumato data show ./my-pictures    write a contact sheet
  sfumato data scan ./my-pictures    name every file that cannot be used, and why
""",
)


@app.command(help_prologue="Examples:\n  sfumato data get emoji\n")
def get(name: str | None = None, /) -> None:
    """Bring a public data set into the local cache.

    Parameters
    ----------
    name
        The data set; without a name, list all.
    """
    from sfumato.data import catalogue

    entries = {entry.name: entry for entry in catalogue.available()}
    if name is None:
        for entry in entries.values():
            print(f"{entry.name:16}{entry.summary}\n{'':16}licence: {entry.licence}")
        return

    with Terminal() as terminal:
        if name in entries:
            terminal.say(f"fetching {name}: {entries[name].summary}")
        folder = catalogue.get(name, progress=partial(terminal.progress, f"converting {name}"))
    print(f"{folder}\nlicence: {entries[name].licence}\nlook at it: sfumato data show {name}")


@app.command(
    help_prologue="""\
Examples:
  sfumato data show ./my-pictures --out sheet.png
  sfumato data show ./my-pictures --size 32          as a model of 32 pixels sees them
"""
)
def show(path: str, /, *, out: Path | None = None, columns: int = 8, rows: int = 6, size: int | None = None) -> None:
    """Write a contact sheet: samples of a data set with their captions.

    Parameters
    ----------
    path
        Folder of pictures, or the name of a public data set.
    out
        The picture to write, PNG, JPEG or WebP; by default a new sheet.png.
    columns
        Samples side by side, 1 to 64.
    rows
        Samples below each other, 1 to 64.
    size
        Show the pictures cut and scaled to this side in pixels, as a model would see them; 4 to 1024.
    """
    from sfumato.settings.base import LARGEST_SIZE

    if size is not None and not 4 <= size <= LARGEST_SIZE:
        raise UserError(f"data show: size = {size} is not possible", f"set --size to a number from 4 to {LARGEST_SIZE}")
    for name, value in (("columns", columns), ("rows", rows)):
        if not 1 <= value <= 64:
            raise UserError(f"data show: {name} = {value} is not possible", f"set --{name} to a number from 1 to 64")
    if out and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"data show: --out {out} is no picture", "let it end in .png, .jpg or .webp")

    from sfumato.codecs.grid import encoded
    from sfumato.data.sheet import contact_sheet
    from sfumato.durable import write_atomically, write_new

    source = _open(path)
    print(source.describe())
    # the smallest tile of 96 pixels or more that shows every pixel as a square of one size
    tile = 96 if size is None else size * -(-96 // size)
    kind = _seen(source) if source.noun == "array" else None
    sheet = contact_sheet(source, columns=columns, rows=rows, tile=tile, size=size, kind=kind)
    if out is None:
        out = write_new(Path("sheet.png"), encoded(sheet))
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, encoded(sheet, out.suffix))
    print(out)


@app.command(
    help_prologue="""\
Examples:
  sfumato data scan ./my-pictures
  sfumato data scan ./my-pictures --duplicates
"""
)
def scan(path: str, /, *, duplicates: bool = False, features: bool = False, out: Path = Path("duplicates")) -> int:
    """Check every file as training would, and name those that cannot be used; exits with 1 if there are any.

    Parameters
    ----------
    path
        Folder of pictures, or the name of a public data set.
    duplicates
        Also search near-duplicates: the same picture in another size, brightness, compression or position.
    features
        With --duplicates: also count pictures that are neighbours in the features of a network.
    out
        With --duplicates: folder for duplicates.json (all groups) and duplicates.png (the largest).
    """
    from sfumato.data import preparation

    source = _open(path)
    reader, _ = _kind(source)
    with Terminal() as terminal:
        found = preparation.scan(source, reader, progress=partial(terminal.progress, "checking the data"))
    print(found)
    if duplicates:
        _duplicates(source, features, out)
    return 1 if found.faults else 0


def _kind(source: Source) -> tuple[Reader, Codec]:
    """What reads the files of a source, and the codec of the rows; pictures at 32 pixels, as they are."""
    from sfumato import kinds
    from sfumato.config import load_recipe

    settings = ["data.path=.", "codec.size=32", "codec.channels=3", "codec.bits=8", "data.depth=16"]
    config = kinds.resolved(load_recipe("folder", settings), source)
    kind = kinds.kind_of(config.codec)
    return kind.reader(config), kind.codec(config.codec)


def _seen(source: Source, most: int = 64) -> tuple[Reader, Codec]:
    """As for `_kind`, and the codec knows the range of some of the rows."""
    from contextlib import suppress

    import numpy as np

    from sfumato.data.readers import Unusable

    reader, codec = _kind(source)
    rows = []
    for record in source.records[:: max(1, -(-len(source.records) // most))]:
        with suppress(Unusable, OSError):
            rows.append(reader(record.open(), record.locator).values)
    if rows:
        codec.fit(np.stack(rows))
    return reader, codec


def _duplicates(source: Source, features: bool, out: Path) -> None:
    """Print the near-duplicates, and write them to a folder."""
    import tempfile

    import numpy as np

    from sfumato.codecs.grid import encoded
    from sfumato.data.duplicates import SIDE, find_duplicates
    from sfumato.data.preparation import prepare
    from sfumato.data.readers.pictures import Pictures
    from sfumato.durable import write_atomically

    with Terminal() as terminal, tempfile.TemporaryDirectory() as cache:
        told = partial(terminal.progress, "reading pictures")
        data = prepare(source, Pictures(SIDE), Path(cache) / "data", "skip", progress=told)
        vectors = None
        if features:
            from sfumato.features.spaces import features_of, general_space

            vectors = features_of(general_space(data, np.arange(len(data))), data.rows, terminal).numpy()
        found = find_duplicates(data, partial(terminal.progress, "searching near-duplicates"), vectors)
        print(found)
        out.mkdir(parents=True, exist_ok=True)
        found.save(out / "duplicates.json")
        if found.groups:
            write_atomically(out / "duplicates.png", encoded(_sheet(data, found.groups)))
            print("to train without them: sfumato train ... --set data.duplicates=drop")
    print(out / "duplicates.json")


def _sheet(data: Dataset, groups: Sequence[Group], rows: int = 12, columns: int = 8) -> Image:
    """A sheet of the largest groups, one in each row."""
    from PIL import Image as pillow

    from sfumato.codecs.grid import labelled_grid

    tiles, labels = [], []
    for group in sorted(groups, key=lambda group: -len(group.indices))[:rows]:
        shown = group.indices[:columns]
        blank = columns - len(shown)
        tiles += [pillow.fromarray(data.rows[i]) for i in shown]
        tiles += [pillow.new("RGB", data.rows.shape[2:0:-1], "white")] * blank
        labels += [f"{len(group.indices):,} x {group.paths[0]}", *[""] * (columns - 1)]
    return labelled_grid(tiles, labels, columns)


def _open(path: str):
    """The source at a path, or of a named data set, which is fetched if it is not here."""
    from sfumato.data import catalogue
    from sfumato.data.sources import open_source

    if not path:
        raise UserError("data: the path is empty", "give a folder of pictures, or the name of a data set")
    if not Path(path).exists() and path in {entry.name for entry in catalogue.available()}:
        with Terminal() as terminal:
            return open_source(catalogue.get(path, progress=partial(terminal.progress, f"converting {path}")))
    return open_source(path)
