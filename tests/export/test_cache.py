"""The cache returns what was made: nothing stale, nothing damaged, and not without a limit."""

import os
from pathlib import Path

import pytest

from sfumato.errors import UserError
from sfumato.export import cache as module
from sfumato.export.cache import kept


@pytest.fixture
def folder(cache) -> Path:
    cache.empty()
    return cache.folder


def once() -> bytes:
    raise AssertionError("it was kept, and is made again")


def test_what_was_made_is_kept(folder):
    assert kept("a", lambda: b"1") == b"1"
    assert kept("a", once) == b"1"


def test_what_is_made_of_something_else_is_another(folder):
    kept("a", lambda: b"1")
    assert kept("b", lambda: b"2") == b"2"
    assert kept("a", once) == b"1"


def test_a_damaged_file_is_made_again(folder):
    kept("a", lambda: b"1")
    (file,) = folder.iterdir()
    file.write_bytes(b"")

    assert kept("a", lambda: b"2") == b"2"
    assert kept("a", once) == b"2"
    assert len(list(folder.iterdir())) == 1


def test_what_was_not_used_for_longest_is_deleted(folder, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    kept("a", lambda: b"1")
    kept("b", lambda: b"2")
    for age, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        os.utime(file, (age, age))  # b is older than a
    kept("c", lambda: b"3")

    assert len(list(folder.iterdir())) == 2
    kept("a", once)
    assert kept("b", lambda: b"4") == b"4"


def test_a_cache_that_cannot_be_written_is_told(cache, tmp_path):
    (tmp_path / "file").write_text("")
    cache.folder = tmp_path / "file" / "graphs"
    with pytest.raises(UserError, match="cannot be written") as caught:
        kept("a", lambda: b"1")
    assert "SFUMATO_CACHE" in caught.value.fix
