"""The machine that a run works on: its device, and the description that the run keeps of it."""

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGE = Path(__file__).parents[1]


def device() -> torch.device:
    """The best device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def environment() -> dict:
    """The machine of a run: enough to explain a difference, nothing that names a person or a place."""
    return {
        "sfumato": version("sfumato"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else device().type,
    }


def commit() -> str | None:
    """The commit of a source checkout, and whether the code was changed since.

    None for an installed package, or if there is no git.
    """
    here = Path(__file__)
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if not git("ls-files", here.name):
        return None
    changed = git("status", "--porcelain", "--", str(PACKAGE))
    return git("rev-parse", "HEAD") + (" with uncommitted changes" if changed else "")


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
