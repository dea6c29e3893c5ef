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
  sfumato data show ./my-pictures --size 48x32
"""
)
def show(path: str, /, *, out: Path | None = None, columns: int = 8, rows: int = 6, size: str | None = None) -> None:
    """Write a contact sheet: samples of a data set with their captions.

    Parameters
    ----------
    path
        Folder of pictures or arrays, or the name of a public data set.
    out
        The picture to write, PNG, JPEG or WebP; by default a new sheet.png.
    columns
        Samples side by side, 1 to 64.
    rows
        Samples below each other, 1 to 64.
    size
        Show the pictures cut and scaled to this size, as a model would see them: one side in pixels or WIDTHxHEIGHT,
        each from 4 to 1024.
    """
    from sfumato.request import parse_size
    from sfumato.settings.base import LARGEST_SIZE

    wanted = parse_size(size)
    sides = wanted if isinstance(wanted, tuple) else () if wanted is None else (wanted, wanted)
    if sides and (len(sides) != 2 or not all(4 <= side <= LARGEST_SIZE for side in sides)):
        raise UserError(
            f"data show: size = {size} is not possible",
            f"set --size to a number from 4 to {LARGEST_SIZE}, or to two such as 48x32",
        )
    for name, value in (("columns", columns), ("rows", rows)):
        if not 1 <= value <= 64:
            raise UserError(f"data show: {name} = {value} is not possible", f"set --{name} to a number from 1 to 64")
    if out and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"data show: --out {out} is no picture", "let it end in .png, .jpg or .webp")

    from sfumato import kinds
    from sfumato.codecs.grid import encoded
    from sfumato.data.sheet import contact_sheet
    from sfumato.durable import write_atomically, write_new

    source = _open(path)
    print(source.describe())
    # the smallest tile of 96 pixels or more that shows every pixel as a square of one size
    tile = max(sides) * -(-96 // max(sides)) if sides else 96
    config = kinds.looked_at(source, size=list(sides or (tile, tile)), channels=4, bits=8)
    kind = kinds.kind_of(config.codec)
    made = (kind.reader(config), kind.codec(config.codec)) if not config.codec.open else None
    if sides and made and not made[1].pictorial:
        raise UserError(
            f"data show: --size is of pictures, and these data are {made[1].describe()}", "leave --size out"
        )
    sheet = contact_sheet(source, columns=columns, rows=rows, tile=tile, kind=made)
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
        Folder of pictures or arrays, or the name of a public data set.
    duplicates
        Also search near-duplicates: the same picture in another size, brightness, compression or position.
    features
        With --duplicates: also count pictures that are neighbours in the features of a network.
    out
        With --duplicates: folder for duplicates.json (all groups) and duplicates.png (the largest).
    """
    from sfumato import kinds
    from sfumato.data import preparation

    source = _open(path)
    config = kinds.looked_at(source, size=32)
    reader = kinds.kind_of(config.codec).reader(config)
    with Terminal() as terminal:
        found = preparation.scan(source, reader, progress=partial(terminal.progress, "checking the data"))
    print(found)
    if duplicates:
        _duplicates(source, features, out)
    return 1 if found.faults else 0


def _duplicates(source: Source, features: bool, out: Path) -> None:
    """Print the near-duplicates, and write them to a folder."""
    import tempfile

    import numpy as np

    from sfumato import kinds
    from sfumato.codecs.grid import encoded
    from sfumato.data.duplicates import SIDE, find_duplicates
    from sfumato.data.preparation import prepare
    from sfumato.durable import write_atomically

    with Terminal() as terminal, tempfile.TemporaryDirectory() as cache:
        told = partial(terminal.progress, "reading the files")
        config = kinds.looked_at(source, size=SIDE, channels=3)
        kind = kinds.kind_of(config.codec)
        data = prepare(source, kind.reader(config), Path(cache) / "data", "skip", progress=told)
        codec = kind.codec(config.codec)
        codec.fit(data.rows)
        vectors = None
        if features:
            from sfumato.features.spaces import features_of, general_space

            vectors = features_of(general_space(data, codec, np.arange(len(data))), data.rows, terminal).numpy()
        found = find_duplicates(data, codec, partial(terminal.progress, "searching near-duplicates"), vectors)
        print(found)
        out.mkdir(parents=True, exist_ok=True)
        found.save(out / "duplicates.json")
        if found.groups:
            write_atomically(out / "duplicates.png", encoded(_sheet(data, codec, found.groups)))
            print("to train without them: sfumato train ... --set data.duplicates=drop")
    print(out / "duplicates.json")


def _sheet(data: Dataset, codec: Codec, groups: Sequence[Group], rows: int = 12, columns: int = 8) -> Image:
    """A sheet of the largest groups, one in each row."""
    from PIL import Image as pillow

    from sfumato.codecs.grid import labelled_grid

    tiles, labels = [], []
    for group in sorted(groups, key=lambda group: -len(group.indices))[:rows]:
        shown = group.indices[:columns]
        blank = columns - len(shown)
        tiles += [codec.picture(data.rows[i]) for i in shown]
        tiles += [pillow.new("RGB", tiles[-1].size, "white")] * blank
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
