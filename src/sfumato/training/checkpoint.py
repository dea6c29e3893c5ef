"""Checkpoints that survive a kill at any instruction, and know when they are damaged.

A checkpoint is a folder ``checkpoint-<step>`` of safetensors files and one ``state.json`` that holds the SHA-256 of
each. It is written aside, flushed to the disk and renamed, so a folder with that name is complete; ``latest`` moves
after that, and old folders go last. Reading verifies every hash (safetensors itself has no checksum) and falls back
to the newest checkpoint that is whole.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from sfumato.errors import UserError

STATE = "state.json"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Makes the names in a folder durable: a rename is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """The file is the old one or the new one, whenever the power goes."""
    aside = path.with_name(f".{path.name}.new")
    _write(aside, data)
    os.replace(aside, path)
    _sync(path.parent)


def folder_of(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoint-????????"))


def save_checkpoint(run: Path, step: int, parts: dict[str, dict[str, Tensor]], state: dict, keep: int) -> Path:
    """Writes ``checkpoint-<step>``, then moves ``latest``, then removes all but the newest ``keep``.

    Args:
        run: the run folder.
        step: optimizer steps done.
        parts: file stem -> tensors by name.
        state: what else must come back, as JSON.
        keep: checkpoints to keep, at least 1.

    Raises:
        UserError: the disk is full or cannot be written; the older checkpoints are untouched.
    """
    final = folder_of(run, step)
    if final.exists():
        return final
    aside = run / f".writing-{final.name}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        hashes = {}
        for stem, tensors in parts.items():
            data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
            _write(aside / f"{stem}.safetensors", data)
            hashes[f"{stem}.safetensors"] = sha256(data)
        _write(aside / STATE, json.dumps({"step": step, **state, "sha256": hashes}, indent=1).encode())
        _sync(aside)
        os.rename(aside, final)
        _sync(run)
        write_atomically(run / "latest", final.name.encode())
    except OSError as error:
        raise UserError(
            f"the checkpoint of step {step} could not be written to {run}: {error.strerror}",
            fix="free some space or choose another folder with --out; the same command goes on from the last checkpoint",
        ) from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def read_checkpoint(folder: Path) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """State and parts of one checkpoint.

    Raises:
        UserError: names the file that is missing, cut or changed.
    """
    try:
        state = json.loads((folder / STATE).read_bytes())
        hashes: dict[str, str] = state.pop("sha256")
        parts = {}
        for name, expected in hashes.items():
            data = (folder / name).read_bytes()
            if sha256(data) != expected:
                raise UserError(f"{folder.name}/{name} is damaged: its SHA-256 is not the recorded one")
            parts[Path(name).stem] = load(data)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder.name}/{STATE} or a file it names is damaged or missing ({error})") from error
    return state, parts


def newest_whole(run: Path, report: Callable[[str], None]) -> tuple[dict, dict[str, dict[str, Tensor]]] | None:
    """The newest checkpoint that verifies, or None for a fresh run; every damaged one is reported and set aside.

    Raises:
        UserError: there are checkpoints, but none is whole.
    """
    for torn in run.glob(".writing-*"):
        shutil.rmtree(torn)
    found = checkpoints(run)
    for folder in reversed(found):
        try:
            return read_checkpoint(folder)
        except UserError as error:
            report(f"{error}; falling back to the checkpoint before it")
            folder.rename(folder.with_name(f"damaged-{folder.name}"))
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in {run} is whole", fix="start again in another folder with --out"
        )
    return None


class RunLock:
    """One process a run folder. The lock is the kernel's, so it ends with its process, however that ends."""

    def __init__(self, run: Path) -> None:
        self.path = run / "lock"
        self.file = self.path.open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.seek(0)
            raise UserError(
                f"{run} is in use by process {self.file.read().strip() or 'unknown'}",
                fix="wait for it, or choose another folder with --out",
            ) from error
        self.file.seek(0)
        self.file.truncate()
        self.file.write(str(os.getpid()))
        self.file.flush()

    def release(self) -> None:
        self.file.close()
