"""Pages on the disk: whole, and never over a page of somebody else."""

import pytest

from sfumato.errors import UserError
from sfumato.page import PAGE, folder, page, write


def test_a_page_that_sfumato_did_not_write_is_not_replaced(tmp_path):
    (tmp_path / PAGE).write_text("<html>my own page, made with sfumato</html>")
    with pytest.raises(UserError, match="Sfumato did not write"):
        folder(tmp_path)
    assert "my own page" in (tmp_path / PAGE).read_text()


def test_a_report_does_not_go_into_a_folder_of_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    folder(tmp_path)
    (tmp_path / "moons.PNG").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"Sfumato did not write .*moons\.PNG"):
        folder(tmp_path)


def test_a_page_of_ours_is_replaced(tmp_path):
    for title in ("first", "second"):
        folder(tmp_path)
        write(tmp_path, page(title, "", []), [])
    assert "<title>second</title>" in (tmp_path / PAGE).read_text()
    assert [file.name for file in tmp_path.iterdir()] == [PAGE]
