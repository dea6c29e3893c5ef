"""dev.py: what a newcomer runs first. The installation itself is CI's business; here is what decides about it."""

import ast
import importlib.util
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from sfumato.errors import ENCODER_PACKAGE, EXTRAS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def dev(tmp_path, monkeypatch):
    """The module dev.py, working on an empty checkout in which installing only takes notes."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text("")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp.json")
    monkeypatch.setattr(module, "installed", [], raising=False)
    monkeypatch.setattr(module, "make_environment", lambda: ["pip"])
    monkeypatch.setattr(module, "install", lambda pip, arguments, what: module.installed.append(what))
    monkeypatch.setattr(module, "kernel_as_shipped", module.compile_kernel, raising=False)
    monkeypatch.setattr(module, "compile_kernel", lambda: None)
    return module


def test_a_second_start_installs_nothing(dev):
    dev.set_up("demo")
    assert dev.installed == ["sfumato", "the frozen sentence encoder"]
    dev.set_up("demo")
    assert len(dev.installed) == 2


def test_the_environment_of_the_tests_serves_the_demo_but_not_the_other_way_round(dev):
    dev.set_up("demo")
    dev.set_up("dev")
    assert dev.installed[2:] == ["sfumato[dev]", "the frozen sentence encoder"]
    dev.set_up("demo")
    assert len(dev.installed) == 4


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_inputs_install_again(dev, name):
    dev.set_up("demo")
    with (dev.ROOT / name).open("a") as file:
        file.write("\n# changed\n")
    dev.set_up("demo")
    assert len(dev.installed) == 4


def test_a_moved_checkout_installs_again(dev, tmp_path, monkeypatch):
    dev.set_up("demo")
    before = dev.fingerprint()
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).write_text((tmp_path / name).read_text())
    monkeypatch.setattr(dev, "ROOT", tmp_path / "moved")
    assert dev.fingerprint() != before


def test_an_installation_that_fails_leaves_no_stamp(dev, monkeypatch):
    dev.set_up("demo")
    (dev.ROOT / "constraints.txt").write_text("torch==0\n")

    def fail(*arguments):
        raise SystemExit("no such version")

    monkeypatch.setattr(dev, "install", fail)
    with pytest.raises(SystemExit):
        dev.set_up("demo")
    assert not dev.STAMP.exists()


@pytest.mark.parametrize(
    ("program", "told"),
    [("#!/bin/sh\necho convolutions of our own", "convolutions of our own"), ("#!/bin/sh\nexit 1", "PyTorch will do")],
)
def test_the_kernel_is_compiled_ahead_and_never_in_the_way(dev, capsys, program, told):
    dev.PYTHON.write_text(program)
    dev.PYTHON.chmod(0o755)
    dev.kernel_as_shipped()
    assert told in capsys.readouterr().out


def test_an_old_python_is_told_which_one_to_use(dev, monkeypatch):
    monkeypatch.setattr(dev.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(dev.shutil, "which", lambda name: "/usr/bin/python3.11" if name == "python3.11" else None)
    monkeypatch.setattr(dev.sys, "argv", ["dev.py", "demo"])
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer(.|\n)*run: /usr/bin/python3\.11 dev\.py demo"):
        dev.check_python()

    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"Install Python 3\.11 or newer"):
        dev.check_python()


def test_it_can_be_parsed_by_pythons_back_to_3_6():
    ast.parse((ROOT / "dev.py").read_text(), feature_version=(3, 6))


def test_it_imports_the_standard_library_only():
    tree = ast.parse((ROOT / "dev.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_an_unknown_verb_shows_the_verbs():
    start = time.perf_counter()
    done = subprocess.run([sys.executable, ROOT / "dev.py", "tests"], capture_output=True, text=True)

    assert done.returncode == 2
    assert "dev.py test" in done.stdout
    assert time.perf_counter() - start < 2


def test_extras_and_encoder_are_the_same_everywhere(dev):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert dev.ENCODER == ENCODER_PACKAGE
    assert {extra.strip("[]") for extra in dev.EXTRAS.values() if extra} <= extras.keys()
    for extra, (packages, _) in EXTRAS.items():
        assert [re.split("[><=]", needed)[0] for needed in extras[extra]] == list(packages)
        assert extra in extras["dev"][0]


def test_constraints_pin_exactly_and_without_a_build_label():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]

    assert "torch==2.13.0" in lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.]*([.]post[0-9]+)?", line), line
