"""What can be wrong with data, and how it is reported.

A *fault* is a file that cannot be used as it is; it is never skipped in silence. A *note* is a conversion that loses
nothing a person would miss (palette, alpha on white, EXIF rotation, grey): it is done, counted and reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sfumato.errors import UserError

LAYOUTS = """\
Sfumato reads any of these layouts:
  flat folder      pictures/cat_1.png  pictures/cat_2.jpg  ...
  class folders    pictures/cat/1.png  pictures/dog/1.png  ...     (the folder's name is the class)
  caption files    pictures/cat_1.png  pictures/cat_1.txt  ...     (same stem; .txt, .caption or .json)
  metadata.jsonl   pictures/metadata.jsonl, a line a picture: {"file_name": "cat_1.png", "text": "a grey cat"}
  metadata.csv     pictures/metadata.csv with the head file_name,text (or file_name,label)
  WebDataset       shards/000000.tar  shards/000001.tar ...        (members 0001.png, 0001.txt or 0001.json or 0001.cls)
  Hugging Face     a folder written by datasets.save_to_disk
  IDX              train-images-idx3-ubyte(.gz) and train-labels-idx1-ubyte(.gz)
  arrays           signals/1.npy  signals/2.npy ...  (.npy, .npz, .zarr), or one file whose first axis is the samples
train beside test or val: train is read. A folder around all of this changes nothing."""


@dataclass(frozen=True)
class Fault:
    """One unusable file: `kind` is a word or two to count by, `reason` says what was found, `fix` what to do."""

    path: str
    kind: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.kind}: {self.reason}. {self.fix}"


class DataError(UserError):
    """Data that cannot be trained on: `message` says why, `fix` what to do, `faults` names the files at fault."""

    def __init__(self, message: str, fix: str = "", faults: Iterable[Fault] = ()) -> None:
        super().__init__(message, fix)
        self.faults = tuple(faults)


def printable(name: str) -> str:
    """`name` with control characters and lone surrogates escaped, so that no file name can garble a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def tally(kinds: Iterable[str]) -> str:
    """["alpha", "palette", "alpha"] -> "alpha 2, palette 1", most frequent first."""
    counts = Counter(kinds)
    return ", ".join(f"{kind} {counts[kind]:,}" for kind in sorted(counts, key=lambda k: (-counts[k], k)))


def listing(faults: Iterable[Fault], most: int = 20) -> str:
    """The faults, one on each line, cut after `most` with a count of the rest."""
    faults = list(faults)
    lines = [f"  {fault}" for fault in faults[:most]]
    if len(faults) > most:
        lines.append(f"  ... and {len(faults) - most:,} more")
    return "\n".join(lines)
