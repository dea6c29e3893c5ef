"""What happens to faults: "stop", "skip" or "quarantine".

stop (the default) names every bad file and ends. skip leaves bad files out, but ends if they are more than 1 % of the
pictures, because that is a sign of a broken copy and not of a stray file. quarantine moves bad files out of the data
folder for inspection, and goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sfumato.data import names
from sfumato.data.faults import LAYOUTS, DataError, Fault, listing, printable, tally
from sfumato.data.listing import MARKER
from sfumato.data.records import Source, count
from sfumato.durable import write_durably

POLICIES = ("stop", "skip", "quarantine")
MOST_SKIPPED = 0.01


def enforce(policy: str, source: Source, usable: int, faults: list[Fault]) -> None:
    """Raise a `DataError` that names all `faults` if `policy` does not allow them beside `usable` pictures."""
    if not faults:
        return
    kinds = tally(fault.kind for fault in faults)
    said = f"{source.root}: {count(len(faults), 'fault')} ({kinds}):\n{listing(faults)}"
    if usable == 0:
        raise DataError(f"{said}\nno usable picture is left", LAYOUTS, faults)
    if policy == "stop":
        layouts = f".\n{LAYOUTS}" if any(fault.kind.startswith("caption") for fault in faults) else ""
        raise DataError(
            said,
            f"repair them, or set data.policy to skip (leave them out, up to {MOST_SKIPPED:.0%} of the pictures) or to "
            f"quarantine (move them aside){layouts}",
            faults,
        )
    share = len(faults) / (usable + len(faults))
    if policy == "skip" and share > MOST_SKIPPED:
        raise DataError(
            f"{said}\n{share:.1%} would be skipped, limit {MOST_SKIPPED:.0%}: so many faults mean a broken copy",
            "copy the data again, or set data.policy to quarantine, which moves them aside",
            faults,
        )


def quarantine(source: Source, faults: list[Fault], folder: Path) -> None:
    """Move the files at fault to `folder`, keeping their relative names. Members of a container stay there."""
    moved = []
    for fault in faults:
        if not _loose(source.root, fault.path):
            continue
        path = source.root / fault.path
        for each in [path, *_captions_of(source, path)]:  # a picture and its caption files stay together
            target = folder / _below(source, each)
            target.parent.mkdir(parents=True, exist_ok=True)
            while target.exists() or target.is_symlink():  # from an earlier run: keep both
                target = target.with_name(target.name + "_")
            shutil.move(each, target)  # a link is moved itself, never what it points to
            moved.append({**asdict(fault), "moved_to": str(target.relative_to(folder))})
    if moved:
        write_durably(folder / MARKER, "")
        lines = b"".join(json.dumps(entry, sort_keys=True).encode("ascii") + b"\n" for entry in moved)
        with (folder / "quarantine.jsonl").open("ab") as log:
            log.write(lines)


def _captions_of(source: Source, path: Path) -> list[Path]:
    """The caption files of a picture that belong to no other picture."""
    if not names.is_picture(path.name):
        return []
    stem = names.stem(names.key(path.name))
    beside = [each for each in path.parent.iterdir() if each != path]
    if any(names.is_picture(each.name) and names.stem(names.key(each.name)) == stem for each in beside):
        return []
    endings = (*names.CAPTIONS, names.DETAILS)
    return [
        each
        for each in beside
        if names.extension(each.name) in endings
        and names.stem(names.key(each.name)) in (stem, names.key(path.name))
        and _loose(source.root, str(_below(source, each)))
    ]


def _below(source: Source, path: Path) -> Path:
    return path.relative_to(source.root)


def _loose(root: Path, name: str) -> bool:
    """Whether `name` is a file (or link) of its own, inside `root`."""
    path = root / name
    inside = path.parent.resolve().is_relative_to(root.resolve())
    return inside and ".." not in Path(name).parts and (path.is_symlink() or path.is_file())


def check_enough(source: Source, rows: list[dict[str, Any]]) -> None:
    """Raise a `DataError` for fewer than two distinct pictures."""
    distinct = len({row["sha256"] for row in rows})
    if distinct >= 2:
        return
    if len(rows) == 1:
        words = "one picture is not enough to train on: a model would learn it by heart"
    else:
        words = f"all {len(rows):,} pictures are the same file ({printable(rows[0]['path'])}, ...)"
    raise DataError(f"{source.root}: {words}", f"add different pictures.\n{LAYOUTS}")
