"""Where files are kept that can be made again."""

import pwd
import tempfile
from pathlib import Path

import pytest

from sfumato.errors import UserError
from sfumato.user_cache import user_cache


@pytest.mark.parametrize(("chosen", "folder"), [("/x/y", "/x/y/graphs"), (None, "/home/z/.cache/sfumato/graphs")])
def test_it_is_where_the_user_says_or_in_the_home(chosen, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/z")
    monkeypatch.delenv("SFUMATO_CACHE", raising=False)
    if chosen:
        monkeypatch.setenv("SFUMATO_CACHE", chosen)
    assert user_cache("graphs") == Path(folder)


@pytest.fixture
def homeless(monkeypatch, tmp_path) -> Path:
    """A user with neither $HOME nor an entry in the password file; the folder of temporary files."""

    def absent(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("SFUMATO_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", absent)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_it_is_a_folder_of_this_user_alone(homeless):
    folder = user_cache("graphs").parent

    assert folder.parent == homeless
    assert folder.stat().st_mode & 0o777 == 0o700
    assert user_cache("graphs").parent == folder


@pytest.mark.parametrize("trap", ["others may write", "a link"])
def test_without_a_home_a_folder_that_others_may_write_to_is_not_used(homeless, trap):
    folder = user_cache("graphs").parent
    if trap == "a link":
        folder.rmdir()
        (homeless / "elsewhere").mkdir()
        folder.symlink_to(homeless / "elsewhere")
    else:
        folder.chmod(0o777)
    with pytest.raises(UserError, match="SFUMATO_CACHE"):
        user_cache("graphs")


def test_the_home_of_somebody_unknown_is_told(homeless, monkeypatch):
    monkeypatch.setenv("SFUMATO_CACHE", "~/cache")
    with pytest.raises(UserError, match="SFUMATO_CACHE = '~/cache'"):
        user_cache("graphs")
