"""Every verb with every odd argument: it does its work, or says in words what is wrong and how to mend it."""

import os
import re

import pytest
from PIL import Image

from sfumato.cli import main as cli

VERBS = [[verb] for verb in cli.VERBS] + [["data"], *(["data", verb] for verb in cli.DATA)]
PLACES = {  # verb -> its arguments, PATH where an odd path goes, PICTURES where a good folder does
    "rerun": [["PATH"]],
    "train": [["--recipe", "PATH"], ["PICTURES", "--recipe", "folder", "--out", "PATH", "--set", "codec.size=2"]],
    "explain": [["--picture", "PATH"]],
    "evaluate": [["PATH", "PICTURES"]],
    "compare": [["PATH", "emoji"]],
    "release": [["PATH"]],
    "search-grid": [["PATH"]],
    "generate": [["a heart", "--model", "PATH"]],
    "recipes": [["PATH"]],
    "data get": [["PATH"]],
    "data show": [["PATH"], ["PICTURES", "--out", "PATH"]],
    "data scan": [["PATH"]],
}
ODD_PATHS = (
    "", "nowhere", "file", "file/below", "empty", "pipe", "loop", "text.yaml", "broken.png", "sparse", "x" * 300,
    "x/" * 3000, "/dev/null", "/dev/full", "~nobody/x", "心/é\u202e", "\x1b[2J", "-", "\udcff",
)  # fmt: skip
ODD_VALUES = ("", " ", "-1", "0", "nan", "1e400", "9" * 20, "x", "1,2", "[1]", "心", "\x1b[2J", "x" * 5000)
OPTIONS = {  # verb and its arguments -> options that take a number or a word
    ("generate", "a heart"): ("--n", "--steps", "--guidance", "--seed", "--size", "--solver", "--times", "--backend"),
    ("evaluate", "nowhere", "nowhere"): ("--n", "--nll-n", "--chain", "--probes", "--alarm", "--metrics"),
    ("compare", "nowhere", "elsewhere"): ("--n", "--metrics", "--grid", "--metric"),
    ("release", "nowhere"): ("--n", "--nll-n", "--at-most", "--at-least"),
    ("search-grid", "nowhere"): ("--steps", "--n"),
    ("data", "show", "pictures"): ("--columns", "--rows"),
    ("train", "nowhere"): ("--set", "--dry-run"),
}
RIGHT = {  # odd values that are right; --seed takes any 64-bit number, and " " stands for no value
    "--seed": {"0", "9" * 20}, "--n": {"1"}, "--guidance": {"0"},
}  # fmt: skip


def in_words(code: int, out: str, err: str) -> bool:
    """Whether the command did its work, or said what is wrong in words."""
    assert "Traceback" not in err
    assert "\x1b[2J" not in out + err
    assert len(err) < 10_000
    if code == 2:
        assert re.search(r"^error: \S", err, re.MULTILINE), err
        assert re.search(r"^  fix: \S", err, re.MULTILINE), err
        assert not re.search(r"\[Errno|Error\(|<class|pydantic|cyclopts", err), err
    return code == 2


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with all kinds of things that a path may lead to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"some bytes")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text.yaml").write_text("- just\n- a list\n")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 * 2**30)
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 9, 9)).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


NEEDING = [verb for verb in VERBS if verb[-1] not in ("generate", "explain", "recipes", "doctor", "data", "get")]


@pytest.mark.parametrize("verb", NEEDING, ids=" ".join)
def test_a_verb_without_arguments_says_what_is_missing(verb, here, capsys):
    assert cli.main(verb) == 2
    assert in_words(2, *capsys.readouterr())


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_an_unknown_option_is_told_with_those_that_there_are(verb, here, capsys):
    assert cli.main([*verb, "--zzzzzz"]) == 2
    out, err = capsys.readouterr()
    assert in_words(2, out, err)
    assert "--zzzzzz" in err


PAIRS = [(verb, place) for verb, all_places in PLACES.items() for place in range(len(all_places))]


@pytest.mark.parametrize(("verb", "place"), PAIRS, ids=[f"{verb} {place}" for verb, place in PAIRS])
def test_an_odd_path_is_told_in_words(verb, place, here, capsys):
    for path in ODD_PATHS:
        if path.endswith(".png") and "--out" in PLACES[verb][place]:
            continue  # a right name: a sheet replaces what is there
        given = {"PATH": path, "PICTURES": "pictures"}
        words = [str(given.get(word, word)) for word in PLACES[verb][place]]
        code = cli.main([*verb.split(), *words])
        out, err = capsys.readouterr()
        assert in_words(code, out, err), (path, code, out, err)


CASES = [(words, option) for words, options in OPTIONS.items() for option in options]


@pytest.mark.parametrize(("words", "option"), CASES, ids=[f"{words[0]} {option}" for words, option in CASES])
def test_an_odd_value_is_told_in_words(words, option, here, capsys):
    for value in ODD_VALUES:
        if value in RIGHT.get(option, ()):
            continue
        code = cli.main([*words, option, value])
        out, err = capsys.readouterr()
        assert in_words(code, out, err), (value, code, out, err)
