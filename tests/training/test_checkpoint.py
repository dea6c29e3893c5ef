"""T1, T2, T11, T16: a checkpoint is whole or it is not there, and damage to it is always noticed."""

import errno
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from sfumato.errors import UserError
from sfumato.training import checkpoint
from sfumato.training.checkpoint import (
    RunLock,
    checkpoints,
    folder_of,
    newest_whole,
    read_checkpoint,
    save_checkpoint,
    write_atomically,
)

Parts = dict[str, dict[str, Tensor]]
Saver = Callable[[Path, int, Parts, dict, int], object]


def parts_of(step: int) -> Parts:
    """Tensors that all tell the step they are of."""
    return {
        "weights": {"a": torch.full((3,), float(step)), "b": torch.full((2, 2), float(step))},
        "ema-0": {"a": torch.full((3,), float(step))},
    }


def save_step(run: Path, step: int, saver: Saver = save_checkpoint, keep: int = 2) -> None:
    saver(run, step, parts_of(step), {"log_bytes": 100 * step, "seconds": step / 3}, keep)


def step_of(found: tuple[dict, Parts] | None) -> int:
    """The step of what was read; fails when its files are of different steps."""
    assert found is not None
    state, parts = found
    assert state == {"step": state["step"], "log_bytes": 100 * state["step"], "seconds": state["step"] / 3}
    told = {float(x) for tensors in parts.values() for v in tensors.values() for x in v.flatten()}
    assert parts.keys() == {"weights", "ema-0"} and told == {float(state["step"])}
    return state["step"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_step(folder, 1)
    save_step(folder, 2)
    return folder


# --- T1: damage ------------------------------------------------------------------------------------------------------


def damages(data: bytes) -> list[bytes]:
    """The file cut at every byte, and with every single bit flipped."""
    cuts = [data[:length] for length in range(len(data))]
    flips = [data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :] for i in range(len(data)) for bit in range(8)]
    return cuts + flips


def undetected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(damages done, damages that reading let pass); the files on the disk stay as they are."""
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    seen = dict(whole)
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen[path.name])
    done = missed = 0
    for name, data in whole.items():
        for damaged in damages(data):
            seen[name] = damaged
            done += 1
            try:
                read_checkpoint(folder)
                missed += 1
            except UserError as error:
                # Only what state.json says of another file can make that other file look wrong.
                assert f"{folder.name}/{name} " in str(error) or name == "state.json"
            except Exception as error:  # noqa: BLE001 - the parser's own, when no hash stopped it before
                assert "afetensor" in type(error).__name__, error
        seen[name] = data
    return done, missed


def test_every_cut_and_every_flipped_bit_of_a_checkpoint_is_detected(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, missed = undetected(folder_of(run, 2), monkeypatch)
    assert done > 5000
    assert missed == 0


def test_without_the_hashes_damage_would_go_unnoticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "sha256", lambda data: "no hash")
    save_step(run, 3)
    _, missed = undetected(folder_of(run, 3), monkeypatch)
    assert missed > 100


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(run: Path) -> None:
    chance = random.Random(5)
    faults = 0
    for name in ("weights.safetensors", "ema-0.safetensors", "state.json"):
        for _ in range(4):
            file = folder_of(run, 2) / name
            data = bytearray(file.read_bytes())
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            file.write_bytes(data)
            said: list[str] = []
            assert step_of(newest_whole(run, said.append)) == 1
            assert len(said) == 1 and "checkpoint-00000002/" in said[0] and "falling back" in said[0]
            assert (run / "latest").read_text() == "checkpoint-00000001"
            assert (run / "damaged-checkpoint-00000002").is_dir()  # kept for who wants to look
            save_step(run, 2)
            assert step_of(newest_whole(run, said.append)) == 2
            faults += len(said)
    assert faults == 12


def test_a_missing_file_counts_as_damage(run: Path) -> None:
    for name in ("weights.safetensors", "state.json"):
        (folder_of(run, 2) / name).unlink()
        with pytest.raises(UserError, match=f"checkpoint-00000002/{name}"):
            read_checkpoint(folder_of(run, 2))


def test_when_no_checkpoint_is_whole_the_run_stops_however_often_it_is_asked(run: Path) -> None:
    for step in (1, 2):
        (folder_of(run, step) / "ema-0.safetensors").write_bytes(b"")
    for _ in range(2):  # a second call must not take the folder for a new run
        with pytest.raises(UserError, match="none of the 2 checkpoints"):
            newest_whole(run, lambda text: None)


def test_a_checkpoint_without_a_hash_of_its_state_is_still_read(run: Path) -> None:
    """Runs begun before 0.1.0 have such checkpoints."""
    file = folder_of(run, 2) / "state.json"
    state = json.loads(file.read_text())
    del state["sha256"]["state.json"]
    file.write_text(json.dumps(state))
    assert step_of(newest_whole(run, lambda text: None)) == 2


def test_a_new_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_whole(tmp_path, lambda text: None) is None


def test_steps_sort_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_step(tmp_path, step)
    assert step_of(newest_whole(tmp_path, lambda text: None)) == 100_000_000


# --- T2: a kill at any primitive of a save --------------------------------------------------------------------------

PRIMITIVES = ("open", "mkdir", "fsync", "rename", "replace", "unlink", "rmdir")
CRASHED = 9


class Crashing:
    """Ends this process, as SIGKILL would, at its k-th moment: before and after every primitive, and inside a write."""

    def __init__(self, k: int) -> None:
        self.left = k
        for name in PRIMITIVES:
            setattr(os, name, self.around(getattr(os, name)))
        path_open = Path.open
        setattr(Path, "open", lambda *a, **k: self.file(path_open(*a, **k)))  # noqa: B010 - pyright knows its type

    def moment(self) -> None:
        if self.left == 0:
            os._exit(CRASHED)  # no handler, no `finally`, no flush of buffers
        self.left -= 1

    def around(self, primitive: Callable) -> Callable:
        def watched(*arguments: Any, **named: Any) -> Any:
            self.moment()
            result = primitive(*arguments, **named)
            self.moment()
            return result

        return watched

    def file(self, file: Any) -> Any:
        if not file.writable():
            return file
        write, crash = file.write, self.moment

        class Torn:
            def __enter__(self) -> Any:
                file.write = None
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                crash()
                write(data[: len(data) // 2])
                file.flush()
                crash()
                write(data[len(data) // 2 :])
                file.flush()
                crash()

            def flush(self) -> None:
                file.flush()

            def fileno(self) -> int:
                return file.fileno()

        return Torn()


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that was written, flushed or not; without the disk's share the crashes cost milliseconds."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def crashes_at(k: int, work: Callable[[], object]) -> bool:
    """Does ``work`` in a process that dies at its k-th moment; False when it ended before that."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            Crashing(k)
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, CRASHED), "the save failed by itself"
    return code == CRASHED


def complaint(run: Path, keep: int) -> str | None:
    """What is wrong with a run folder after a crash while step 3 was saved, or None."""
    for folder in checkpoints(run):
        try:
            read_checkpoint(folder)
        except UserError as error:
            return f"not complete: {error}"
    if not (run / (run / "latest").read_text()).is_dir():
        return "latest names nothing"
    said: list[str] = []
    try:
        step = step_of(newest_whole(run, said.append))
    except (AssertionError, UserError) as error:
        return f"cannot be read: {error}"
    if step not in (2, 3) or said:
        return f"neither old nor new: {step}, {said}"
    for later in (3, 4):
        save_step(run, later, keep=keep)
    if step_of(newest_whole(run, said.append)) != 4 or len(checkpoints(run)) != keep:
        return "the run does not go on"
    rest = {path.name for path in run.iterdir()} - {folder.name for folder in checkpoints(run)} - {"latest"}
    return f"left behind: {rest}" if rest else None


def crash_everywhere(saver: Saver, keep: int, template: Path, tmp_path: Path) -> Iterator[str | None]:
    """The complaint after a crash at each moment of saving step 3 in turn."""
    for k in range(10_000):
        run = Path(shutil.copytree(template, tmp_path / f"crash-{k}"))
        crashed = crashes_at(k, lambda run=run: save_step(run, 3, saver, keep))
        if not crashed:
            return
        yield complaint(run, keep)
        shutil.rmtree(run)


@pytest.mark.usefixtures("unflushed")
@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_at_any_moment_of_a_save_leaves_the_old_or_the_new_whole(keep: int, run: Path, tmp_path: Path) -> None:
    complaints = list(crash_everywhere(save_checkpoint, keep, run, tmp_path))
    assert len(complaints) >= 40
    assert set(complaints) == {None}


def in_place(run: Path, step: int, parts: Parts, state: dict, keep: int) -> None:
    folder = folder_of(run, step)
    folder.mkdir()
    _write_files(folder, step, parts, state)
    write_atomically(run / "latest", folder.name.encode())
    _remove_old(run, keep)


def renaming_too_early(run: Path, step: int, parts: Parts, state: dict, keep: int) -> None:
    aside = run / ".writing-early"
    aside.mkdir()
    aside.rename(folder_of(run, step))
    in_place_folder = folder_of(run, step)
    _write_files(in_place_folder, step, parts, state)
    write_atomically(run / "latest", in_place_folder.name.encode())
    _remove_old(run, keep)


def removing_first(run: Path, step: int, parts: Parts, state: dict, keep: int) -> None:
    _remove_old(run, 1)
    shutil.rmtree(checkpoints(run)[0])
    save_checkpoint(run, step, parts, state, keep)


def moving_latest_first(run: Path, step: int, parts: Parts, state: dict, keep: int) -> None:
    write_atomically(run / "latest", folder_of(run, step).name.encode())
    save_checkpoint(run, step, parts, state, keep)


def removing_in_place(run: Path, step: int, parts: Parts, state: dict, keep: int) -> None:
    save_checkpoint(run, step, parts, state, 100)
    _remove_old(run, keep)


def _write_files(folder: Path, step: int, parts: Parts, state: dict) -> None:
    hashes = {}
    for stem, tensors in parts.items():
        data = save(tensors)
        (folder / f"{stem}.safetensors").open("wb").__enter__().write(data)
        hashes[f"{stem}.safetensors"] = checkpoint.sha256(data)
    record = json.dumps({"step": step, **state, "sha256": hashes}).encode()
    (folder / "state.json").open("wb").__enter__().write(record)


def _remove_old(run: Path, keep: int) -> None:
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)


@pytest.mark.usefixtures("unflushed")
@pytest.mark.parametrize(
    "saver", [in_place, renaming_too_early, removing_first, moving_latest_first, removing_in_place]
)
def test_a_saver_that_is_not_atomic_is_caught(saver: Saver, run: Path, tmp_path: Path) -> None:
    assert any(crash_everywhere(saver, 2, run, tmp_path))


def test_everything_is_on_the_disk_before_it_gets_its_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of power keeps only what was flushed: files, then their folder, then the rename, then its folder."""
    done: list[str] = []
    names = {}

    def fsync(handle: int) -> None:
        done.append(f"flush {names.get(os.fstat(handle).st_ino) or os.readlink(f'/proc/self/fd/{handle}')}")

    def move(kind: str, original: Callable) -> Callable:
        def moved(source: Path, target: Path) -> None:
            done.append(f"{kind} {Path(source).name} {Path(target).name}")
            original(source, target)

        return moved

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", move("move", os.rename))
    monkeypatch.setattr(os, "replace", move("move", os.replace))
    save_step(run, 3)
    aside, final = f"{run}/.writing-checkpoint-00000003", "checkpoint-00000003"
    assert done == [
        *(f"flush {aside}/{name}" for name in ("weights.safetensors", "ema-0.safetensors", "state.json")),
        f"flush {aside}",
        f"move .writing-{final} {final}",
        f"flush {run}",
        f"flush {run}/.latest.new",
        "move .latest.new latest",
        f"flush {run}",
        "move checkpoint-00000001 .removing-checkpoint-00000001",
    ]


# --- T11, T12, T16 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primitive", ["fsync", "rename", "replace", "mkdir"])
def test_a_full_disk_is_told_in_words_and_costs_no_checkpoint(
    primitive: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as fault:
        fault.setattr(os, primitive, full)
        with pytest.raises(UserError, match=r"checkpoint of step 3 .*No space left on device") as told:
            save_step(run, 3)
    assert "free some space" in told.value.fix
    assert step_of(newest_whole(run, lambda text: None)) in ((2, 3) if primitive == "replace" else (2,))
    save_step(run, 3)
    assert step_of(newest_whole(run, lambda text: None)) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_saved(bad: float, run: Path) -> None:
    parts = parts_of(3)
    parts["ema-0"]["a"][1] = bad
    with pytest.raises(UserError, match="ema-0/a") as told:
        save_checkpoint(run, 3, parts, {}, 2)
    assert "step 3" in str(told.value)
    assert step_of(newest_whole(run, lambda text: None)) == 2


def test_a_second_process_is_refused_and_told_the_first(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        try:
            lock = RunLock(tmp_path)
            (tmp_path / "ready").touch()
            time.sleep(60)
            lock.release()
        finally:
            os._exit(1)
    try:
        while not (tmp_path / "ready").exists():
            time.sleep(0.005)
        for _ in range(2):
            with pytest.raises(UserError, match=f"in use by process {process}\n"):
                RunLock(tmp_path)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert (tmp_path / "lock").read_text() == str(process)  # stale: its process is gone
    lock = RunLock(tmp_path)
    assert (tmp_path / "lock").read_text() == str(os.getpid())
    lock.release()
    RunLock(tmp_path).release()
