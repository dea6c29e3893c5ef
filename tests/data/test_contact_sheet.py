"""The contact sheet has the size that its docstring gives, the pictures, and the words."""

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main as cli
from sfumato.codecs.png import png
from sfumato.data import DataError, contact_sheet, open_source, prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sheet import GAP, LINE, MARGIN


def expected_size(lines: int, columns: int, rows: int, tile: int) -> tuple[int, int]:
    width = 2 * MARGIN + columns * (tile + GAP) - GAP
    return width, MARGIN + lines * (LINE + 4) + GAP + rows * (tile + 2 * LINE + GAP) + MARGIN - GAP


@pytest.fixture
def source(tmp_path, folder):
    folder(tmp_path / "pictures", [f"{index:02d}.png" for index in range(20)])
    for index in range(20):
        (tmp_path / "pictures" / f"{index:02d}.txt").write_text(
            f"a rather long caption number {index} that must be cut"
        )
    return open_source(tmp_path / "pictures")


def test_the_sheet_has_the_promised_size_for_a_source_and_for_a_dataset(source, tmp_path):
    dataset = prepare(source, Pictures(32), cache_dir=tmp_path / "ready")
    for data in (source, dataset):
        lines = len(data.describe().splitlines())
        for columns, rows, tile in ((8, 6, 96), (3, 2, 64), (1, 1, 16)):
            sheet = contact_sheet(data, columns, rows, tile)
            assert sheet.mode == "RGB" and sheet.size == expected_size(lines, columns, rows, tile)


def test_the_sheet_shows_the_pictures_and_is_the_same_each_time(source, tmp_path):
    dataset = prepare(source, Pictures(32), cache_dir=tmp_path / "ready")
    sheet = np.asarray(contact_sheet(dataset, 20, 1, 32))
    assert np.array_equal(sheet, np.asarray(contact_sheet(dataset, 20, 1, 32)))
    top = MARGIN + len(dataset.describe().splitlines()) * (LINE + 4) + GAP
    for index in range(20):  # twenty cells for twenty pictures: all of them, in order
        left = MARGIN + index * (32 + GAP)
        assert np.array_equal(sheet[top : top + 32, left : left + 32], dataset.rows[index])
    assert (sheet[top + 32 :, :] < 100).any()  # words below
    assert not np.array_equal(sheet[:, :200], np.asarray(contact_sheet(dataset, 4, 1, 32, seed=1))[:, :200])


def test_bad_pictures_are_red_and_grey_ones_are_shown(tmp_path, folder):
    root = folder(tmp_path / "pictures", ["a.png", "b.png"])
    (root / "b.png").write_text("text")
    sheet = np.asarray(contact_sheet(open_source(root), 2, 1, 32))
    assert (sheet == (0xB3, 0x26, 0x1E)).all(-1).sum() == 32 * 32

    (root / "b.png").unlink()
    folder(root, ["a.png", "c.png"])
    grey = contact_sheet(prepare(open_source(root), Pictures(32, 1), tmp_path / "ready"), 2, 1, 32)
    assert grey.mode == "RGB"


def test_impossible_sheets_are_refused(source, tmp_path):
    for columns, rows, tile in ((0, 6, 96), (8, 0, 96), (8, 6, 4)):
        with pytest.raises(ValueError, match="at least"):
            contact_sheet(source, columns, rows, tile)
    empty = type(source)(source.root, "flat folder", [])
    with pytest.raises(DataError, match="nothing to show"):
        contact_sheet(empty)


def test_with_a_size_the_sheet_shows_the_pixels_that_a_model_would_see(source, tmp_path):
    """The sheet of a folder at a size is that of the data set prepared at it."""
    dataset = prepare(source, Pictures(8), cache_dir=tmp_path / "ready")
    top = MARGIN + len(source.describe().splitlines()) * (LINE + 4) + GAP
    sheet = np.asarray(contact_sheet(source, 20, 1, 32, size=8))[top : top + 32]
    for index in range(20):
        left = MARGIN + index * (32 + GAP)
        enlarged = np.asarray(dataset.rows[index]).repeat(4, 0).repeat(4, 1)
        assert np.array_equal(sheet[:, left : left + 32], enlarged)
    assert not np.array_equal(np.asarray(contact_sheet(source, 20, 1, 32))[top : top + 32], sheet)


@pytest.mark.parametrize("shape", [(30,), (2, 40), (9, 12, 3), (6, 7, 8)])
def test_a_folder_of_arrays_is_shown_and_scanned(shape, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for i in range(6):
        np.save(tmp_path / "data" / f"{i}.npy", np.random.default_rng(i).normal(40, 9, shape).astype(np.float32))
    (tmp_path / "data" / "broken.npy").write_bytes(b"no array")
    out = tmp_path / "sheet.png"
    assert cli.main(["data", "show", str(tmp_path / "data"), "--rows", "1", "--out", str(out)]) == 0
    sheet = np.asarray(Image.open(out))
    assert (sheet == (0xB3, 0x26, 0x1E)).all(-1).sum() == 96 * 96  # the broken one
    tile = sheet[-(96 + 2 * LINE + MARGIN) :][:96, MARGIN + 96 + GAP :][:, :96]
    assert tile.std() > 10
    assert cli.main(["data", "scan", str(tmp_path / "data")]) == 1
    assert "usable pictures: 6; faults: 1" in capsys.readouterr().out
    assert cli.main(["data", "show", str(tmp_path / "data"), "--size", "8"]) == 2
    assert "--size is of pictures" in capsys.readouterr().err


def test_pictures_of_12_bits_are_shown_in_their_own_range_at_a_size_that_is_no_square(tmp_path):
    (tmp_path / "data").mkdir()
    for i in range(6):
        values = np.full((20, 40, 1), 4095, np.uint16)
        (tmp_path / "data" / f"{i}.png").write_bytes(png(values, 12, {}))
    out = tmp_path / "sheet.png"
    assert cli.main(["data", "show", str(tmp_path / "data"), "--size", "48x24", "--rows", "1", "--out", str(out)]) == 0
    sheet = np.asarray(Image.open(out))
    assert (sheet == 255).all(-1).sum() == 6 * 96 * 48  # white, each pixel twice as large
    for size in ("3x40", "48x24x2"):
        assert cli.main(["data", "show", str(tmp_path / "data"), "--size", size]) == 2
