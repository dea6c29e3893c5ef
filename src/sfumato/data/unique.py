"""A prepared data set without its near-duplicates: the first picture of every group stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from sfumato.codecs.codec import Codec
from sfumato.data import manifest
from sfumato.data.dataset import FAULTS, INDEX, ROWS, Dataset, beside_file
from sfumato.data.duplicates import Duplicates, find_duplicates
from sfumato.data.faults import DataError
from sfumato.data.listing import MARKER
from sfumato.data.preparation import put_in_place, writing_aside
from sfumato.data.records import count
from sfumato.durable import write_array, write_durably

FOUND = "duplicates.json"
VERSION = 1  # of the limits in `sfumato.data.duplicates`


def unique(data: Dataset, codec: Codec, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The data set with only the first of every group of near-duplicates, and the list of groups beside it.

    Args:
        data: as `prepare` made it; it stays as it is.
        codec: of the data, fitted to them.
        progress: called with (pictures compared, pictures in all).

    Returns:
        the data set in the folder "<folder>-unique", made now, or found there if nothing changed since.

    Raises:
        MissingPackage: faiss, of the extra `eval`, is not installed.
        UserError: the pictures are smaller than 12 pixels.
    """
    folder = data.folder.with_name(f"{data.folder.name}-unique")
    signature = hashlib.sha256(f"{VERSION} {data.index['signature']} {data.manifest_hash}".encode()).hexdigest()
    try:
        ready = Dataset(folder)
        if ready.index.get("signature") == signature:
            return ready
    except (OSError, ValueError, KeyError, DataError):
        pass  # absent, or damaged: it is made anew
    found = find_duplicates(data, codec, progress)
    _write(data, found, signature, folder)
    return Dataset(folder)


def _write(data: Dataset, found: Duplicates, signature: str, folder) -> None:
    keep, rows = found.keep(), data.manifest
    encoded = manifest.encode(rows[i] for i in keep)
    spare = count(len(data) - len(keep), "near-duplicate")
    with writing_aside(folder) as aside:
        pixels = write_array(aside / ROWS, data.rows.dtype, (len(keep), *data.rows.shape[1:]))
        for start in range(0, len(keep), 4096):
            pixels[start : start + 4096] = data.rows[keep[start : start + 4096]]
        pixels.flush()
        for name, rows in data.beside.items():
            kept = write_array(aside / beside_file(name), rows.dtype, (len(keep), *rows.shape[1:]))
            for start in range(0, len(keep), 4096):
                kept[start : start + 4096] = rows[keep[start : start + 4096]]
            kept.flush()
        write_durably(aside / manifest.NAME, encoded)
        write_durably(aside / FAULTS, json.loads((data.folder / FAULTS).read_text(encoding="utf-8")))
        write_durably(aside / MARKER, "")
        found.save(aside / FOUND)
        index = {
            **data.index,
            "signature": signature,
            "manifest_hash": hashlib.sha256(encoded).hexdigest(),
            "found": f"{data.index['found']}; {spare} left out (see {FOUND})",
            "rows": len(keep),
            "duplicates": 0,
        }
        write_durably(aside / INDEX, index)
        put_in_place(aside, folder)
