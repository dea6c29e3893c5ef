"""WebDataset shards: members of a .tar that share a key (the name to the first dot of its last part) are a sample."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from sfumato.data import names, texts
from sfumato.data.descriptions import CAPTION_KEYS, KEYS, Contradiction, with_captions, with_row
from sfumato.data.faults import LAYOUTS, DataError, Fault
from sfumato.data.records import Record, Source, count, order_classes, others

AGAIN = "Pack it again"
_INDEX = "__index__.json"  # of other tools
_LIMITS = {"json": texts.DETAILS_BYTES}  # of the other texts: CAPTION_BYTES


@dataclass
class _Found:
    """What is read of all shards."""

    column: str
    records: list[Record] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)  # by kind
    keys: set[str] = field(default_factory=set)  # of all JSON


@dataclass
class _Sample:
    picture: tuple[str, int, int] | None = None  # name, offset and length in the shard
    said: dict[str, bytes] = field(default_factory=dict)  # extension -> content


def read_shards(root: Path, shards: Iterable[str], faults: Iterable[Fault] = (), column: str = "") -> Source:
    """The `Source` of uncompressed .tar shards. Nothing is unpacked: pictures are read at their offset in the shard.

    Args:
        root: the folder; `shards` are names below it.
        faults: what was found before.
        column: the key of the samples' JSON whose value is the group.
    """
    shards = list(shards)
    found = _Found(column, faults=list(faults))
    for name in shards:
        _read(root / name, name, found)
    if not found.records and not found.faults:
        raise DataError(f"{count(len(shards), 'shard')} in {root}, and no picture in any of them", LAYOUTS)
    layout = f"WebDataset ({count(len(shards), 'shard')})"
    classes = order_classes(record.label for record in found.records)
    remarks = others(found.ignored, found.keys - {*KEYS, column})
    return Source(root, layout, found.records, classes, tuple(found.faults), remarks, tuple(sorted(found.keys)))


def _read(shard: Path, name: str, found: _Found) -> None:
    samples: dict[str, _Sample] = {}
    end = [0]
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in _members(tar, name, end, found):
                _sort_in(tar, member, name, samples, found)
        # tarfile stops in silence at a header it cannot read; an archive that is whole ends with a block of zeros.
        with shard.open("rb") as raw:
            raw.seek(end[0])
            whole = raw.read(512) == bytes(512)
        about = shard.stat()
    except (tarfile.TarError, OSError, EOFError) as error:
        fix = "Shards are plain .tar files: pack it again, without compression"
        found.faults.append(Fault(name, "damaged shard", str(error), fix))
        return
    if not whole:
        found.faults.append(Fault(name, "truncated", f"the archive breaks off after {end[0]:,} bytes", "Copy it again"))

    stamp = (about.st_size, about.st_mtime_ns)
    for sample in samples.values():
        if sample.picture is not None:
            _add(shard, stamp, sample, found)
    for key in sorted(key for key, sample in samples.items() if _is_orphan(key, sample)):
        found.faults.append(Fault(f"{name}/{key}", "caption orphaned", "no picture in the shard has this key", AGAIN))


def _members(tar: tarfile.TarFile, shard: str, end: list[int], found: _Found) -> Iterator[tarfile.TarInfo]:
    """The plain files of a shard, without hidden ones; `end[0]` becomes the end of the last one."""
    for member in tar:
        end[0] = member.offset_data + -(-member.size // 512) * 512 if member.isreg() else member.offset_data
        where, path = f"{shard}/{member.name}", PurePosixPath(member.name)
        if member.isdir():
            continue
        if path.is_absolute() or ".." in path.parts:
            found.faults.append(Fault(where, "link", "the member's name leads out of the archive", AGAIN))
        elif names.is_hidden(path.as_posix()) or path.name == _INDEX:
            continue
        elif not member.isreg() or member.issparse():
            found.faults.append(Fault(where, "link", "the member is a link or device, not a file", AGAIN))
        else:
            yield member


def _sort_in(
    tar: tarfile.TarFile, member: tarfile.TarInfo, shard: str, samples: dict[str, _Sample], found: _Found
) -> None:
    where, path = f"{shard}/{member.name}", PurePosixPath(names.key(member.name))
    stem, _, extension = path.name.partition(".")
    key, extension = (path.parent / stem).as_posix(), extension.lower()
    if names.is_picture(path.name):
        sample = samples.setdefault(key, _Sample())
        if sample.picture is None:
            sample.picture = (where, member.offset_data, member.size)
        else:
            fix = f"{AGAIN}: a key ends at the first dot of a name, so a dot may stand before the extension alone"
            found.faults.append(Fault(where, "ambiguous", f"a second picture of the key {key}", fix))
    elif extension == "cls" or f".{extension}" in (*names.CAPTIONS, names.DETAILS):
        said = samples.setdefault(key, _Sample()).said
        if extension in said:
            found.faults.append(Fault(where, "ambiguous", f"a second .{extension} of the key {key}", AGAIN))
        elif stream := tar.extractfile(member):
            said[extension] = stream.read(_LIMITS.get(extension, texts.CAPTION_BYTES) + 1)
    elif not names.is_about(path.name):
        found.ignored[names.extension(path.name) or names.NO_ENDING] += 1


def _is_orphan(key: str, sample: _Sample) -> bool:
    """Whether texts lack their picture; texts about the data, such as README.txt, need none."""
    about = any(names.is_about(f"{key}.{extension}") for extension in sample.said)
    return sample.picture is None and not about


def _add(shard: Path, stamp: tuple[int, int], sample: _Sample, found: _Found) -> None:
    assert sample.picture is not None
    where, offset, size = sample.picture
    fetch = partial(_read_at, shard, offset, size)
    record = Record(where, fetch, size=size, stamp=(*stamp, offset, size))
    extension = ""
    try:
        whole = set()
        for ending in names.CAPTIONS:
            if (extension := ending[1:]) in sample.said:
                text = texts.decode(sample.said[extension])
                whole.add(" ".join(text.split()))
                record = with_captions(record, text.splitlines())
        if (extension := "cls") in sample.said:
            record = with_row(record, {"label": texts.decode(sample.said["cls"]).strip()})
        if (extension := "json") in sample.said:
            row = texts.details(sample.said["json"])
            found.keys.update(row)
            record = with_row(record, _unsaid(row, whole), found.column)
    except ValueError as error:
        kind = "ambiguous" if isinstance(error, Contradiction) else "caption unreadable"
        found.faults.append(Fault(where, kind, f"its .{extension}: {error}", "Correct it, and pack the shard again"))
    found.records.append(record)


def _unsaid(row: dict, whole: set[str]) -> dict:
    """`row` without captions that repeat a whole text file.

    img2dataset writes both, so a text of several lines would come twice, once line by line.
    """
    return {
        key: value
        for key, value in row.items()
        if not (key in CAPTION_KEYS and isinstance(value, str) and " ".join(value.split()) in whole)
    }


def _read_at(path: Path, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
