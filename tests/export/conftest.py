"""Graphs take seconds to make, so the tests of a run share what they make, in a cache of their own."""

import os
from pathlib import Path

import pytest

from sfumato.export import cache as module

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # also where a test loads it itself


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("graphs")


class Cache:
    """Where graphs are kept; `empty` gives a test one of its own."""

    def __init__(self, monkeypatch, shared: Path, own: Path) -> None:
        self.folder, self.own = shared, own
        monkeypatch.setattr(module, "user_cache", lambda part: self.folder)

    def empty(self) -> None:
        self.folder = self.own


@pytest.fixture(autouse=True)
def cache(shared_folder, tmp_path, monkeypatch) -> Cache:
    return Cache(monkeypatch, shared_folder, tmp_path / "graphs")
