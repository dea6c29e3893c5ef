"""What lies in a folder is read, is a fault, or is named with its kind and count: nothing is dropped in silence."""

import json
import unicodedata

import pytest
from PIL import Image

from sfumato.data import DataError, open_source, prepare
from sfumato.data.readers.pictures import Pictures

WRITINGS = {
    "NFC": lambda name: unicodedata.normalize("NFC", name),
    "NFD": lambda name: unicodedata.normalize("NFD", name),
}


def kinds(source) -> list[tuple[str, str]]:
    return [(fault.path, fault.kind) for fault in source.faults]


def labels(source) -> dict[str, str | None]:
    return {record.locator: record.label for record in source.records}


def pets(top: str = "", each: int = 6) -> list[str]:
    return [f"{top}{kind}/{n}.png" for kind in ("cat", "dog") for n in range(each)]


# ---- folders


def test_a_folder_around_class_folders_changes_nothing(tmp_path, folder):
    source = open_source(folder(tmp_path, pets("download/pets/")))
    assert source.classes == ("cat", "dog") and source.faults == ()
    assert source.describe() == "class folders: 2 classes (cat, dog), 12 pictures, in download/pets"


@pytest.mark.parametrize("top", ["", "pets/"])
def test_a_stray_picture_beside_class_folders_is_a_fault(tmp_path, folder, top):
    source = open_source(folder(tmp_path, ["cover.png", *pets(top)]))
    assert source.classes == ("cat", "dog") and kinds(source) == [("cover.png", "no class")]


def test_many_pictures_beside_one_folder_are_no_strays(tmp_path, folder):
    """Negative control: without classes there is nothing to be missing."""
    source = open_source(folder(tmp_path, ["cover.png", *[f"all/{n}.png" for n in range(20)]]))
    assert source.classes == () and source.faults == () and len(source.records) == 21


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Test"), ("training_set", "test_set"), ("TRAINING", "validation"),
     ("train2017", "val2017"), ("seg_train", "seg_test"), ("train-images", "valid-images")],
)  # fmt: skip
@pytest.mark.parametrize("top", ["", "pets/"])
def test_a_train_folder_beside_a_test_folder_is_what_is_trained_on(tmp_path, folder, train, test, top):
    source = open_source(folder(tmp_path, [*pets(f"{top}{train}/"), *pets(f"{top}{test}/", 2)]))
    assert source.classes == ("cat", "dog") and len(source.records) == 12 and source.faults == ()
    assert f"from {top}{train}, left aside: {test}" in source.describe()


@pytest.mark.parametrize(
    "folders", [("train", "bus"), ("steam_train", "bus"), ("blood_test", "urine_test"), ("a", "b")]
)
def test_classes_that_sound_like_parts_stay_classes(tmp_path, folder, folders):
    """Negative control."""
    source = open_source(folder(tmp_path, [f"{name}/{n}.png" for name in folders for n in range(3)]))
    assert set(source.classes) == set(folders)


@pytest.mark.parametrize(
    ("folders", "words"),
    [(("train", "test", "extra"), "beside other folders"), (("test", "val"), "none to train on"),
     (("train", "Training"), "several parts")],
)  # fmt: skip
def test_parts_of_which_none_is_surely_the_one_to_train_on_are_refused(tmp_path, folder, folders, words):
    folder(tmp_path, [f"{name}/{kind}/{n}.png" for name in folders for kind in "ab" for n in range(3)])
    with pytest.raises(DataError, match=words):
        open_source(tmp_path)


def test_faults_of_a_part_that_is_left_aside_do_not_count(tmp_path, folder):
    root = folder(tmp_path, [*pets("train/"), *pets("test/")])
    (root / "test" / "gone.png").symlink_to(root / "nothing.png")
    (root / "test" / "labels.csv").write_text("a,b")
    assert open_source(root).faults == ()
    (root / "train" / "labels.csv").write_text("a,b")  # negative control
    assert kinds(open_source(root)) == [("train/labels.csv", "not read")]


def test_names_with_backslashes_from_windows_are_folders(tmp_path, encoded):
    for seed, name in enumerate(["pets\\cat\\1.png", "pets\\cat\\2.png", "pets\\dog\\1.png", "__MACOSX\\._1.png"]):
        (tmp_path / name).write_bytes(encoded(seed))
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert labels(source)["pets\\dog\\1.png"] == "dog" and len(source.records) == 3
    assert len(prepare(source, Pictures(8), cache_dir=tmp_path.parent / "ready")) == 3


def test_many_classes_are_named_in_a_bounded_list(tmp_path, folder):
    source = open_source(folder(tmp_path, [f"{n:03}/1.png" for n in range(100)]))
    assert "100 classes (000, 001, 002, 003, 004, 005, 006, 007 and 92 more)" in source.describe()


# ---- captions beside pictures


@pytest.mark.parametrize("name", ["a.txt", "a.caption", "a.text", "a.png.txt", "a.TXT", "a.json"])
def test_files_that_pair_by_stem_are_read(tmp_path, folder, name):
    folder(tmp_path, ["a.png"])
    (tmp_path / name).write_text(json.dumps({"caption": "a cat", "url": "x"}) if name.endswith("json") else "a cat")
    source = open_source(tmp_path)
    assert source.faults == () and source.records[0].captions == ("a cat",) and source.layout == "caption files"


def test_captions_from_two_files_add_up_and_none_comes_twice(tmp_path, folder):
    folder(tmp_path, ["a.png"])
    (tmp_path / "a.txt").write_text("a cat\nred")
    (tmp_path / "a.json").write_text('{"text": ["a cat", "a small cat"], "label": "cat"}')
    (record,) = open_source(tmp_path).records
    assert record.captions == ("a cat", "red", "a small cat") and record.label == "cat"


def test_json_that_says_nothing_of_use_is_counted(tmp_path, folder):
    folder(tmp_path, ["a.png", "b.png"])
    for name in "ab":
        (tmp_path / f"{name}.json").write_text('{"shutter": 3}')
    source = open_source(tmp_path)
    assert source.describe() == "flat folder: 2 pictures, ignored: 2 .json without a caption" and source.faults == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.xml", "pairs with a.png"), ("a.prompt", "pairs with a.png"), ("c.psd", ".psd are not read"),
     ("c.CR2", ".cr2 are not read"), ("captions.json", "looks like captions"), ("train.csv", "looks like captions"),
     ("labels.txt", "looks like captions"), ("sub/annotations.xml", "looks like captions"),
     ("data.parquet", "looks like captions"), ("dataset.json", "looks like captions")],
)  # fmt: skip
def test_what_should_have_been_read_and_is_not_is_a_fault(tmp_path, folder, name, words):
    folder(tmp_path, ["a.png", "b.png", "sub/d.png"])
    (tmp_path / name).write_bytes(b"x")
    source = open_source(tmp_path)
    assert kinds(source) == [(name, "not read")] and words in source.faults[0].reason
    with pytest.raises(DataError, match="not read"):
        prepare(source, Pictures(8), cache_dir=tmp_path.parent / "ready")


def test_what_is_passed_by_is_named_with_its_counts(tmp_path, folder):
    folder(tmp_path, ["a.png", "b.png"])
    for name in ("a.psd", "a.mov", "b.mov", "notes.md", "LICENSE-MIT", "README", "Thumbs.db", ".DS_Store", "Makefile"):
        (tmp_path / name).write_bytes(b"x")
    source = open_source(tmp_path)
    assert source.faults == ()
    assert source.describe() == "flat folder: 2 pictures, ignored: 2 .mov, 1 .md, 1 .psd, 1 without an ending"


def test_pictures_of_licence_plates_keep_their_captions(tmp_path, folder):
    """Their names begin as those of files about the data do."""
    folder(tmp_path, ["license_plate_1.png", "notice.png"])
    for name in ("license_plate_1.txt", "notice.txt", "LICENSE.txt", "NOTICE-2"):
        (tmp_path / name).write_text("words")
    source = open_source(tmp_path)
    assert [r.captions for r in source.records] == [("words",), ("words",)] and source.faults == ()
    assert "ignored" not in source.describe()


def test_no_two_files_are_told_to_become_the_same(tmp_path, folder):
    folder(tmp_path, ["cat_1.png", "cat_2.png", "dog.png"])
    (tmp_path / "dog.txt").write_text("a dog")
    for name in ("cat_01.txt", "cat-01.txt", "dogs.txt"):
        (tmp_path / name).write_text("x")
    fixes = [fault.fix for fault in open_source(tmp_path).faults if fault.kind == "caption orphaned"]
    told = [fix for fix in fixes if fix.startswith("Rename it to")]
    assert len(fixes) == 3 and len(told) == len(set(told)) == 2 and not any("dog.txt" in fix for fix in told)


# ---- names


@pytest.mark.parametrize("picture", ["NFC", "NFD"])
def test_names_match_in_both_ways_to_write_an_accent(tmp_path, encoded, picture):
    other = {"NFC": "NFD", "NFD": "NFC"}[picture]
    for root in ("files", "table"):
        (tmp_path / root).mkdir()
        for seed, name in enumerate(("café.png", "naïve.png")):
            (tmp_path / root / WRITINGS[picture](name)).write_bytes(encoded(seed))
    for name in ("café", "naïve"):
        (tmp_path / "files" / WRITINGS[other](f"{name}.txt")).write_text(f"a {name}")
    rows = [{"file_name": WRITINGS[other](f"{name}.png"), "text": f"a {name}"} for name in ("café", "naïve")]
    (tmp_path / "table" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for root in ("files", "table"):
        source = open_source(tmp_path / root)
        assert source.faults == () and [r.captions for r in source.records] == [("a café",), ("a naïve",)]


def test_a_row_for_two_pictures_alike_but_for_accents_is_a_fault(tmp_path, encoded):
    for seed, form in enumerate(("NFC", "NFD")):
        (tmp_path / WRITINGS[form]("café.png")).write_bytes(encoded(seed))
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "x/../" + WRITINGS["NFC"]("café.png"), "text": "x"})
    )
    assert "ambiguous" in {kind for _, kind in kinds(open_source(tmp_path))}


# ---- tables


@pytest.mark.parametrize(
    ("name", "content"),
    [("metadata.csv", "file_name,text\na.png,one\nb.png,\"two, and more\"\n"),
     ("metadata.csv", "\ufefffile_name;text\r\na.png;one\r\nb.png;two, and more\r\n"),
     ("metadata.tsv", "file_name\ttext\na.png\tone\nb.png\ttwo, and more\n"),
     ("metadata.jsonl", '{"file_name": "a.png", "caption": "one"}\n{"image": ".\\\\b.png", "text": "two, and more"}')],
)  # fmt: skip
@pytest.mark.parametrize("below", ["", "sub/"])
def test_tables_are_read_in_any_folder(tmp_path, folder, name, content, below):
    folder(tmp_path, [f"{below}a.png", f"{below}b.png"])
    (tmp_path / f"{below}{name}").write_text(content, encoding="utf-8")
    source = open_source(tmp_path)
    assert source.faults == () and [r.captions for r in source.records] == [("one",), ("two, and more",)]
    assert source.layout == name


def test_tables_in_class_folders_leave_the_classes(tmp_path, folder):
    root = folder(tmp_path, pets())
    for kind in ("cat", "dog"):
        rows = [{"file_name": f"{n}.png", "text": f"{kind} {n}"} for n in range(6)]
        (root / kind / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(root)
    assert source.classes == ("cat", "dog") and source.layout == "class folders with metadata.jsonl"
    assert source.records[7].captions == ("dog 1",)

    (root / "dog" / "metadata.jsonl").unlink()  # negative control
    assert kinds(open_source(root)) == [(f"dog/{n}.png", "caption missing") for n in range(6)]


def test_a_table_and_caption_files_both_count(tmp_path, folder):
    folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "told"}')
    (tmp_path / "b.txt").write_text("written")
    source = open_source(tmp_path)
    assert [r.captions for r in source.records] == [("told",), ("written",)] and source.faults == ()
    assert source.layout == "metadata.jsonl with caption files"


def test_an_absolute_path_inside_the_folder_names_its_picture(tmp_path, folder):
    folder(tmp_path, ["sub/a.png"])
    row = {"file_name": str(tmp_path / "sub" / "a.png"), "text": "x"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    source = open_source(tmp_path)
    assert source.faults == () and source.records[0].captions == ("x",)


@pytest.mark.parametrize("key", ["label", "licence", "source"])
def test_two_values_of_what_a_picture_has_once_are_a_fault(tmp_path, folder, key):
    folder(tmp_path, ["a.png", "b.png"])
    rows = [{"file_name": name, key: value, "text": "x"} for name in ("a.png", "b.png") for value in ("cat", "dog")]
    rows[3][key] = "cat"  # the same again: no contradiction
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(tmp_path)
    assert kinds(source) == [("a.png", "ambiguous")] and "'cat' and 'dog'" in source.faults[0].reason
    assert source.records[0].captions == ("x",)  # said twice, and there once


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("metadata.csv", b"file_name,text\na.png,one,two\n", "line 2: 3 fields"),
     ("metadata.csv", b"text\none\n", "file_name"),
     ("metadata.csv", b"file_name,text\na.png,caf\xe9\n", "not UTF-8"),
     ("metadata.csv", "file_name,text\na.png,one\n".encode("utf-16-le"), "zero bytes"),
     ("metadata.jsonl", b'[{"file_name": "a.png", "text": "x"}]', "one JSON array"),
     ("metadata.jsonl", b"[" * 100_000, "not JSON"),
     ("metadata.jsonl", b'{"file_name": "a.png", "text": "' + b"x" * 5_000_000 + b'"}', "longer than"),
     ("metadata.jsonl", b'{"file_name": "a.png", "text": "x", "label": ["a"]}', '"label" is')],
)  # fmt: skip
def test_a_broken_table_is_told_by_its_line(tmp_path, folder, name, content, words):
    folder(tmp_path, ["a.png"])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_source(tmp_path)


def test_utf_16_with_its_mark_is_read(tmp_path, folder):
    folder(tmp_path, ["a.png"])
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.png,grün\n".encode("utf-16"))
    assert open_source(tmp_path).records[0].captions == ("grün",)


# ---- quarantine


def test_quarantine_takes_the_caption_files_of_a_picture_along_and_no_others(tmp_path, folder):
    root = folder(
        tmp_path / "p", [f"{n}.png" for n in range(4)] + [WRITINGS["NFC"]("é.png"), "shared.png", "shared.jpg"]
    )
    captions = ["0.txt", "1.caption", "2.png.txt", "3.json", WRITINGS["NFD"]("é.txt"), "shared.txt"]
    for name in captions:
        (root / name).write_text('{"text": "x"}')
    for name in ("0.png", "1.png", "2.png", "3.png", WRITINGS["NFC"]("é.png"), "shared.png"):
        (root / name).write_text("no picture")
    folder(root, ["5.png", "6.png"])
    for n in (5, 6):
        (root / f"{n}.txt").write_text("x")
    prepare(open_source(root), Pictures(8), cache_dir=tmp_path / "run" / "data", policy="quarantine")
    left = {path.name for path in root.iterdir()}
    assert left == {"5.png", "5.txt", "6.png", "6.txt", "shared.jpg", "shared.txt"}
    assert open_source(root).faults == ()


@pytest.mark.parametrize("header", ["file_name,low", "file_name,low,text"])
def test_files_that_another_column_names_are_left_aside_with_a_word_and_are_no_faults(header, tmp_path):
    (tmp_path / "low").mkdir()
    lines = [header]
    for i in range(4):
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(tmp_path / f"{i}.png")
        Image.new("RGB", (8, 8), (0, i * 20, 0)).save(tmp_path / "low" / f"{i}.png")
        lines.append(",".join([f"{i}.png", f"low/{i}.png", *(["a cat"] if "text" in header else [])]))
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert [record.locator for record in source.records] == [f"{i}.png" for i in range(4)] and not source.faults
    assert "left aside: 4 that other columns name" in source.describe()
