"""The package and its command start at once: nothing heavy is imported before it is used."""

import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "numpy", "scipy", "PIL", "tokenizers", "datasets", "tensorboard", "safetensors")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def fastest(code: str, runs: int = 5) -> float:
    """Seconds that `code` reports of itself, the least of several: the machine may be busy with other tests."""
    timed = f"import time; start = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
    return min(float(python(timed).splitlines()[-1]) for _ in range(runs))


def test_import_sfumato_takes_less_than_0_3_s():
    assert fastest("import sfumato") < 0.3


def test_help_takes_less_than_0_5_s_as_a_whole_process():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sfumato", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


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
