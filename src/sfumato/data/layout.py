"""The meaning of folders: a wrapper around the data, train beside test, a folder for each class, stray pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from sfumato.data import names
from sfumato.data.faults import DataError
from sfumato.data.records import shortened

MOST_STRAYS = 0.1  # largest share of pictures beside class folders; with more, the folders are not classes


@dataclass(frozen=True)
class Layout:
    """The meaning of the folders of a listing.

    Attributes:
        prefix: the folder that holds all that is used, "" or "pets/train/".
        aside: the folders of parts that are not used for training, with a slash at the end.
        strays: pictures that lie beside class folders or beside train and test.
        classes: whether the folders in `prefix` are classes.
        remarks: for people.
    """

    prefix: str
    aside: tuple[str, ...]
    strays: frozenset[str]
    classes: bool
    remarks: tuple[str, ...]

    def uses(self, key: str) -> bool:
        """Whether a file (by its key, see `names.key`) is in a part that is used."""
        return not key.startswith(self.aside)


def layout_of(root: Path, keys: Collection[str]) -> Layout:
    """The layout of pictures by their keys, relative names with slashes.

    Raises:
        DataError: there are parts to train and to test on beside other folders, or no single one to train on.
    """
    prefix, aside, strays, train = "", [], [], ""
    loose_above: list[str] = []  # beside a single folder: strays only if classes are below
    while True:
        loose, folders = _level(keys, len(prefix))
        if not folders:
            break
        if len(folders) > 1 and (part := _train(root, prefix, folders)):
            strays += loose
            aside += [f"{prefix}{folder}/" for folder in folders if folder != part]
            prefix = train = f"{prefix}{part}/"
        elif len(loose) > MOST_STRAYS * len(keys):
            break
        elif len(folders) > 1:
            strays += loose_above + loose
            return Layout(prefix, tuple(aside), frozenset(strays), True, _remarks(prefix, train, aside))
        else:
            loose_above += loose
            prefix += f"{next(iter(folders))}/"
        keys = [key for key in keys if key.startswith(prefix)]

    remarks = _remarks(prefix, train, aside)
    if len(folders) > 1:
        shown = shortened(sorted(folders))
        remarks += (
            f"the folders {shown} are no classes, for {len(loose):,} of {len(keys):,} pictures lie beside them",
        )
    return Layout(prefix, tuple(aside), frozenset(strays), False, remarks)


def _level(keys: Iterable[str], start: int) -> tuple[list[str], Counter[str]]:
    """The keys without a folder after `start` characters, and the folders of the others with how many are in each."""
    loose: list[str] = []
    folders: Counter[str] = Counter()
    for key in keys:
        slash = key.find("/", start)
        if slash < 0:
            loose.append(key)
        else:
            folders[key[start:slash]] += 1
    return loose, folders


def _train(root: Path, prefix: str, folders: Iterable[str]) -> str | None:
    """The folder to train on if all folders are parts of a data set; None if they are something else."""
    heads = {re.sub(r"(?<=[-_. ]).*", "", folder) for folder in folders}
    common = heads.pop() if len(heads) == 1 else ""  # "seg_" of seg_train and seg_test
    parts = {folder: names.part(folder[len(common) :]) for folder in folders}
    trains = [folder for folder, part in parts.items() if part == names.TRAIN]
    rests = [folder for folder, part in parts.items() if part == names.REST]
    rest = sorted(folder for folder, part in parts.items() if part is None)
    here = f"{root}/{prefix}".rstrip("/")
    if len(trains) == 1 and rests and not rest:
        return trains[0]
    if len(trains) > 1 and not rest:
        raise DataError(f"{here} holds several parts to train on: {shortened(sorted(trains))}", "give one of them")
    if not trains and not rest:
        raise DataError(
            f"{here} holds parts to test on, {shortened(sorted(rests))}, and none to train on",
            f"give the one to train on, e.g. {here}/{sorted(rests)[0]}, or call it train",
        )
    if trains and rests:
        raise DataError(
            f"{here} holds parts of a data set ({shortened(sorted(trains + rests))}) beside other folders "
            f"({shortened(rest)})",
            f"give the one to train on, e.g. {here}/{trains[0]}, or move the others away",
        )
    return None


def _remarks(prefix: str, train: str, aside: list[str]) -> tuple[str, ...]:
    left = ", ".join(folder.rstrip("/").rpartition("/")[2] for folder in sorted(aside))
    if train:
        return (f"from {train.rstrip('/')}, left aside: {left}",)
    return (f"in {prefix.rstrip('/')}",) if prefix else ()
