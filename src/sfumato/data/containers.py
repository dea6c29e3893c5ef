"""Pictures inside larger files: WebDataset shards, Hugging Face datasets on disk, IDX files."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tarfile
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sfumato.data.faults import LAYOUTS, DataError, Fault
from sfumato.data.readers import EXTENSIONS
from sfumato.data.records import Record, Source, check_inside, clean_captions, count, order_classes
from sfumato.errors import MissingPackage

TEXT_BYTES = 2**20
IDX_BYTES = 4 * 2**30

# ---- WebDataset: members that share a key (the name up to the first dot of its last part) describe one sample


def read_shards(root: Path, shards: list[Path]) -> Source:
    """The `Source` of uncompressed .tar shards. Nothing is unpacked: pictures are read at their offset in the shard."""
    records: list[Record] = []
    faults: list[Fault] = []
    for shard in shards:
        if not shard.resolve().is_relative_to(root.resolve()):
            faults.append(Fault(shard.name, "link", "it points outside the folder", "Copy the shard in instead"))
            continue
        _index_shard(shard, records, faults)
    if not records and not faults:
        raise DataError(f"{count(len(shards), 'shard')} in {root}, and no picture in any of them", LAYOUTS)
    layout = f"WebDataset ({count(len(shards), 'shard')})"
    return Source(root, layout, records, order_classes(r.label for r in records), tuple(faults))


def _index_shard(shard: Path, records: list[Record], faults: list[Fault]) -> None:
    about = shard.stat()
    stamp = (about.st_size, about.st_mtime_ns)
    pictures: dict[str, tuple[str, int, int]] = {}
    said: dict[str, dict[str, str]] = {}
    end = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                where = f"{shard.name}/{member.name}"
                path = PurePosixPath(member.name)
                end = member.offset_data + -(-member.size // 512) * 512 if member.isreg() else member.offset_data
                if member.isdir():
                    continue
                if path.is_absolute() or ".." in path.parts:
                    faults.append(Fault(where, "link", "the member's name leads out of the archive", "Pack it again"))
                elif not member.isreg() or member.issparse():
                    faults.append(Fault(where, "link", "the member is a link or device, not a file", "Pack it again"))
                else:
                    stem, _, extension = path.name.partition(".")
                    key = (path.parent / stem).as_posix()
                    extension = extension.lower()
                    if f".{extension.rpartition('.')[2]}" in EXTENSIONS:
                        if key in pictures:
                            faults.append(Fault(where, "ambiguous", f"a second picture of the key {key}", "Rename it"))
                        else:
                            pictures[key] = (where, member.offset_data, member.size)
                    elif extension in ("txt", "json", "cls") and member.size <= TEXT_BYTES:
                        stream = tar.extractfile(member)
                        said.setdefault(key, {})[extension] = stream.read().decode("utf-8", "replace") if stream else ""
        # tarfile stops in silence at a header it cannot read; an archive that is whole ends with a block of zeros.
        with shard.open("rb") as raw:
            raw.seek(end)
            whole = raw.read(512) == bytes(512)
    except (tarfile.TarError, OSError, EOFError) as error:
        fix = "Shards are plain .tar files: pack it again, without compression"
        faults.append(Fault(shard.name, "damaged shard", str(error), fix))
        return
    if not whole:
        faults.append(Fault(shard.name, "truncated", f"the archive breaks off after {end:,} bytes", "Copy it again"))

    for key, (where, offset, size) in pictures.items():
        texts = said.get(key, {})
        details = _details(texts.get("json"), where, faults)
        captions = [*texts.get("txt", "").splitlines(), *_strings(details.get("text", details.get("caption")))]
        label = texts["cls"].strip() if "cls" in texts else details.get("label")
        records.append(
            Record(
                locator=where,
                fetch=partial(_read_at, shard, offset, size),
                captions=clean_captions(captions),
                label=None if label is None else str(label),
                licence=_string(details.get("licence", details.get("license"))),
                source=_string(details.get("source")),
                size=size,
                stamp=(*stamp, offset, size),
            )
        )
    for key in sorted(set(said) - set(pictures)):
        where = f"{shard.name}/{key}"
        faults.append(Fault(where, "caption orphaned", "no picture in the shard has this key", "Pack it again"))


def _details(text: str | None, where: str, faults: list[Fault]) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        details = json.loads(text)
    except ValueError as error:
        faults.append(Fault(where, "caption unreadable", f"its .json is not JSON ({error})", "Pack it again"))
        return {}
    return details if isinstance(details, dict) else {}


def _strings(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _read_at(path: Path, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


# ---- Hugging Face datasets on disk


def read_hugging_face(root: Path) -> Source:
    """The `Source` of a folder written by `datasets.save_to_disk`: its picture column, captions and labels."""
    try:
        import datasets
    except ImportError:
        raise MissingPackage("datasets", f"{root}, a Hugging Face dataset,") from None

    check_inside(root, *root.rglob("*"))
    try:
        table = datasets.load_from_disk(str(root))
    except Exception as error:  # Arrow, JSON and the file system each have their own
        raise DataError(
            f"{root} looks like a Hugging Face dataset and cannot be opened: {error}", "save it again"
        ) from error
    part = ""
    if isinstance(table, datasets.DatasetDict):
        part = "train" if "train" in table else str(next(iter(table), ""))
        if not part:
            raise DataError(f"{root} is a Hugging Face dataset without a split", "save it with at least a train split")
        others = sorted(str(name) for name in table if name != part)
        table = table[part]
    else:
        others = []

    features = table.features
    picture = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if picture is None:
        raise DataError(
            f"{root}: no column holds pictures (found {', '.join(features)})",
            "cast one with dataset.cast_column(NAME, datasets.Image()) and save it again",
        )
    raw = table.select_columns([picture]).cast_column(picture, datasets.Image(decode=False))
    text = next((name for name in ("text", "caption", "captions", "prompt") if name in features), None)
    label = next((name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)

    captions = table[text][:] if text else [None] * len(table)
    labels = table[label][:] if label else [None] * len(table)
    classes = tuple(features[label].names) if label else ()
    state = (root / part / "state.json").stat()
    stamp = (state.st_size, state.st_mtime_ns)
    records = [
        Record(
            locator=f"{part or 'row'}/{index}",
            fetch=partial(_cell, raw, index, picture),
            captions=clean_captions(_strings(caption)),
            label=None if number is None or number < 0 else classes[number],
            stamp=stamp,
        )
        for index, (caption, number) in enumerate(zip(captions, labels, strict=True))
    ]
    if not records:
        raise DataError(f"{root} is a Hugging Face dataset with no rows", LAYOUTS)
    remarks = (f"column {picture!r}", *([f"captions from {text!r}"] if text else []))
    remarks += (f"other splits left aside: {', '.join(others)}",) if others else ()
    return Source(root, "Hugging Face dataset", records, classes, (), remarks)


def _cell(table: Any, index: int, column: str) -> bytes:
    value = table[index][column]
    if value is None or value["bytes"] is None:
        # A path in place of bytes may point anywhere on the machine; nothing outside the folder is read.
        raise FileNotFoundError("the row holds a path and no bytes: embed the pictures before save_to_disk")
    return value["bytes"]


# ---- IDX, the format of MNIST: two zero bytes, a type, the number of dimensions, the dimensions, the values


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
