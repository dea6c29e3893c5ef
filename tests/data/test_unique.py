"""A data set without near-duplicates: copies go, everything else stays as it was, and nothing is done twice."""

import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sfumato.cli import main as cli
from sfumato.codecs.pixels import Pixels
from sfumato.config import load_recipe
from sfumato.data import unique as module
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.data.unique import unique
from sfumato.report import Silent
from sfumato.training.prepared import prepared_data


@pytest.fixture
def folder(tmp_path):
    """Twelve different pictures by class, and darker copies of the first three."""
    g = np.random.default_rng(0)
    for i in range(12):
        place = tmp_path / "pictures" / ("cat", "house")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = g.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((24, 24), Image.Resampling.BICUBIC)
        picture.save(place / f"{i:02}.png")
        for copy in range(2 if i < 3 else 0):
            ImageEnhance.Brightness(picture).enhance(0.9).save(place / f"{i:02}-copy{copy}.png")
    return tmp_path / "pictures"


def test_copies_go_and_all_else_stays_as_it_was(folder, tmp_path):
    data = prepare(open_source(folder), Pictures(24), tmp_path / "data")
    left = unique(data, Pixels(24))
    assert len(data) == 18 and len(left) == 12
    rows = {row["path"]: i for i, row in enumerate(data.manifest)}
    assert sorted(int(row["path"].split("/")[1][:2]) for row in left.manifest) == list(range(12))
    for i, row in enumerate(left.manifest):
        first = rows[row["path"]]
        assert np.array_equal(left.rows[i], data.rows[first])
        assert left.labels is not None and data.labels is not None and left.labels[i] == data.labels[first]
    assert "6 near-duplicates left out" in left.describe() and left.manifest_hash != data.manifest_hash
    assert len(json.loads((left.folder / "duplicates.json").read_text())["groups"]) == 3


def test_it_is_made_once_and_anew_when_the_data_change(folder, tmp_path, monkeypatch):
    searches = []
    find = module.find_duplicates
    monkeypatch.setattr(module, "find_duplicates", lambda *a: searches.append(1) or find(*a))
    for _ in range(2):
        unique(prepare(open_source(folder), Pictures(24), tmp_path / "data"), Pixels(24))
    assert len(searches) == 1
    next(folder.rglob("11.png")).unlink()
    assert (
        len(unique(prepare(open_source(folder), Pictures(24), tmp_path / "data"), Pixels(24))) == 11
        and len(searches) == 2
    )


@pytest.mark.parametrize(("choice", "count"), [("keep", 18), ("drop", 12)])
def test_a_run_trains_on_what_the_setting_leaves(folder, tmp_path, choice, count):
    settings = [f"data.path={folder}", "codec.kind=pixels", "codec.size=24", f"data.duplicates={choice}"]
    assert len(prepared_data(load_recipe("folder", settings), tmp_path / "data", Silent())) == count


@pytest.mark.parametrize("features", [[], ["--features"]])
def test_the_scan_tells_them_and_shows_them(folder, tmp_path, capsys, features):
    assert cli.main(["data", "scan", str(folder), "--duplicates", *features, "--out", str(tmp_path / "found")]) == 0
    told = capsys.readouterr().out
    assert "3 groups of 9 pictures; 6 pictures to spare" in told and "data.duplicates=drop" in told
    assert len(json.loads((tmp_path / "found" / "duplicates.json").read_text())["groups"]) == 3
    assert Image.open(tmp_path / "found" / "duplicates.png").size[0] > 100
