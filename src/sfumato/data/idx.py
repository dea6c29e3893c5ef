"""IDX, the format of MNIST: two zero bytes, a type, the number of dimensions, the dimensions, the values."""

from __future__ import annotations

import gzip
import json
import struct
from functools import partial
from pathlib import Path

import numpy as np

from sfumato.data.faults import LAYOUTS, DataError
from sfumato.data.records import Record, Source, check_inside, count

IDX_BYTES = 4 * 2**30


def is_idx(path: Path) -> bool:
    """Whether the name is that of an IDX file of pictures."""
    return path.name.removesuffix(".gz").endswith(("images-idx3-ubyte", "images.idx3-ubyte")) and path.is_file()


def read_idx(path: Path) -> Source:
    """The `Source` of an IDX file of grey pictures, with the labels and the classes.json that lie beside it."""
    pictures = _idx(path, 3)
    labels_name = path.name.replace("images", "labels").replace("idx3", "idx1")
    plain = labels_name.removesuffix(".gz")
    beside = next((p for p in (path.with_name(n) for n in (labels_name, plain, plain + ".gz")) if p.is_file()), None)

    names: list[str] = []
    labels: list[str | None] = [None] * len(pictures)
    if beside is not None:
        numbers = _idx(beside, 1)
        if len(numbers) != len(pictures):
            raise DataError(f"{beside} has {len(numbers):,} labels for {len(pictures):,} pictures", "copy both again")
        names = _class_names(path.with_name("classes.json"), int(numbers.max(initial=0)) + 1)
        labels = [names[number] for number in numbers]

    about = path.stat()
    records = [
        Record(
            locator=f"{path.name}/{index}",
            fetch=partial(_pgm, picture),
            label=label,
            size=picture.size,
            stamp=(about.st_size, about.st_mtime_ns),
        )
        for index, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]
    if not records:
        raise DataError(f"{path} holds no pictures", LAYOUTS)
    others = sum(is_idx(p) for p in path.parent.iterdir()) - 1
    remarks = (path.name, *([f"{count(others, 'other part')} left aside"] if others else []))
    return Source(path.parent, "IDX", records, tuple(names), (), remarks)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    check_inside(path.parent, path)
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as stream:
            head = stream.read(4)
            if head != bytes([0, 0, 8, dimensions]):
                raise DataError(
                    f"{path}: not an IDX file of unsigned bytes in {dimensions} dimensions", "copy it again"
                )
            shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
            # The product in Python's whole numbers, and a limit, before the file may decide how much is read.
            size = int(np.prod([int(n) for n in shape], dtype=object))
            if size > IDX_BYTES:
                raise DataError(f"{path}: the header claims {size:,} bytes, limit {IDX_BYTES:,}", "split it into parts")
            values = stream.read(size)
    except (OSError, EOFError, struct.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error})", "copy it again") from error
    if len(values) != size:
        raise DataError(f"{path} is truncated: {len(values):,} of {size:,} bytes", "copy it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _class_names(path: Path, classes: int) -> list[str]:
    if not path.is_file():
        return [str(index) for index in range(classes)]
    check_inside(path.parent, path)
    names = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) < classes:
        raise DataError(f"{path} is no list of at least {classes} names", "name the classes in the order of the labels")
    return names


def _pgm(picture: np.ndarray) -> bytes:
    height, width = picture.shape
    return b"P5 %d %d 255\n" % (width, height) + picture.tobytes()
