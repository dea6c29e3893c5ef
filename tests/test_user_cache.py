"""Where things are kept that can be made again."""

from pathlib import Path

import pytest

from sfumato.user_cache import user_cache


@pytest.mark.parametrize(("chosen", "folder"), [("/x/y", "/x/y/graphs"), (None, "/home/z/.cache/sfumato/graphs")])
def test_it_is_where_the_user_says_or_in_his_home(chosen, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/z")
    monkeypatch.delenv("SFUMATO_CACHE", raising=False)
    if chosen:
        monkeypatch.setenv("SFUMATO_CACHE", chosen)
    assert user_cache("graphs") == Path(folder)
