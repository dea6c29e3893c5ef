"""Shards follow the same rules as folders: which members count, how text is decoded, what is a fault."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from sfumato.data import DataError, open_source


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def plain(encoded) -> list[tuple[str, bytes]]:
    """Four pictures with a caption each."""
    texts = [(f"{n}.txt", f"thing {n}".encode()) for n in range(4)]
    return [*((f"{n}.png", encoded(n)) for n in range(4)), *texts]


APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100)


@pytest.mark.parametrize(
    "extra",
    [["./._0.png", "._1.txt"], ["__MACOSX/._0.png", "__MACOSX/._1.png"], [".DS_Store"], ["__index__.json"],
     ["README.txt"], ["LICENSE"]],
)  # fmt: skip
def test_members_that_are_no_data_are_passed_over(tmp_path, plain, extra):
    path = shard(tmp_path / "0.tar", [*((name, APPLE) for name in extra), *plain])
    source = open_source(path)
    assert source.faults == () and [r.captions for r in source.records] == [(f"thing {n}",) for n in range(4)]
    assert source.describe() == "WebDataset (1 shard): 4 pictures, all with captions"


def test_pictures_of_licence_plates_are_read(tmp_path, encoded):
    """Their names begin as those of files about the data do."""
    members = [("license_plate.png", encoded(0)), ("license_plate.txt", b"words"), ("dataset.png", encoded(1))]
    source = open_source(shard(tmp_path / "0.tar", members))
    assert [r.captions for r in source.records] == [("words",), ()] and source.faults == ()


def test_other_members_are_named_with_their_counts(tmp_path, plain):
    path = shard(tmp_path / "0.tar", [*plain, *((f"{n}.npy", b"x") for n in range(3))])
    assert open_source(path).describe().endswith("ignored: 3 .npy")


@pytest.mark.parametrize(
    ("content", "caption"),
    [(b"\xef\xbb\xbfa thing\r\n", "a thing"), ("grün".encode("utf-16"), "grün"), (b"caf\xe9", None),
     ("a thing".encode("utf-16-le"), None), (b"long " * 20_000, None)],
)  # fmt: skip
def test_text_is_decoded_by_one_rule_in_shards_and_folders(tmp_path, folder, encoded, content, caption):
    path = shard(tmp_path / "0.tar", [("a.png", encoded(0)), ("a.txt", content)])
    root = folder(tmp_path / "folder", ["a.png"])
    (root / "a.txt").write_bytes(content)
    for source in (open_source(path), open_source(root)):
        if caption is None:
            assert [fault.kind for fault in source.faults] == ["caption unreadable"]
        else:
            assert source.faults == () and source.records[0].captions == (caption,)


@pytest.mark.parametrize("text", ["a thing, red", "a thing,\n red"])
def test_a_caption_in_a_text_and_in_json_comes_once(tmp_path, encoded, text):
    about = json.dumps({"caption": text, "url": "x", "status": "success"}).encode()
    path = shard(tmp_path / "0.tar", [("a.jpg", encoded(0)), ("a.txt", text.encode()), ("a.json", about)])
    source = open_source(path)
    assert source.records[0].captions == tuple(line.strip() for line in text.split("\n"))
    assert source.describe().endswith("columns not read: status, url")


def test_two_classes_of_one_picture_are_a_fault(tmp_path, encoded):
    for said, expected in (("dog", ["ambiguous"]), ("cat", [])):
        about = json.dumps({"label": said}).encode()
        path = shard(tmp_path / f"{said}.tar", [("a.png", encoded(0)), ("a.cls", b"cat\n"), ("a.json", about)])
        source = open_source(path)
        assert [fault.kind for fault in source.faults] == expected and source.records[0].label == "cat"


def test_two_texts_of_one_key_and_pictures_with_dots_in_their_names_are_faults(tmp_path, encoded):
    path = shard(tmp_path / "0.tar", [("a.png", encoded(0)), ("a.txt", b"one"), ("a.txt", b"two")])
    assert [fault.kind for fault in open_source(path).faults] == ["ambiguous"]
    path = shard(tmp_path / "1.tar", [("v1.0_1.png", encoded(0)), ("v1.0_2.png", encoded(1))])
    (fault,) = open_source(path).faults
    assert fault.kind == "ambiguous" and "first dot" in fault.fix


def test_json_that_is_none_is_a_fault(tmp_path, encoded):
    contents = [b"{", b"[1]", b"[" * 100_000, b'{"text": 3}']
    members = [(f"{n}.png", encoded(n)) for n in range(4)] + [(f"{n}.json", text) for n, text in enumerate(contents)]
    faults = open_source(shard(tmp_path / "0.tar", members)).faults
    assert [fault.kind for fault in faults] == ["caption unreadable"] * len(contents)


def test_shards_of_another_part_are_left_aside(tmp_path, plain):
    for part in ("train", "val"):
        shard(tmp_path / part / "0.tar", plain)
    source = open_source(tmp_path)
    assert len(source.records) == 4 and source.records[0].locator == "train/0.tar/0.png"
    assert "from train, left aside: val" in source.describe()


def test_what_lies_beside_shards_is_named(tmp_path, plain):
    shard(tmp_path / "0.tar", plain)
    (tmp_path / "0.parquet").write_bytes(b"x")
    assert "ignored: 1 .parquet" in open_source(tmp_path).describe()
    (tmp_path / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(DataError, match=r"metadata\.csv, which is not read then"):
        open_source(tmp_path)
