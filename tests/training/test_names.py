"""Folders of any name can be trained on and trained into: names are bytes, and no word of them may stop a run."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from sfumato.cli import train as verb
from sfumato.config import change, load_recipe, validate
from sfumato.errors import ConfigError, shell_line
from sfumato.model import Model
from sfumato.training.resolve import locate
from sfumato.training.run import train


def named(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


@pytest.mark.parametrize(
    "name", [b"\xf0\x9f\x93\xb7 my pics", b"a\nb", b"caf\xc3\xa9: #1 '\""], ids=["emoji", "line", "signs"]
)
def test_a_folder_of_any_name_can_be_trained_on(tmp_path, drawn, settings, name):
    pictures, out = drawn(named(tmp_path, name)), tmp_path / "out"
    asked, _ = verb.settings(str(pictures), None, out, ())
    assert Path(asked.data.path) == pictures  # as the command line gives it

    tiny = settings(tmp_path).model_dump(mode="json")
    train(validate(change(tiny, [f"data.path={json.dumps(str(pictures))}"]), "x"), out)
    assert load_recipe(out / "config.yaml").data.path == str(pictures)
    assert Model.load(out / "model").config.data.path == str(pictures)


def test_a_folder_whose_name_is_no_utf_8_can_be_trained_into_and_resumed(tmp_path, drawn, settings):
    pictures, out = drawn(tmp_path / "pictures"), named(tmp_path, b"caf\xe9")
    command = shell_line(["sfumato", "train", "pictures", "--out", str(out)])
    for _ in range(2):  # the second finds all of it again
        train(settings(pictures), out, command=command)
    assert Model.load(out / "model").record["command"] == command
    assert "caf\\xe9" in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_data_whose_path_is_no_utf_8_are_refused_in_words(tmp_path, drawn):
    pictures = drawn(named(tmp_path, b"caf\xe9"))
    with pytest.raises(ConfigError, match="holds bytes that are not UTF-8"):
        verb.settings(str(pictures), None, tmp_path / "out", ())


def test_a_home_in_a_recipe_is_where_the_shell_would_look(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/pictures") == tmp_path / "pictures"


def test_a_line_for_the_shell_can_be_printed_and_gives_the_words_again():
    words = ["sfumato", "a b", "it's", "caf\udce9 x", "\U0001f4f7"]
    line = shell_line(words)
    line.encode("utf-8")
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert said.split(b"\0")[:-1] == [os.fsencode(word) for word in words]
