"""Files that are whole, on disks that are full."""

import errno
import os
import resource
import signal

import numpy as np
import pytest

from sfumato import durable
from sfumato.durable import naming, write_array, write_atomically, write_durably, write_new


def test_a_new_array_has_all_its_room_before_it_is_written_to(tmp_path):
    array = write_array(tmp_path / "a.npy", np.uint8, (300, 1000))

    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 300_000
    array[:] = 7
    array.flush()
    assert (np.load(tmp_path / "a.npy") == 7).all()


@pytest.mark.parametrize("promises", [True, False])
def test_an_array_that_the_disk_has_no_room_for_is_an_error_and_no_bus_error(promises, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def unable(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", full if promises else unable)
    if not promises:
        monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.npy"):
        write_array(tmp_path / "a.npy", np.uint8, (300, 1000))
    assert not (tmp_path / "a.npy").exists()


def test_where_room_cannot_be_promised_it_is_filled(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(durable, "BLOCK", 1000)
    array = write_array(tmp_path / "a.npy", np.float32, (3, 777))
    array[1] = 5
    array.flush()
    assert np.load(tmp_path / "a.npy").sum() == 5 * 777
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 4 * 3 * 777


def test_a_file_that_grows_too_large_is_named(tmp_path):
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match=r"large\.bin"):
            write_durably(tmp_path / "large.bin", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_the_name_that_an_error_has_is_kept(tmp_path):
    with pytest.raises(OSError, match="'first'"), naming(tmp_path):
        raise OSError(errno.EIO, "Input/output error", "first")


def test_a_new_file_is_numbered_where_its_name_is_taken_by_other_content(tmp_path):
    path = tmp_path / "new" / "a.png"
    assert [write_new(path, content).name for content in (b"1", b"2", b"1", b"3", b"2")] == [
        *("a.png", "a-2.png", "a.png", "a-3.png", "a-2.png")
    ]
    (tmp_path / "b.png").mkdir()
    (tmp_path / "b-2.png").symlink_to("nowhere")
    assert write_new(tmp_path / "b.png", b"1").name == "b-3.png"
    assert sorted(file.name for file in path.parent.iterdir()) == ["a-2.png", "a-3.png", "a.png"]


def test_a_new_file_is_numbered_without_hard_links_too(tmp_path, monkeypatch):
    def refused(*arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(durable.os, "link", refused)
    assert [write_new(tmp_path / "a.png", content).name for content in (b"1", b"2", b"1")] == [
        *("a.png", "a-2.png", "a.png")
    ]


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "写" * 83 + ".png"])
def test_names_as_long_as_the_disk_allows_are_written(tmp_path, name):
    write_atomically(tmp_path / name, b"1")
    assert write_new(tmp_path / name, b"1") == tmp_path / name
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("write", [write_atomically, write_new])
def test_what_cannot_be_written_to_its_end_leaves_nothing(tmp_path, monkeypatch, write):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a.png", b"1")
    assert list(tmp_path.iterdir()) == []
