"""A data set of one's own, handed in by a program: anything with ``len(data)`` and ``data[i]``, as PyTorch has it.

    data[i]                                an array (sides), (sides, C) or (C, sides), a tensor, or a Pillow image
    data[i], "a red apple"                 with its caption
    data[i], 3                             with its class, by number (named by ``data.classes`` where there is one)
    data[i], {"text": ..., "class": ...}   with conditions by name; "text" may be a list of captions, and
                                           "group", "licence" and "source" are understood as in a table; a second
                                           array or image goes by the name of its condition of the kind picture

Each item becomes a record whose file is a ``.npy``, or a ``.png`` for an image, so all that holds for a folder holds
for it: faults are named, rows are kept in a memory map, the manifest's hash names the data, and a run that goes on
demands the same data. Items are read once for the list and once more when they are prepared.
"""

from __future__ import annotations

import hashlib
import io
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sfumato.data.faults import DataError
from sfumato.data.records import Record, Source, order_classes
from sfumato.errors import did_you_mean, shown

HANDED_IN = "own:"  # data.path of data that were handed in begins with this
PLAIN = ("text", "class", "group", "licence", "source")


class MapStyle(Protocol):
    """What a data set must have."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def source_of(
    data: MapStyle,
    name: str,
    as_pictures: bool = False,
    group: str = "",
    pictures: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Source:
    """The list of a data set's items.

    Args:
        data: with the items named above; ``data[i]`` is the same at every reading.
        name: of the data set, for people.
        as_pictures: arrays (height, width) or (height, width, 1, 3 or 4) of uint8 or uint16 are pictures.
        group: the name under which an item says to which others it belongs, "group" by default.
        pictures: the names of second pictures, as of ``Asked.pictures``; every item has all of them.
        progress: told how many of how many items are listed.

    Raises:
        DataError: there is nothing in it, or an item is none of the above; names item, value and fix.
    """
    total = len(data)
    if not total:
        raise DataError(f"data: {name} is empty", "hand in a data set of at least two items")
    classes = _classes(data)
    write = _png if as_pictures else _npy
    records = []
    for i in range(total):
        values, said = _parted(data[i], i, classes)
        _refuse_unread(said, i, [*([group] if group else []), *pictures])
        file, ending = write(values, i)
        digest = hashlib.sha256(file).digest()
        records.append(
            Record(
                f"{i}{ending}",
                _Fetch(data, i, write, digest),
                beside=tuple(_second(data, i, said, column) for column in pictures),
                captions=_captions(said.get("text"), i),
                label=_text(said.get("class"), "class", i),
                licence=_text(said.get("licence"), "licence", i),
                source=_text(said.get("source"), "source", i),
                stamp=(len(file), int.from_bytes(digest[:8])),
                group=_text(said.get(group or "group"), group or "group", i),
            )
        )
        progress(i + 1, total)
    missing = next((i for i, record in enumerate(records) if record.label is None), None)
    if missing is not None and any(record.label is not None for record in records):
        raise DataError(f"data[{missing}] has no class, and others have one", "give every item a class, or none")
    found = order_classes(record.label for record in records)
    order = tuple(label for label in classes if label in found) if classes else found
    return Source(Path(name), "a data set handed in", records, order if set(order) == set(found) else found)


def _second(data: MapStyle, i: int, said: Mapping[str, Any], column: str) -> Record:
    """The second picture of an item under one name."""
    if column not in said:
        raise DataError(f"data[{i}] says nothing of {column!r}, which a condition reads", "give it for every item")
    file, ending = _npy(said[column], i)
    digest = hashlib.sha256(file).digest()
    stamp = (len(file), int.from_bytes(digest[:8]))
    return Record(f"{i}-{column}{ending}", _Fetch(data, i, _npy, digest, column), stamp=stamp)


class _Fetch:
    """Reads one item, or a second picture of it, again as a file; it must be what it was."""

    __slots__ = ("column", "data", "digest", "index", "write")

    def __init__(
        self,
        data: MapStyle,
        index: int,
        write: Callable[[Any, int], tuple[bytes, str]],
        digest: bytes,
        column: str = "",
    ) -> None:
        self.data, self.index, self.write, self.digest, self.column = data, index, write, digest, column

    def __call__(self) -> bytes:
        item = self.data[self.index]
        values, said = item if isinstance(item, tuple) else (item, {})
        file = self.write(said[self.column] if self.column else values, self.index)[0]
        if hashlib.sha256(file).digest() != self.digest:
            raise DataError(
                f"data[{self.index}] changes from one reading to the next, so no run could be repeated",
                "give the same values at every reading; data.flip mirrors, and an objective of your own can augment",
            )
        return file


def _parted(item: Any, i: int, classes: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """An item's values and what is said of them, by name."""
    if not isinstance(item, tuple):
        return item, {}
    if len(item) != 2:
        raise DataError(f"data[{i}] is a tuple of {len(item)}", "give the values, or a pair: the values and conditions")
    values, said = item
    if said is None:
        return values, {}
    if isinstance(said, str):
        return values, {"text": said}
    if not isinstance(said, Mapping):
        said = {"class": said}
    label = said.get("class")
    if label is not None and not isinstance(label, str):
        number = _whole(label, i)
        if classes and not 0 <= number < len(classes):
            raise DataError(f"data[{i}] is of class {number}, and data.classes has {len(classes)}", "name every class")
        said = {**said, "class": classes[number] if classes else str(number)}
    return values, dict(said)


def _refuse_unread(said: Mapping[str, Any], i: int, further: Sequence[str]) -> None:
    possible = [*PLAIN, *further]
    for name in said:
        if name not in possible:
            raise DataError(
                f"data[{i}] says {name!r}, which nothing reads{did_you_mean(name, possible)}",
                f"known are {', '.join(possible)}",
            )


def _whole(label: Any, i: int) -> int:
    try:
        return operator.index(label.item() if hasattr(label, "item") else label)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        raise DataError(
            f"data[{i}] says {shown(label)} beside its values",
            'give a caption, a class, or conditions by name, such as {"text": "a cat", "class": "cat"}',
        ) from None


def _captions(value: Any, i: int) -> tuple[str, ...]:
    captions = tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)
    for caption in captions:
        _text(caption, "text", i)
    return tuple(caption for caption in captions if caption.strip())


def _text(value: Any, name: str, i: int) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DataError(f"data[{i}]: its {name} is {shown(value)}", "give it as a text")
    return value


def _npy(values: Any, i: int) -> tuple[bytes, str]:
    """The file of an item and its ending: arrays as NumPy writes them, images as PNG."""
    if isinstance(values, Image.Image):
        return _png(values, i)
    array = _array(values, i)
    stream = io.BytesIO()
    try:
        np.save(stream, array, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"data[{i}] is an array of {array.dtype} ({error})", "give an array of numbers") from None
    return stream.getvalue(), ".npy"


def _array(values: Any, i: int) -> np.ndarray:
    """An item's array; a tensor in half precision becomes single precision, which holds the same numbers."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        short = tensor.is_floating_point() and tensor.element_size() < 4
        try:
            return (tensor.float() if short else tensor).numpy()
        except (TypeError, RuntimeError) as error:
            raise DataError(f"data[{i}] is a tensor that NumPy cannot hold ({error})", "make it dense") from None
    if not isinstance(values, np.ndarray):
        raise DataError(f"data[{i}] is a {type(values).__name__}", "give a NumPy array, a tensor or a Pillow image")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(f"data[{i}] is a masked array, whose mask would be lost", "fill the gaps: array.filled(0)")
    return np.asarray(values)


def _classes(data: MapStyle) -> tuple[str, ...]:
    """The names of the classes that a data set gives; none where it gives no list of different names."""
    given = getattr(data, "classes", None)
    if not isinstance(given, list | tuple | np.ndarray):
        return ()
    names = tuple(map(str, given))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"data.classes names {twice!r} twice", "give every class a name of its own")
    return names


def _png(values: Any, i: int) -> tuple[bytes, str]:
    """A picture as PNG, without loss."""
    if not isinstance(values, Image.Image):
        values = _image(_array(values, i), i)
    stream = io.BytesIO()
    try:
        values.save(stream, "PNG", compress_level=1)
    except OSError as error:
        raise DataError(f"data[{i}] is an image of mode {values.mode} ({error})", "convert it to RGB or L") from None
    return stream.getvalue(), ".png"


def _image(array: np.ndarray, i: int) -> Image.Image:
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not grey and not (array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8):
        raise DataError(
            f"data[{i}] is an array of {array.dtype} {array.shape}, which is no picture",
            "give (height, width), or (height, width, 3 or 4) of uint8, or train with codec.kind = arrays",
        )
    return Image.fromarray(np.ascontiguousarray(array))
