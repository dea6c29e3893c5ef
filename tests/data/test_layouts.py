"""Each layout of the page is recognised, and its captions and labels arrive."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from sfumato.data import DataError, open_source, prepare
from sfumato.data.faults import LAYOUTS
from sfumato.data.readers.pictures import Pictures


def by_name(source) -> dict[str, tuple[tuple[str, ...], str | None]]:
    return {record.locator: (record.captions, record.label) for record in source.records}


def kinds(source) -> list[tuple[str, str]]:
    return [(fault.path, fault.kind) for fault in source.faults]


def test_a_flat_folder(tmp_path, folder):
    source = open_source(folder(tmp_path, ["b.png", "a.png", "c.PNG"]))
    assert source.describe() == "flat folder: 3 pictures"
    assert by_name(source) == {"a.png": ((), None), "b.png": ((), None), "c.PNG": ((), None)}
    assert [record.locator for record in source.records] == ["a.png", "b.png", "c.PNG"]


def test_class_folders_and_numbers_in_their_order(tmp_path, folder):
    source = open_source(folder(tmp_path, ["cat/1.png", "dog/1.png", "dog/deep/2.png"]))
    assert source.describe() == "class folders: 2 classes (cat, dog), 3 pictures"
    assert source.classes == ("cat", "dog")
    assert by_name(source)["dog/deep/2.png"] == ((), "dog")

    digits = open_source(folder(tmp_path / "digits", [f"{n}/1.png" for n in (10, 2, 1)]))
    assert digits.classes == ("1", "2", "10")


def test_many_pictures_beside_folders_mean_that_the_folders_are_no_classes_and_it_is_told(tmp_path, folder):
    source = open_source(folder(tmp_path, ["top.png", "cat/1.png", "dog/1.png"]))
    assert source.classes == () and source.faults == ()
    assert source.describe() == (
        "flat folder: 3 pictures, the folders cat, dog are no classes, for 1 of 3 pictures lie beside them"
    )


def test_caption_files(tmp_path, folder):
    folder(tmp_path, ["a.png", "b.png", "sub/c.png", "d.png"])
    (tmp_path / "a.txt").write_text("a grey cat\n\na cat,   at night\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes("\ufeffein Igel, grün".encode())
    (tmp_path / "sub" / "c.txt").write_text("a dog")
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "README.txt").write_text("about this folder")
    source = open_source(tmp_path)
    assert source.describe() == "caption files: 4 pictures, 3 with captions, 1.3 captions a picture"
    assert by_name(source) == {
        "a.png": (("a grey cat", "a cat, at night"), None),
        "b.png": (("ein Igel, grün",), None),
        "d.png": ((), None),
        "sub/c.png": (("a dog",), None),
    }
    assert source.faults == ()


def test_metadata_jsonl(tmp_path, folder):
    folder(tmp_path, ["a.png", "sub/b.png", "c.png"])
    rows = [
        {"file_name": "a.png", "text": "one"},
        {"file_name": "./sub/b.png", "text": ["two", "zwei"], "licence": "CC0", "source": "a camera"},
        {"file_name": "c.png", "text": "three", "license": "MIT", "label": 7, "unknown": [1]},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(tmp_path)
    assert source.describe() == (
        "metadata.jsonl: 1 class (7), 3 pictures, 2 without a class, all with captions, 1.3 captions a picture, "
        "columns not read: unknown"
    )
    assert by_name(source) == {
        "a.png": (("one",), None),
        "sub/b.png": (("two", "zwei"), None),
        "c.png": (("three",), "7"),
    }
    assert [record.licence for record in source.records] == [None, "MIT", "CC0"]

    dataset = prepare(source, Pictures(8), cache_dir=tmp_path.parent / "ready")
    assert dataset.captions == [("one",), ("three",), ("two", "zwei")]
    assert dataset.manifest[2]["licence"] == "CC0" and dataset.manifest[2]["source"] == "a camera"
    assert dataset.labels is None  # not every picture has one


def test_webdataset_shards(tmp_path, encoded):
    from webdataset.writer import TarWriter  # the one that everybody uses

    for shard in range(2):
        with TarWriter(str(tmp_path / f"{shard:06d}.tar")) as writer:
            for index in range(3):
                sample = {"__key__": f"{index:04d}", "png": encoded(10 * shard + index)}
                sample |= (
                    {"txt": f"picture {shard} {index}"} if shard == 0 else {"json": {"text": "told", "license": "MIT"}}
                )
                writer.write(sample | {"cls": index})
    source = open_source(tmp_path)
    assert source.describe() == "WebDataset (2 shards): 3 classes (0, 1, 2), 6 pictures, all with captions"
    assert by_name(source)["000000.tar/0001.png"] == (("picture 0 1",), "1")
    assert source.records[-1].licence == "MIT" and source.records[-1].captions == ("told",)
    assert source.records[4].open() == encoded(11)

    dataset = prepare(source, Pictures(8), cache_dir=tmp_path / "ready")
    assert dataset.labels == [0, 1, 2, 0, 1, 2]
    assert (
        open_source(tmp_path / "000001.tar")
        .describe()
        .startswith("WebDataset (1 shard): 3 classes (0, 1, 2), 3 pictures")
    )


def test_a_hugging_face_dataset_on_disk(tmp_path, picture, encoded):
    import datasets

    features = datasets.Features(
        image=datasets.Image(), caption=datasets.Value("string"), label=datasets.ClassLabel(names=["cat", "dog"])
    )
    columns = {"image": [picture(n) for n in range(4)], "caption": list("abcd"), "label": [0, 1, 1, 0]}
    table = datasets.Dataset.from_dict(columns, features=features)
    table.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "parts"))

    for name in ("plain", "parts"):
        source = open_source(tmp_path / name)
        assert source.describe().startswith("Hugging Face dataset: 2 classes (cat, dog), 4 pictures, all with captions")
        assert [(r.captions, r.label) for r in source.records][:2] == [(("a",), "cat"), (("b",), "dog")]
        dataset = prepare(source, Pictures(32), cache_dir=tmp_path / f"{name}-ready")
        assert dataset.labels == [0, 1, 1, 0]
        side = np.asarray(picture(2).crop((4, 0, 36, 32)))
        assert np.array_equal(dataset.rows[2], side)
    assert "other splits left aside: test" in source.describe()

    words = datasets.Dataset.from_dict({"caption": ["a"]})
    words.save_to_disk(str(tmp_path / "words"))
    with pytest.raises(DataError, match="no column holds pictures"):
        open_source(tmp_path / "words")


def write_idx(path, values: np.ndarray) -> None:
    data = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    pictures = np.random.default_rng(0).integers(0, 255, (6, 8, 8), dtype=np.uint8)
    for part, count in (("train", 6), ("t10k", 2)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", pictures[:count])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", np.array([0, 2, 1, 0, 2, 1], np.uint8)[:count])
    (tmp_path / "classes.json").write_text(json.dumps(["Shirt", "Bag", "Boot"]))
    source = open_source(tmp_path)
    assert source.describe().startswith("IDX: 3 classes (Shirt, Bag, Boot), 6 pictures, train-images")
    dataset = prepare(source, Pictures(8, 1), tmp_path / "ready")
    assert dataset.classes == ("Shirt", "Bag", "Boot") and dataset.labels == [0, 2, 1, 0, 2, 1]
    assert np.array_equal(dataset.rows[..., 0], pictures)
    assert len(open_source(tmp_path / f"t10k-images-idx3-ubyte{suffix}").records) == 2

    whole = (tmp_path / f"train-images-idx3-ubyte{suffix}").read_bytes()
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(whole[: len(whole) - 20])
    with pytest.raises(DataError, match="truncated"):
        open_source(tmp_path)


def test_an_idx_header_cannot_make_us_read_without_bound(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff\xff\xff\xff" * 3 + bytes(50))
    with pytest.raises(DataError, match=r"claims .* bytes, limit"):
        open_source(tmp_path)


# ---- D4: the message shows the expected layouts and the nearest fix


@pytest.fixture
def wrong(tmp_path, folder, encoded):
    """name -> (path, words that the error must say)."""
    for name in ("empty", "words", "both", "keys"):
        (tmp_path / name).mkdir()
    (tmp_path / "words" / "notes.md").write_text("no pictures here")
    with tarfile.open(tmp_path / "both" / "0.tar", "w"):
        pass
    folder(tmp_path / "both", ["a.png"])
    folder(tmp_path / "keys", ["a.png"])
    (tmp_path / "keys" / "metadata.jsonl").write_text('{"file_name": "a.png", "description": "cat"}')
    (tmp_path / "one.png").write_bytes(encoded(0))
    (tmp_path / "packed.zip").write_bytes(b"PK")
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    return {
        "empty folder": (tmp_path / "empty", ["is empty", "put pictures into it"]),
        "no pictures": (tmp_path / "words", ["no pictures or arrays, only 1 other file (.md)"]),
        "a picture": (tmp_path / "one.png", ["one picture", "give the folder"]),
        "an archive": (tmp_path / "packed.zip", ["packed archive", "unpack it"]),
        "other keys": (tmp_path / "keys", ['no line has "text"', "found description, file_name"]),
        "empty shard": (tmp_path / "empty.tar", ["1 shard", "no picture in any"]),
    }


def test_what_cannot_be_data_is_answered_with_the_layouts_and_a_fix(wrong):
    assert len(wrong) > 0
    for name, (path, words) in wrong.items():
        with pytest.raises(DataError) as error:
            open_source(path)
        assert LAYOUTS in str(error.value), name
        assert all(word in str(error.value) for word in words), (name, str(error.value))


def test_a_mistyped_path_and_a_known_name_get_the_nearest_fix(tmp_path, folder):
    folder(tmp_path / "holidays", ["a.png"])
    with pytest.raises(DataError, match=r"did you mean .*holidays\?"):
        open_source(tmp_path / "holiday")
    with pytest.raises(DataError, match="sfumato data get emoji"):
        open_source("emoji")


def test_shards_beside_loose_pictures_are_refused(wrong, tmp_path):
    with pytest.raises(DataError, match=r"both 1 \.tar shard and 1 loose picture"):
        open_source(tmp_path / "both")


def test_missing_and_orphaned_captions_are_named_with_the_nearest_fix(tmp_path, folder):
    folder(tmp_path, ["cat_1.png", "cat_2.png", "cat_3.png"])
    (tmp_path / "cat_1.txt").write_text("a cat")
    (tmp_path / "cat-2.txt").write_text("two cats")
    source = open_source(tmp_path)
    assert kinds(source) == [
        ("cat-2.txt", "caption orphaned"),
        ("cat_2.png", "caption missing"),
        ("cat_3.png", "caption missing"),
    ]
    assert "Rename it to cat_2.txt" in source.faults[0].fix and "Write cat_3.txt" in source.faults[2].fix
    with pytest.raises(DataError) as error:
        prepare(source, Pictures(8), cache_dir=tmp_path.parent / "ready")
    assert LAYOUTS in str(error.value) and "cat_3.png: caption missing" in str(error.value)


def test_captions_that_all_miss_their_pictures_are_found_and_a_stray_note_is_not_one(tmp_path, folder):
    names = ["a.png", "b.png", "c.png"]
    folder(tmp_path / "all", names)
    for letter in "xyz":
        (tmp_path / "all" / f"{letter}.txt").write_text("lost")
    assert [kind for _, kind in kinds(open_source(tmp_path / "all"))].count("caption orphaned") == 3

    folder(tmp_path / "stray", names)
    (tmp_path / "stray" / "shopping.txt").write_text("milk")
    source = open_source(tmp_path / "stray")
    assert source.faults == () and source.describe() == "flat folder: 3 pictures, ignored: 1 .txt"


def test_lines_of_metadata_without_picture_and_pictures_without_line_are_named(tmp_path, folder):
    folder(tmp_path, ["cat.png", "dog.png"])
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "cat.png", "text": "c"}\n{"file_name": "dog.jpg", "text": "d"}'
    )
    source = open_source(tmp_path)
    assert kinds(source) == [("dog.jpg", "caption orphaned"), ("dog.png", "caption missing")]
    assert source.faults[0].fix == "Did you mean dog.png?" and '{"file_name": "dog.png"' in source.faults[1].fix


def test_captions_that_are_no_text_are_faults(tmp_path, folder):
    folder(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00broken")
    (tmp_path / "c.txt").write_bytes(b"long " * 20_000)
    assert kinds(open_source(tmp_path)) == [("b.png", "caption unreadable"), ("c.png", "caption unreadable")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", "line 2: not JSON"),
        ("[1]", '"file_name" is missing'),
        ('{"text": "x"}', '"file_name" is missing'),
        ('{"file_name": "a.png", "text": 3}', '"text" is 3'),
    ],
)
def test_a_broken_line_of_metadata_is_named_by_its_number(tmp_path, folder, line, words):
    folder(tmp_path, ["a.png"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n' + line)
    with pytest.raises(DataError, match="line 2") as error:
        open_source(tmp_path)
    assert words in str(error.value)


def test_a_shard_cut_short_is_told(tmp_path, encoded):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for index in range(4):
            info = tarfile.TarInfo(f"{index}.png")
            data = encoded(index)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    whole = buffer.getvalue()
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    assert open_source(path).faults == ()  # negative control

    cuts = 0
    end = 4 * (512 + -(-len(encoded(0)) // 512) * 512)
    for cut in range(512, end, 512):
        path.write_bytes(whole[:cut])
        assert open_source(path).faults, cut
        cuts += 1
    assert cuts > 0


def test_a_compressed_shard_is_told_how_to_be(tmp_path):
    (tmp_path / "a.tar").write_bytes(gzip.compress(bytes(10240)))
    source = open_source(tmp_path)
    assert kinds(source) == [("a.tar", "damaged shard")] and "without compression" in source.faults[0].fix


def test_lone_surrogates_in_captions_are_replaced(tmp_path, folder):
    folder(tmp_path, ["a.png"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a \\ud800 cat"}')
    assert open_source(tmp_path).records[0].captions == ("a ? cat",)
