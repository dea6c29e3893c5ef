"""A million pictures: the cost of one more in memory and in calls of the file system."""

import os
import tracemalloc
from pathlib import Path

import pytest

from sfumato.data import open_source

PICTURES = 3000


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Names only: listing opens no file."""
    root = tmp_path_factory.mktemp("many")
    for i in range(PICTURES):
        (root / f"picture-{i:06}.png").touch()
    return root


def test_listing_asks_the_file_system_once_a_picture(many, monkeypatch):
    asked = []
    for name in ("stat", "lstat"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, original=original, **k: (asked.append(a[0]), original(*a, **k))[1])
    assert len(open_source(many).records) == PICTURES
    assert PICTURES <= len(asked) < 1.02 * PICTURES


def test_a_listed_picture_takes_less_than_600_bytes(many):
    open_source(many)  # imports
    tracemalloc.start()
    source = open_source(many)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source.records) == PICTURES
    assert kept / PICTURES < 600
