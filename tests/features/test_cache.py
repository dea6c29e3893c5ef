"""Features are kept once for a data set, wherever a report goes, and in bounded room."""

import os

from sfumato.cli import main as cli
from sfumato.features import cache
from sfumato.features.cache import feature_cache, prune, used


def kept(folder, name, size, age):
    place = folder / name
    if "." in name:
        place.write_bytes(bytes(size))
    else:
        place.mkdir()
        (place / "weights").write_bytes(bytes(size))
    os.utime(place, (1000 - age, 1000 - age))
    return place


def test_what_was_used_longest_ago_goes_first_and_what_fits_stays(tmp_path):
    old, middle, new = (kept(tmp_path, name, 100, age) for name, age in (("a.npy", 30), ("b", 20), ("c.npy", 10)))
    prune(tmp_path, 250)
    assert not old.exists() and middle.exists() and new.exists()
    used(middle)
    prune(tmp_path, 100)
    assert middle.exists() and not new.exists()
    prune(tmp_path / "none", 0)


def test_features_are_learned_once_for_two_reports(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("sfumato.features.learned.LEAST", 256)
    monkeypatch.setattr("sfumato.features.learned.MOST", 256)
    import numpy as np
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    tiny().save(tmp_path / "model")
    trained = []
    descend = "sfumato.features.learned._descend"
    monkeypatch.setattr(descend, lambda *_: trained.append(1))
    for out in ("first", "second"):
        command = ["evaluate", str(tmp_path / "model"), str(tmp_path / "pictures"), "--n", "16", "--metrics", "quality"]
        assert cli.main([*command, "--out", str(tmp_path / out)]) == 0
    assert trained == [1] and list(feature_cache().glob("learned-*"))
    assert not list((tmp_path / "second").glob("**/features.json"))


def test_the_cache_is_pruned_before_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MOST", 0)
    place = kept(tmp_path, "a.npy", 10, 0)
    prune(tmp_path)
    assert not place.exists()
