"""The one pass: policies, manifest, cache, split; nothing depends on the number of workers or is half done."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import DataError, Dataset, open_source, prepare, scan
from sfumato.data.cropping import crop_loss
from sfumato.data.faults import LAYOUTS
from sfumato.data.preparation import Report
from sfumato.data.readers.pictures import Pictures

NAMES = [f"{index:03d}.png" for index in range(120)]


@pytest.fixture
def source(tmp_path, folder):
    return open_source(folder(tmp_path / "pictures", NAMES))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "run" / "data"


def spoil(source, count: int):
    """Cut `count` files of a folder short; the source as it is then."""
    for name in NAMES[:count]:
        path = source.root / name
        path.write_bytes(path.read_bytes()[:-100])
    return open_source(source.root)


# ---- what is written


def test_the_dataset_is_the_pictures_in_order(source, cache, picture):
    seen = []
    dataset = prepare(source, Pictures(32), cache_dir=cache, progress=lambda done, total: seen.append((done, total)))
    assert len(dataset) == 120 and dataset.rows.shape == (120, 32, 32, 3) and dataset.rows.dtype == np.uint8
    assert isinstance(dataset.rows, np.memmap) and not dataset.rows.flags.writeable
    assert np.array_equal(dataset.rows[7], np.asarray(picture(7).crop((4, 0, 36, 32))))
    assert dataset.captions == [()] * 120 and dataset.labels is None and dataset.classes == ()
    assert dataset.rows.shape[1:] == (32, 32, 3)
    assert seen[-1] == (120, 120) and seen == sorted(seen)
    assert "ready: 120 of 32 x 32 x 3 (uint8)" in dataset.describe()
    assert {p.name for p in cache.iterdir()} == {
        ".sfumato",
        "faults.json",
        "index.json",
        "manifest.jsonl",
        "rows.npy",
    }


def test_the_manifest_names_each_file_its_hash_size_and_mode(source, cache):
    dataset = prepare(source, Pictures(16), cache_dir=cache)
    data = (source.root / NAMES[3]).read_bytes()
    assert dataset.manifest[3] == {
        "path": NAMES[3],
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "size": [40, 32],
        "mode": "RGB",
    }
    assert dataset.manifest_hash == hashlib.sha256((cache / "manifest.jsonl").read_bytes()).hexdigest()


def test_neither_pixels_nor_hash_depend_on_workers_and_the_hash_not_on_the_size(source, tmp_path):
    one = prepare(source, Pictures(16), cache_dir=tmp_path / "1", workers=1)
    four = prepare(source, Pictures(16), cache_dir=tmp_path / "4", workers=4)
    grey = prepare(source, Pictures(64, 1), tmp_path / "grey", workers=4)
    assert np.array_equal(one.rows, four.rows)
    assert one.manifest_hash == four.manifest_hash == grey.manifest_hash


def test_the_hash_changes_with_one_byte_a_name_a_caption(source, tmp_path):
    before = prepare(source, Pictures(8), cache_dir=tmp_path / "a").manifest_hash
    path = source.root / NAMES[5]
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")  # behind the end of the picture: the pixels stay
    changed = prepare(open_source(source.root), Pictures(8), cache_dir=tmp_path / "b")
    assert changed.manifest_hash != before

    path.write_bytes(whole)
    assert prepare(open_source(source.root), Pictures(8), cache_dir=tmp_path / "c").manifest_hash == before
    path.rename(path.with_name("005b.png"))
    assert prepare(open_source(source.root), Pictures(8), cache_dir=tmp_path / "d").manifest_hash != before


def test_what_is_converted_is_counted(tmp_path, picture, encoded):
    root = tmp_path / "mixed"
    root.mkdir()
    pictures = {
        "alpha": picture(1).convert("RGBA"), "palette": picture(2).quantize(), "grey": picture(3).convert("L"),
        "plain": picture(4), "plain_again": picture(4),
    }  # fmt: skip
    pictures["alpha"].putalpha(90)
    for name, each in pictures.items():
        (root / f"{name}.png").write_bytes(encoded(picture=each))
    (root / "wrong.jpg").write_bytes(encoded(9))
    dataset = prepare(open_source(root), Pictures(36), cache_dir=tmp_path / "ready")
    assert dataset.describe().splitlines() == [
        "flat folder: 6 pictures",
        "converted: alpha 1, enlarged 6, grey to RGB 1, palette 1, wrong extension 1",
        "cut to the centre: 6 of 6 pictures lose 10% of their area or more (half of these 20% or more, the most 20%); "
        "see them with `sfumato data show`",
        "duplicates: 1 file the same as another",
        "ready: 6 of 36 x 36 x 3 (uint8)",
    ]
    assert {row["path"]: row.get("notes") for row in dataset.manifest}["palette.png"] == ["palette"]


# ---- policies


def test_stop_names_every_bad_file_and_keeps_the_report(source, cache):
    source = spoil(source, 30)
    with pytest.raises(DataError) as error:
        prepare(source, Pictures(8), cache_dir=cache)
    assert len(error.value.faults) == 30 and "30 faults (truncated 30)" in str(error.value)
    assert "000.png: truncated" in str(error.value) and "and 10 more" in str(error.value)
    report = json.loads((cache / "faults.json").read_text())
    assert [fault["path"] for fault in report["faults"]] == NAMES[:30]
    assert all(fault["reason"] and fault["fix"] for fault in report["faults"])
    assert not (cache / "index.json").exists()


def test_skip_leaves_out_up_to_one_percent_and_says_so(source, cache, picture):
    source = spoil(source, 1)
    dataset = prepare(source, Pictures(32), cache_dir=cache, policy="skip")
    assert len(dataset) == 119 and "left out: 1 (truncated 1)" in dataset.describe()
    assert np.array_equal(dataset.rows[0], np.asarray(picture(1).crop((4, 0, 36, 32))))
    assert [row["path"] for row in dataset.manifest] == NAMES[1:]
    assert json.loads((cache / "faults.json").read_text())["faults"][0]["path"] == NAMES[0]

    # The same cache does not answer for a policy that would have stopped.
    with pytest.raises(DataError):
        prepare(source, Pictures(32), cache_dir=cache, policy="stop")


def test_more_than_one_percent_stops_even_skip(source, cache):
    with pytest.raises(DataError, match=r"1.7% would be skipped, limit 1%"):
        prepare(spoil(source, 2), Pictures(8), cache_dir=cache, policy="skip")


def test_quarantine_moves_the_bad_files_with_their_captions_and_goes_on(tmp_path, folder, cache):
    root = folder(tmp_path / "pictures", ["a/1.png", "a/2.png", "b/3.png", "b/4.png"])
    for name in ("a/1", "a/2", "b/3", "b/4"):
        (root / f"{name}.txt").write_text(name)
    bad = (root / "a/2.png").read_bytes()[:-100]
    (root / "a/2.png").write_bytes(bad)
    dataset = prepare(open_source(root), Pictures(8), cache_dir=cache, policy="quarantine")
    assert len(dataset) == 3

    aside = cache.parent / "quarantine"
    assert (aside / "a/2.png").read_bytes() == bad and (aside / "a/2.txt").read_text() == "a/2"
    assert sorted(p.name for p in (root / "a").iterdir()) == ["1.png", "1.txt"]
    assert [json.loads(line)["moved_to"] for line in (aside / "quarantine.jsonl").open()] == ["a/2.png", "a/2.txt"]
    # The folder is clean now, for the strictest policy too.
    assert open_source(root).faults == () and len(prepare(open_source(root), Pictures(8), cache_dir=cache)) == 3


def test_a_second_quarantine_keeps_what_the_first_moved(tmp_path, folder, cache):
    for content in (b"first", b"second"):
        root = folder(tmp_path / "pictures", ["1.png", "2.png", "3.png"])
        (root / "2.png").write_bytes(content)
        prepare(open_source(root), Pictures(8), cache_dir=cache, policy="quarantine")
    aside = cache.parent / "quarantine"
    assert {(aside / name).read_bytes() for name in ("2.png", "2.png_")} == {b"first", b"second"}


def test_nothing_usable_stops_every_policy(tmp_path, folder, cache):
    root = folder(tmp_path / "pictures", ["1.png", "2.png"])
    for name in ("1.png", "2.png"):
        (root / name).write_text("text")
    for policy in ("stop", "skip", "quarantine"):
        with pytest.raises(DataError, match="no usable picture"):
            prepare(open_source(root), Pictures(8), cache_dir=cache, policy=policy)
    assert (root / "1.png").exists()


def test_one_picture_or_all_alike_is_not_enough(tmp_path, folder, encoded, cache):
    one = folder(tmp_path / "one", ["a.png"])
    with pytest.raises(DataError, match="one picture is not enough") as error:
        prepare(open_source(one), Pictures(8), cache_dir=cache)
    assert LAYOUTS in str(error.value)
    same = folder(tmp_path / "same", ["a.png", "b.png", "c.png"])
    for path in same.iterdir():
        path.write_bytes(encoded(1))
    with pytest.raises(DataError, match="all 3 pictures are the same file"):
        prepare(open_source(same), Pictures(8), cache_dir=cache)


def test_an_unreadable_file_is_a_fault_with_the_systems_reason(source, cache):
    def refuse() -> bytes:
        raise PermissionError(13, "Permission denied")

    broken = replace(source, records=[replace(source.records[0], fetch=refuse), *source.records[1:]])
    with pytest.raises(DataError, match=r"000\.png: unreadable: Permission denied"):
        prepare(broken, Pictures(8), cache_dir=cache)


def test_impossible_settings_are_refused(source, cache):
    with pytest.raises(ValueError, match="policy = 'ignore'"):
        prepare(source, Pictures(8), cache, policy="ignore")


def test_too_little_space_is_told_before_the_pass(source, cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(DataError, match="free space"):
        prepare(source, Pictures(8), cache_dir=cache)


# ---- scan


def test_a_scan_finds_what_prepare_would_and_writes_nothing(source, tmp_path):
    source = spoil(source, 3)
    before = sorted(tmp_path.rglob("*"))
    report = scan(source, Pictures(16), workers=2)
    assert isinstance(report, Report) and (report.pictures, len(report.faults)) == (117, 3)
    assert report.bytes == 117 * 16 * 16 * 3
    assert "faults: 3 (truncated 3)" in str(report) and "002.png: truncated" in str(report)
    assert sorted(tmp_path.rglob("*")) == before


# ---- the cache


def never() -> bytes:
    raise AssertionError("read again")


def test_an_unchanged_folder_is_not_read_again(source, cache):
    first = prepare(source, Pictures(8), cache_dir=cache)
    unread = replace(source, records=[replace(record, fetch=never) for record in source.records])
    assert prepare(unread, Pictures(8), cache_dir=cache).manifest_hash == first.manifest_hash

    # Negative control: another size, and a touched file, are.
    with pytest.raises(AssertionError, match="read again"):
        prepare(unread, Pictures(9), cache_dir=cache)
    os.utime(source.root / NAMES[0], ns=(1, 1))
    touched = open_source(source.root)
    unread = replace(touched, records=[replace(record, fetch=never) for record in touched.records])
    with pytest.raises(AssertionError, match="read again"):
        prepare(unread, Pictures(8), cache_dir=cache)


@pytest.mark.parametrize("name", ["rows.npy", "manifest.jsonl", "index.json"])
def test_a_damaged_cache_is_made_anew(source, cache, name):
    first = prepare(source, Pictures(8), cache_dir=cache)
    expected = np.array(first.rows)
    data = (cache / name).read_bytes()
    (cache / name).write_bytes(data[: len(data) // 2])
    again = prepare(source, Pictures(8), cache_dir=cache)
    assert np.array_equal(again.rows, expected) and again.manifest_hash == first.manifest_hash


def test_a_failure_leaves_the_old_cache_and_nothing_beside_it(source, cache):
    first = prepare(source, Pictures(8), cache_dir=cache)

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, Pictures(16), cache_dir=cache, progress=fail)
    assert [p.name for p in cache.parent.iterdir()] == ["data"]
    assert Dataset(cache).manifest_hash == first.manifest_hash


KILLED = """
import os, pathlib, signal, sys
from sfumato.data import open_source, prepare
from sfumato.data.readers.pictures import Pictures

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "pass":
    prepare(open_source(sys.argv[1]), Pictures(16), cache_dir=sys.argv[2], progress=kill)
else:
    rename, left = pathlib.Path.rename, [int(sys.argv[3])]
    def counted(self, target):
        if left[0] == 0:
            kill()
        left[0] -= 1
        return rename(self, target)
    pathlib.Path.rename = counted
    prepare(open_source(sys.argv[1]), Pictures(16), cache_dir=sys.argv[2])
"""


def test_a_kill_at_any_step_leaves_old_or_nothing_and_the_next_run_is_whole(source, tmp_path):
    expected = prepare(source, Pictures(16), cache_dir=tmp_path / "expected")
    killed = 0
    for moment in ("pass", "0", "1"):  # in the pass, before the old is put aside, before the new takes its place
        cache = tmp_path / f"run-{moment}" / "data"
        prepare(source, Pictures(8), cache_dir=cache)
        done = subprocess.run([sys.executable, "-c", KILLED, str(source.root), str(cache), moment])
        killed += done.returncode == -9
        assert moment == "1" or Dataset(cache).rows.shape[1] == 8
        again = prepare(source, Pictures(16), cache_dir=cache)
        assert np.array_equal(again.rows, expected.rows) and again.manifest_hash == expected.manifest_hash
        assert [p.name for p in cache.parent.iterdir()] == ["data"]
    assert killed == 3


def test_loading_refuses_pickles(source, cache):
    prepare(source, Pictures(8), cache_dir=cache)
    np.save(cache / "rows.npy", np.array([{"a": 1}] * 120, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"allow_pickle|pickled|Array can't be memory-mapped"):
        Dataset(cache)


# ---- the split


def test_the_split_is_disjoint_complete_and_near_its_share(source, cache):
    dataset = prepare(source, Pictures(8), cache_dir=cache)
    train, held_out = dataset.split(0.2)
    assert sorted([*train, *held_out]) == list(range(120))
    # Binomial: 24 expected, standard deviation 4.4; four of them.
    assert 24 - 18 <= len(held_out) <= 24 + 18
    assert set(dataset.split(0.1)[1]) <= set(held_out)
    assert len(dataset.split(0.0)[1]) == 0
    with pytest.raises(ValueError, match="validation = 1"):
        dataset.split(1.0)


def test_adding_files_moves_no_picture_to_the_other_side(source, tmp_path, encoded):
    def sides(dataset) -> dict[str, bool]:
        train, held_out = dataset.split(0.3)
        paths = [row["path"] for row in dataset.manifest]
        return {paths[i]: True for i in held_out} | {paths[i]: False for i in train}

    before = sides(prepare(source, Pictures(8), cache_dir=tmp_path / "a"))
    for index in range(30):
        (source.root / f"0_new_{index}.png").write_bytes(encoded(1000 + index))
    after = sides(prepare(open_source(source.root), Pictures(8), cache_dir=tmp_path / "b"))
    assert len(after) == 150 and {name: after[name] for name in before} == before


def test_identical_pictures_land_on_one_side(tmp_path, folder, encoded):
    root = folder(tmp_path / "pictures", [])
    root.mkdir()
    for index in range(60):
        (root / f"{index}.png").write_bytes(encoded(index % 20))
    dataset = prepare(open_source(root), Pictures(8), cache_dir=tmp_path / "ready")
    train, held_out = dataset.split(0.5)
    hashes = [row["sha256"] for row in dataset.manifest]
    assert not {hashes[i] for i in train} & {hashes[i] for i in held_out}
    assert len(train) and len(held_out)


def test_a_small_set_still_holds_one_picture_out_and_keeps_one_to_train_on(tmp_path, folder):
    source = open_source(folder(tmp_path / "p", ["a.png", "b.png"]))
    dataset = prepare(source, Pictures(8), cache_dir=tmp_path / "ready")
    for share in (1e-9, 0.02, 0.999999):
        train, held_out = dataset.split(share)
        assert len(train) == len(held_out) == 1


def test_two_threads_of_preparation_do_not_disturb_each_other(source, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        make = partial(prepare, source, Pictures(8))
        made = [pool.submit(make, cache_dir=tmp_path / name) for name in ("a", "b")]
    assert made[0].result().manifest_hash == made[1].result().manifest_hash


# ---- what a crop loses


def test_what_a_centre_crop_loses_is_told_by_scan_and_by_training(tmp_path, encoded, picture):
    root = tmp_path / "p"
    root.mkdir()
    for n, (width, height) in enumerate([(32, 32), (34, 32), (64, 32), (32, 128)]):
        (root / f"{n}.png").write_bytes(encoded(picture=picture(n, width, height)))
    words = (
        "cut to the centre: 2 of 4 pictures lose 10% of their area or more (half of these 62% or more, the most 75%)"
    )
    assert words in str(scan(open_source(root), Pictures(32)))
    assert words in prepare(open_source(root), Pictures(8), cache_dir=tmp_path / "ready").describe()

    for n in (2, 3):  # negative control
        (root / f"{n}.png").write_bytes(encoded(n))
    assert "cut to the centre" in str(scan(open_source(root), Pictures(32)))  # 40 x 32: 20 %
    assert crop_loss([(32, 32), (34, 32)]) == "" and crop_loss([]) == ""
    assert crop_loss([(48, 32)], 3, 2) == "" and "67%" in crop_loss([(32, 96)], 32, 32)
