"""The package and its command start at once: nothing heavy is imported before it is used."""

import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "scipy", "PIL", "tokenizers", "datasets", "tensorboard", "safetensors")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def processor_seconds(*command: str) -> float:
    """Processor time of a command, the least of five runs.

    Starting is single-threaded, so this is what it takes on a free machine; the time on the wall also tells what else
    the machine is doing, other tests to begin with.
    """
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_import_sfumato_takes_less_than_0_3_s():
    assert processor_seconds("-c", "import sfumato") < 0.3


def test_help_takes_less_than_0_5_s():
    assert processor_seconds("-m", "sfumato", "--help") < 0.5


def test_the_measure_sees_a_slow_start():
    assert processor_seconds("-c", "import time\nwhile time.process_time() < 0.5: pass") >= 0.5


@pytest.mark.parametrize("command", [None, ["--help"], ["--version"], ["train", "--help"], ["recipes"]])
def test_nothing_heavy_is_imported(command):
    run = "import sfumato" if command is None else f"from sfumato.cli.main import main\nmain({command!r})"
    loaded = python(f"{run}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules], sep=',')").splitlines()
    assert not loaded or loaded[-1] == "" or not set(loaded[-1].split(",")) & set(HEAVY)


def test_the_check_sees_a_heavy_import():
    assert python(f"import numpy\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])") == "numpy"


def test_public_names_load_on_first_use():
    code = "import sys, sfumato; before = 'torch' in sys.modules; sfumato.Model; print(before, 'torch' in sys.modules)"
    assert python(code) == "False True"


def test_an_unknown_public_name_is_an_attribute_error():
    import sfumato

    with pytest.raises(AttributeError, match="no attribute 'modell'"):
        _ = sfumato.modell
