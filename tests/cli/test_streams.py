"""Where the command line writes: without a reader, room, a character or width, the work goes on or ends in words."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato.cli import main as cli
from sfumato.cli import streams
from sfumato.cli.progress import Terminal
from sfumato.errors import of_memory, of_system

FULL = Path("/dev/full")
COMMAND = [sys.executable, "-m", "sfumato"]


def unread() -> io.TextIOWrapper:
    """A stream into a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return io.TextIOWrapper(os.fdopen(writing, "wb"), encoding="utf-8", line_buffering=True)


# --- width -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["0", "1", "2", "3", "-5", "²", "wide", "", "9" * 30])
def test_help_ends_in_any_width_that_the_environment_names(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "²")
    for verb in ([], ["recipes"], ["data", "show"]):
        assert cli.main([*verb, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Examples:")
        assert len(out) < 100_000


@pytest.mark.parametrize(("said", "taken"), [("1", "20"), ("19", "20"), ("20", "20"), ("99999", "1000"), ("0", None)])
def test_the_width_is_one_that_text_fits_in(said, taken, monkeypatch):
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(streams, "terminal_width", lambda: 0)
    streams.set_width()
    assert os.environ.get("COLUMNS") == taken


def test_a_terminal_of_one_column_is_written_to_as_one_of_twenty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr(streams, "terminal_width", lambda: 1)
    streams.set_width()
    assert os.environ["COLUMNS"] == "20"


def test_the_environment_is_as_before_when_a_command_has_ended(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1")
    monkeypatch.delenv("LINES", raising=False)
    before = dict(os.environ), sys.stdout, sys.stderr
    cli.main(["recipes"])
    assert (dict(os.environ), sys.stdout, sys.stderr) == before


# --- no reader -------------------------------------------------------------------------------------------------------


def test_work_goes_on_where_nobody_reads_its_progress(monkeypatch):
    monkeypatch.setattr(sys, "stderr", unread())
    done = []

    def work():
        with Terminal() as terminal:
            for step in range(3):
                terminal.say(f"step {step}")
                terminal.progress("working", step, 3)
                done.append(step)

    monkeypatch.setattr("sfumato.cli.recipes.config.recipes", lambda: work() or {})
    assert cli.main(["recipes"]) == 0
    assert done == [0, 1, 2]


def test_a_fault_that_nobody_reads_has_its_exit_code(monkeypatch):
    monkeypatch.setattr(sys, "stderr", unread())
    assert cli.main(["recipes", "no-such"]) == 2


def test_an_answer_that_nobody_reads_is_no_fault(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", unread())
    assert cli.main(["recipes"]) == 0
    assert capsys.readouterr().err == ""


def test_training_goes_on_to_its_end_when_the_reader_leaves(tmp_path):
    """`sfumato train ... 2>&1 | head -1`"""
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 99, 0)).save(tmp_path / "pictures" / f"{i}.png")
    settings = [
        "codec.size=16",
        "network.channels=32",
        "network.multipliers=[1]",
        "network.blocks=1",
        "training.batch=2",
    ]
    settings += ["network.attention_level=null", "training.steps=3"]
    settings += ["sampling.steps=2", "training.evaluate_every=0"]
    words = [word for setting in settings for word in ("--set", setting)]
    command = [*COMMAND, "train", str(tmp_path / "pictures"), "--out", str(tmp_path / "run"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    assert (tmp_path / "run" / "model" / "model.json").is_file()


def test_a_command_whose_streams_are_all_closed_does_its_work():
    script = f"exec {' '.join(COMMAND)} recipes fashion <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0


# --- no room ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_an_answer_that_has_no_room_is_told(monkeypatch, capsys):
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["recipes"]) == 2
    err = capsys.readouterr().err
    assert "standard output: No space left on device" in err
    assert "fix: free some space" in err


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_progress_that_has_no_room_is_lost_and_nothing_else(monkeypatch, capsys):
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli.main(["recipes", "no-such"]) == 2


@pytest.mark.parametrize(
    ("error", "words", "fix"),
    [
        (OSError(28, "No space left on device", "runs/x/model"), "runs/x/model: No space left", "free some space"),
        (PermissionError(13, "Permission denied", b"odd\xff"), "odd\udcff: Permission denied", "right to it"),
        (OSError(63, "new kind of refusal"), "new kind of refusal", "check the path"),
        (OSError("a library's own words"), "a library's own words", "check the path"),
        (OSError(), "OSError", "check the path"),
        (FileNotFoundError(2, "No such file or directory", "a", None, "b"), "a: No such file", "nothing is there"),
    ],
)
def test_what_the_system_refuses_is_told_with_path_and_fix(error, words, fix, monkeypatch, capsys):
    def refused():
        raise error

    monkeypatch.setattr("sfumato.cli.recipes.config.recipes", refused)
    assert cli.main(["recipes"]) == 2
    told = of_system(error)
    assert words in told.message
    assert fix in told.fix
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (10,)"), "7.45 GiB were asked for"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes."), "40 bytes"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."), "20.00 GiB"),
    ],
)
def test_memory_that_runs_out_is_told_in_words(error, words, monkeypatch, capsys):
    def refused():
        raise error

    monkeypatch.setattr("sfumato.cli.recipes.config.recipes", refused)
    assert cli.main(["recipes"]) == 2
    assert words in capsys.readouterr().err


def test_another_runtime_error_is_no_question_of_memory(monkeypatch):
    assert of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None

    def fault():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("sfumato.cli.recipes.config.recipes", fault)
    with pytest.raises(RuntimeError, match="mat1"):
        cli.main(["recipes"])


# --- no such sign ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_answer_is_written_in_any_encoding(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("sfumato.cli.recipes.config.recipes", lambda: print("心 é \udcff") or {})
    assert cli.main(["recipes"]) == 0
    assert out.errors == "strict"
    written = out.buffer.getvalue().decode(encoding)  # pyright: ignore[reportAttributeAccessIssue]
    assert written.strip() in ("\\u5fc3 \\xe9 \\udcff", "\\u5fc3 é \\udcff", "心 é \\udcff")


def test_the_preview_is_left_out_where_the_terminal_has_no_half_blocks():
    parent, child = pty.openpty()
    with os.fdopen(child, "w", encoding="ascii") as stream, os.fdopen(parent, "rb"):
        from PIL import Image
        from rich.console import Console

        terminal = Terminal()
        terminal.console = Console(file=stream, force_terminal=True)
        terminal.show([Image.new("RGB", (8, 8))])
        assert terminal.live.preview is None
