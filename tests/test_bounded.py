"""Files that claim more than they hold: their size refuses them before they are read."""

import json
import os

import pytest
import torch
from safetensors.torch import save

from sfumato import bounded
from sfumato.bounded import parse_json, read_bytes, read_json, read_tensor_file
from sfumato.errors import UserError, shown


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.truncate(20 * 2**30)
    with pytest.raises(UserError, match="21,474,836,480 bytes, more than the limit of 1,000"):
        read_bytes(file, 1000)


def test_the_limit_itself_is_read_and_one_byte_more_is_not(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    assert read_bytes(file, 1000) == bytes(1000)
    with pytest.raises(UserError, match="more than the limit of 999"):
        read_bytes(file, 999)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_refused_and_not_waited_for(kind, tmp_path):
    file = tmp_path / "it"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="and no file"):
        read_bytes(file, 1000)


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "[" + "[]," * 20 + "1]", "\xff"])
def test_json_beyond_the_bounds_is_a_value_error(text, tmp_path):
    with pytest.raises(ValueError):
        parse_json(text, entries=10)
    (tmp_path / "a.json").write_text(text)
    if text.count(",") == 0:
        with pytest.raises(UserError, match=r"a\.json: not JSON"):
            read_json(tmp_path / "a.json", 10**6)


def test_the_head_of_a_file_of_tensors_names_their_shapes(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(
        save({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.ones(())}, {"x": "y"})
    )
    head = read_tensor_file(file)
    assert head.shapes == {"a": (2, 3), "b": (4,), "c": ()}
    assert head.elements == 11
    assert head.bytes == file.stat().st_size


def test_a_file_of_tensors_beyond_the_free_memory_is_refused_by_its_head(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    head = json.dumps({"a": {"dtype": "F32", "shape": [10 * 2**30], "data_offsets": [0, 40 * 2**30]}}).encode()
    with file.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        stream.truncate(8 + len(head) + 40 * 2**30)
    monkeypatch.setattr(bounded, "free_memory", lambda: 8 * 2**30)
    with pytest.raises(UserError, match=r"40\.0 GiB of weights .* 8\.0 GiB are free"):
        read_tensor_file(file)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a\nb", r"'a\nb'"), ("\x1b[31m", r"'\x1b[31m'"), ("x" * 500, "'" + "x" * 78 + "…"), ([10**4500], "a number of")],
    ids=["two lines", "colours", "long", "digits"],
)
def test_a_value_in_a_message_is_short_and_on_one_line(value, text):
    assert shown(value).startswith(text)
    assert len(shown(value)) <= 80
