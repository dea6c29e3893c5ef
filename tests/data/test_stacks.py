"""Arrays from stacks, archives and Zarr stores: what is understood, what is refused, what belongs to each sample."""

import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.cli.data import scan, show
from sfumato.data.faults import DataError
from sfumato.data.records import Asked, Source
from sfumato.data.sources import open_source
from sfumato.data.stacks import as_npy
from sfumato.errors import MissingPackage

zarr: Any = pytest.importorskip("zarr")


def values(count: int = 12, *sides: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, (count, *(sides or (6, 7)))).astype(dtype)


def contents(source: Source) -> list[bytes]:
    return [record.open() for record in source.records]


def same(source: Source, expected: np.ndarray) -> None:
    assert source.faults == () and contents(source) == [as_npy(value) for value in expected]


def store(path: Path, array: np.ndarray, **options: Any) -> Path:
    made = zarr.create_array(path, shape=array.shape, dtype=array.dtype, **{"chunks": array.shape, **options})
    made[...] = array
    return path


def saved(folder: Path, form: str, array: np.ndarray) -> Path:
    """The array in a file or folder of the given form."""
    folder.mkdir(exist_ok=True)
    path = folder / f"a.{form}"
    if form == "npy":
        np.save(path, array)
    elif form == "npz":
        np.savez(path, array)
    elif form == "packed.npz":
        np.savez_compressed(path, array)
    elif form == "fortran.npy":
        np.save(path, np.asfortranarray(array))
    elif form.endswith("zarr"):
        shards = {"shards": (6, *array.shape[1:])} if form == "shards.zarr" else {}
        store(path, array, chunks=(3, *array.shape[1:]), zarr_format=2 if form == "2.zarr" else 3, **shards)
    else:
        with zarr.storage.ZipStore(path, mode="w") as packed:
            zarr.create_array(packed, shape=array.shape, dtype=array.dtype)[...] = array
    return path


FORMS = ["npy", "npz", "packed.npz", "fortran.npy", "zarr", "2.zarr", "shards.zarr", "zarr.zip", "zip"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whole", [True, False])
def test_one_file_alone_is_a_stack_and_the_same_data_as_a_folder_of_its_samples(form, whole, tmp_path):
    array = values()
    path = saved(tmp_path / "data", form, array)
    source = open_source(path if whole else path.parent)
    same(source, array)
    assert f"samples along the first axis of {path.name}, each 6 x 7 float32" in source.describe()
    assert "12 arrays" in source.describe()


@pytest.mark.parametrize("form", ["npy", "npz", "zarr", "2.zarr", "zarr.zip"])
def test_of_several_files_each_is_a_sample_unless_the_setting_says_otherwise(form, tmp_path):
    array = values(8)
    for i in range(2):
        saved(tmp_path, form, array[4 * i : 4 * i + 4]).rename(tmp_path / f"{i}.{form}")
    samples = open_source(tmp_path)
    assert len(samples.records) == 2 and "each file is one sample" in samples.describe()
    found = [np.load(io.BytesIO(data)) for data in contents(samples)]
    if form == "npz":
        found = [each["arr_0"] for each in found]
    assert np.array_equal(np.concatenate(found), array)
    same(open_source(tmp_path, asked=Asked(stacked=True)), array)


def test_what_may_be_samples_or_stacks_is_refused_with_the_setting(tmp_path):
    for count in (3, 5):
        np.save(tmp_path / f"{count}.npy", values(count))
    with pytest.raises(DataError, match=r"data.stacked: auto, but 3.npy of 3 x 6 x 7 and others differ") as told:
        open_source(tmp_path)
    assert "set data.stacked to true if" in told.value.fix
    assert len(open_source(tmp_path, asked=Asked(stacked=True)).records) == 8
    assert len(open_source(tmp_path, asked=Asked(stacked=False)).records) == 2
    np.save(tmp_path / "alone.npy", values(3, 20, 20))
    with pytest.raises(DataError, match=r"alone.npy of 3 x 20 x 20 may be 3 samples, or one of 3 channels"):
        open_source(tmp_path / "alone.npy")
    assert len(open_source(tmp_path / "alone.npy", asked=Asked(stacked=True)).records) == 3
    with pytest.raises(DataError, match=r"data.stacked: false, and .*alone.npy is one file"):
        open_source(tmp_path / "alone.npy", asked=Asked(stacked=False))


def test_the_array_and_its_labels_are_found_by_name_or_asked_for(tmp_path):
    array, labels = values(), np.arange(12) % 3
    np.savez(tmp_path / "a.npz", images=array, labels=labels)
    source = open_source(tmp_path / "a.npz")
    same(source, array)
    assert source.classes == ("0", "1", "2") and [record.label for record in source.records[:4]] == ["0", "1", "2", "0"]
    parts = {"x_train": array, "y_train": np.array(["cat", "dog"] * 6), "x_test": array[:2], "y_test": labels[:2]}
    np.savez(tmp_path / "b.npz", **parts)
    with pytest.raises(DataError, match=r"(?s)it holds 4 arrays: x_train \(12, 6, 7\), .* data.array=x_train"):
        open_source(tmp_path / "b.npz")
    source = open_source(tmp_path / "b.npz", asked=Asked(array="x_train"))
    same(source, array)
    assert source.classes == ("cat", "dog")
    with pytest.raises(DataError, match=r"no array 'x_tran', but x_train"):
        open_source(tmp_path / "b.npz", asked=Asked(array="x_tran"))
    group = zarr.create_group(tmp_path / "c.zarr")
    for name, part in {"deep/images": array, "labels": labels}.items():
        group.create_array(name, shape=part.shape, dtype=part.dtype)[...] = part
    source = open_source(tmp_path / "c.zarr")
    same(source, array)
    assert source.classes == ("0", "1", "2")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "txt"])
@pytest.mark.parametrize("whole", [True, False])
def test_rows_and_lines_beside_a_stack_are_of_its_samples_in_order(ending, whole, tmp_path):
    np.save(tmp_path / "a.npy", values(6))
    rows = [{"text": f"wave {i}", "label": "ab"[i % 2], "person": f"p{i // 2}"} for i in range(6)]
    lines = {
        "csv": ["text,label,person", *(",".join(row.values()) for row in rows)],
        "jsonl": [json.dumps(row) for row in rows],
        "txt": [row["text"] for row in rows],
    }[ending]
    (tmp_path / f"a.{ending}").write_text("\n".join(lines) + "\n")
    path = tmp_path / "a.npy" if whole else tmp_path
    source = open_source(path, "" if ending == "txt" else "person")
    assert source.faults == () and [record.captions for record in source.records] == [(row["text"],) for row in rows]
    if ending != "txt":
        assert [record.label for record in source.records] == ["a", "b"] * 3
        assert [record.group for record in source.records] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    (tmp_path / f"a.{ending}").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match=r"has 5 (rows|lines) for the 6 samples"):
        open_source(path)


def test_what_is_said_of_arrays_is_read_as_of_pictures(tmp_path):
    for i, name in enumerate(["sine/1.npy", "sine/2.npy", "noise/1.npy", "noise/2.npy"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, values(5, 30)[i])
    (tmp_path / "sine" / "1.txt").write_text("a slow one\n")
    for name in ("sine/2", "noise/1", "noise/2"):
        (tmp_path / f"{name}.txt").write_text("")
    source = open_source(tmp_path, "folder")
    assert source.classes == ("noise", "sine") and source.faults == ()
    assert {r.locator: (r.label, r.captions, r.group) for r in source.records}["sine/1.npy"] == (
        "sine", ("a slow one",), "sine",
    )  # fmt: skip
    for text in tmp_path.rglob("*.txt"):
        text.unlink()
    rows = [f'{{"file_name": "{r.locator}", "text": "t{i}", "who": "w{i % 2}"}}' for i, r in enumerate(source.records)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    told = open_source(tmp_path, "who")
    assert [(r.captions, r.group) for r in told.records] == [((f"t{i}",), f"w{i % 2}") for i in range(4)]


def test_stacks_in_class_folders_give_their_class_to_every_sample(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "all.npy", values(3))
    source = open_source(tmp_path, asked=Asked(stacked=True))
    assert [record.label for record in source.records] == ["cat"] * 3 + ["dog"] * 3


def test_a_store_is_data_and_no_folder_of_files(tmp_path):
    for i in range(3):
        store(tmp_path / f"{i}.zarr", values(5)[i])
        (tmp_path / f"{i}.txt").write_text(f"number {i}\n")
    source = open_source(tmp_path)
    assert [record.locator for record in source.records] == ["0.zarr", "1.zarr", "2.zarr"]
    assert [record.captions for record in source.records] == [("number 0",), ("number 1",), ("number 2",)]
    before = [record.stamp for record in source.records]
    zarr.open(tmp_path / "1.zarr", mode="r+")[...] = 7
    after = [record.stamp for record in open_source(tmp_path).records]
    assert before[0] == after[0] and before[1] != after[1]


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    store(tmp_path / "a.zarr", values())
    monkeypatch.setitem(sys.modules, "zarr", None)
    for path in (tmp_path, tmp_path / "a.zarr"):
        with pytest.raises(MissingPackage, match=r"reading Zarr needs the package 'sfumato\[arrays\]'") as told:
            open_source(path)
        assert "sfumato[arrays]" in told.value.fix


def test_a_stack_of_two_gigabytes_opens_without_being_read(tmp_path):
    shape = (500_000, 32, 32)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        os.truncate(file.fileno(), file.tell() + 4 * int(np.prod(shape)))
    begin = time.process_time()
    source = open_source(tmp_path / "a.npy")
    first, last = source.records[0].open(), source.records[-1].open()
    assert len(source.records) == 500_000 and len(first) == len(last) == 128 + 4096
    assert time.process_time() - begin < 4  # one second


# ---- hostile files


class Marked:
    """Unpickling this makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


HOSTILE = {
    "a terabyte": (header("(1000000, 1000000)") + bytes(100), "claims 4,000,000,000,128 bytes"),
    "beyond all numbers": (header(f"({2**62}, {2**62}, 8)") + bytes(100), "the header claims"),
    "negative": (header("(-4, 6, 7)") + bytes(672), r"its shape \(-4, 6, 7\) cannot be"),
    "no values": (header("(0, 6, 7)"), "has no values"),
    "cut short": (header("(4, 6, 7)") + bytes(671), "claims 800 bytes .* and there are 799"),
    "too long": (header("(4, 6, 7)") + bytes(673), "claims 800 bytes"),
    "no shape": (header("(4, 6, seven)") + bytes(9), "its header cannot be read"),
    "deep": (header("(" * 300 + ")" * 300) + bytes(9), "its header cannot be read"),
    "a header of megabytes": (
        b"\x93NUMPY\x02\x00" + (2**22).to_bytes(4, "little") + b" " * 2**22, "its header cannot be read",
    ),
    "text": (header("(4, 6)", "'<U3'") + bytes(4 * 6 * 12), "are no numbers"),
    "fields": (header("(4, 6)", "[('a', '<f4')]") + bytes(4 * 6 * 4), "are no numbers"),
    "complex": (header("(4, 6)", "'<c8'") + bytes(4 * 6 * 8), "(?s)complex numbers .* two channels"),
    "objects": (header("(4, 6)", "'|O'") + bytes(64), "Python objects, which are not read"),
    "nothing": (b"", "its header cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_refused_before_anything_is_read(name, tmp_path):
    data, words = HOSTILE[name]
    (tmp_path / "a.npy").write_bytes(data)
    begin = time.process_time()
    with pytest.raises(DataError, match=words):
        open_source(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as packed:
        packed.writestr("a.npy", data)
    with pytest.raises(DataError, match=words):
        open_source(tmp_path / "b.npz")
    assert time.process_time() - begin < 1


def test_a_pickle_is_never_run(tmp_path):
    mark = tmp_path / "run"
    np.save(tmp_path / "a.npy", np.array([[Marked(str(mark))]] * 3, dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", np.array([[Marked(str(mark))]] * 3, dtype=object), allow_pickle=True)
    for name in ("a.npy", "b.npz"):
        with pytest.raises(DataError, match=r"Python objects"):
            open_source(tmp_path / name)
    store(tmp_path / "c.zarr", values(), zarr_format=2)
    meta = json.loads((tmp_path / "c.zarr" / ".zarray").read_text())
    for change in ({"compressor": {"id": "pickle"}}, {"filters": [{"id": "pickle"}]}, {"dtype": "|O"}):
        (tmp_path / "c.zarr" / ".zarray").write_text(json.dumps(meta | change))
        with pytest.raises(DataError, match=r"'pickle', which is not read|objects|can be read"):
            open_source(tmp_path / "c.zarr")
    assert not mark.exists()


def test_what_unpacks_to_more_than_it_may_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open("a.npy", "w") as member,
    ):
        member.write(header("(300, 1024, 1024)", "'|u1'"))
        for _ in range(300):
            member.write(bytes(2**20))
    with pytest.raises(DataError, match=r"'a' has 314,572,928 bytes unpacked, limit 268,435,456"):
        open_source(tmp_path / "a.npz")


STORES = [
    ({"shape": [10**12, 8], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 8]}}},
     "samples takes .* GiB of memory"),
    ({"shape": [12, 10**9], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [12, 10**9]}}},
     "a chunk has 48,000,000,000 bytes unpacked"),
    ({"shape": [-1, 8]}, "non-negative"),
    ({"codecs": [{"name": "numcodecs.pickle"}]}, "Unknown codec"),
    ({"data_type": "complex64", "fill_value": [0.0, 0.0]}, "complex numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), STORES)
def test_metadata_of_a_store_that_lie_are_refused(change, words, tmp_path):
    path = store(tmp_path / "a.zarr", values())
    meta = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(meta | change))
    with pytest.raises(DataError, match=words):
        open_source(path)


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc", "zlib"])
def test_a_chunk_that_unpacks_to_more_than_its_shape_has_is_refused(codec, tmp_path):
    import numcodecs

    kinds = {"gzip": numcodecs.GZip, "zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc, "zlib": numcodecs.Zlib}
    path = store(tmp_path / "a.zarr", values(), zarr_format=2, compressors=kinds[codec]())
    same(open_source(path), values())
    chunk = next(each for each in path.iterdir() if each.name[0] != ".")
    chunk.write_bytes(kinds[codec]().encode(bytes(2**26)))
    record = open_source(path).records[0]
    with pytest.raises(Exception, match=r"unpacks to"):
        record.open()


def test_a_link_out_of_a_store_is_a_fault(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(100))
    for i in range(2):
        store(tmp_path / "data" / f"{i}.zarr", values(5)[i])
    (tmp_path / "data" / "1.zarr" / "c" / "9").symlink_to(tmp_path / "secret")
    source = open_source(tmp_path / "data")
    assert [(fault.path, fault.kind) for fault in source.faults] == [("1.zarr", "link")]
    with pytest.raises(DataError, match=r"leads out of the store"):
        open_source(tmp_path / "data" / "1.zarr")


def test_a_pipe_in_the_place_of_a_table_or_an_array_does_not_stop_the_listing(tmp_path):
    np.save(tmp_path / "a.npy", values())
    os.mkfifo(tmp_path / "metadata.csv")
    os.mkfifo(tmp_path / "b.npy")
    kinds = {fault.path: fault.kind for fault in open_source(tmp_path).faults}
    assert kinds["metadata.csv"] == kinds["b.npy"] == "unreadable"


def test_arrays_are_scanned_and_shown(tmp_path, capsys):
    np.save(tmp_path / "a.npy", values(20))
    (tmp_path / "files").mkdir()
    for i in range(3):
        np.save(tmp_path / "files" / f"{i}.npy", values(3)[i] if i else np.full((6, 7), np.nan, np.float32))
    assert scan(str(tmp_path / "a.npy")) == 0 and scan(str(tmp_path / "files")) == 1
    assert "0.npy: array: it holds 42 NaN of 42 values" in capsys.readouterr().out
    show(str(tmp_path / "a.npy"), out=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = sheet.convert("RGB").getcolors(2**24)
    assert colours and (179, 38, 30) not in {colour for _, colour in colours}  # a red tile is one that cannot be read
