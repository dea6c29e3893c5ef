"""Checkpoints that survive a kill at any instruction, and know when they are damaged.

A checkpoint is a folder ``checkpoint-<step>`` of safetensors files and one ``state.json`` that holds the SHA-256 of
each, and of itself. It is written under another name, flushed to the disk and renamed, so a folder with that name is
complete. Then ``latest`` moves, and last of all the old folders are renamed and deleted. Reading verifies every hash
(safetensors itself has no checksum) and falls back to the newest checkpoint that is whole.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sfumato.bounded import parse_json, size_of
from sfumato.durable import DAMAGED, sha256, sync_folder, write_atomically, write_durably, writing
from sfumato.errors import UserError, shown

STATE = "state.json"
LARGEST_STATE = 8 * 2**20  # bytes


def folder_of(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [folder for folder in run.glob("checkpoint-*") if folder.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step of a checkpoint, from its folder's name."""
    return int(folder.name.removeprefix("checkpoint-"))


def save_checkpoint(run: Path, step: int, parts: dict[str, dict[str, Tensor]], state: dict, keep: int) -> Path:
    """Write ``checkpoint-<step>``, then move ``latest``, then remove all but the newest ``keep``.

    Args:
        run: the run folder.
        step: optimizer steps done.
        parts: file stem -> tensors by name.
        state: everything else that must be restored, as JSON.
        keep: checkpoints to keep, at least 1.

    Raises:
        UserError: a tensor is not finite, or the disk is full or cannot be written; older checkpoints are untouched.
    """
    final = folder_of(run, step)
    if final.exists():
        return final
    _check_finite(step, parts)
    with writing(f"the checkpoint of step {step}", run):
        aside = run / f".writing-{final.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        hashes: dict[str, str] = {}
        for stem, tensors in parts.items():
            data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
            write_durably(aside / f"{stem}.safetensors", data)
            hashes[f"{stem}.safetensors"] = sha256(data)
        record = {"step": step, **state, "sha256": hashes}
        hashes[STATE] = sha256(json.dumps(record).encode())
        write_durably(aside / STATE, json.dumps(record, indent=1).encode())
        sync_folder(aside)
        os.rename(aside, final)
        sync_folder(run)
        write_atomically(run / "latest", final.name.encode())
        for old in checkpoints(run)[:-keep]:
            shutil.rmtree(old.rename(run / f".removing-{old.name}"))
    return final


def _check_finite(step: int, parts: dict[str, dict[str, Tensor]]) -> None:
    def ok(stem: str, value: Tensor) -> bool:
        return stem in ("buffers", "best") or bool(torch.isfinite(value).all())  # a mask of attention is -inf

    bad = [f"{stem}/{name}" for stem, part in parts.items() for name, v in part.items() if not ok(stem, v)]
    if bad:
        raise UserError(
            f"after step {step}, {len(bad)} tensors are not finite, e.g. {bad[0]}; no checkpoint was written",
            fix="the last checkpoint is good; lower optimizer.lr, or use training.precision fp32, in another --out",
        )


def read_checkpoint(folder: Path, only: Sequence[str] = ()) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """State and parts of one checkpoint, or ``only`` the parts of those names.

    Raises:
        UserError: names the file that is missing, cut or changed.
    """
    name = STATE
    try:
        if size_of(folder / STATE) > LARGEST_STATE:
            raise ValueError(f"more than the limit of {LARGEST_STATE:,} bytes")
        state = parse_json((folder / STATE).read_bytes())
        hashes: dict[str, str] = state["sha256"]
        own = hashes.pop(STATE, None)  # None: written before version 0.1.0
        if own is not None and own != sha256(json.dumps(state).encode()):
            raise ValueError(DAMAGED)
        parts = {}
        for name, expected in hashes.items():
            if Path(name).name != name:
                raise ValueError("it names a file outside its folder")
            if only and Path(name).stem not in only:
                continue
            data = (folder / name).read_bytes()
            if sha256(data) != expected:
                raise ValueError(DAMAGED)
            parts[Path(name).stem] = load(data)
        del state["sha256"]
    except (OSError, UserError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{folder.name}/{shown(name)[1:-1]} is damaged or missing: {shown(str(error))[1:-1]}"
        ) from error
    return state, parts


def newest_whole(run: Path, report: Callable[[str], None]) -> tuple[dict, dict[str, dict[str, Tensor]]] | None:
    """The newest checkpoint that verifies, or None for a fresh run; damaged ones are reported and renamed.

    Raises:
        UserError: there are checkpoints, but none is whole; they are left as they are.
    """
    for unfinished in [*run.glob(".writing-*"), *run.glob(".removing-*")]:
        shutil.rmtree(unfinished)
    found, damaged = checkpoints(run), []
    for folder in reversed(found):
        try:
            whole = read_checkpoint(folder)
        except UserError as error:
            report(f"{error}; falling back to the checkpoint before it")
            damaged.append(folder)
            continue
        write_atomically(run / "latest", folder.name.encode())
        for bad in damaged:
            aside = bad.with_name(f"damaged-{bad.name}")
            shutil.rmtree(aside, ignore_errors=True)
            bad.rename(aside)
        return whole
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in {run} is whole", fix="start again in another folder with --out"
        )
    return None


class RunLock:
    """One process for each run folder. The kernel holds the lock, so it ends with its process, however that ends."""

    def __init__(self, run: Path) -> None:
        self.file = (run / "lock").open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with self.file:
                self.file.seek(0)
                owner = self.file.read().strip() or "unknown"
            raise UserError(
                f"{run} is in use by process {owner}", fix="wait for it, or choose another folder with --out"
            ) from error
        self.file.seek(0)
        self.file.truncate()
        self.file.write(str(os.getpid()))
        self.file.flush()

    def release(self) -> None:
        self.file.close()
