"""How much of the machine this process may use, by the limits of the system, the container and the shell.

Besides the errors only the standard library is used, so this costs no start-up time.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

from sfumato.errors import UserError

LEAST_THREADS = 64  # any machine can run so many
CGROUP = Path("/sys/fs/cgroup")
PROCESS = Path("/proc")


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def demand_threads(field: str, threads: int) -> int:
    """``threads``, if this machine can run so many; more than processors are allowed, to get another machine's bits.

    Raises:
        UserError: names the field, the number, the limit and the fix.
    """
    limit = max(LEAST_THREADS, 4 * processors())
    if threads > limit:
        raise UserError(
            f"{field}: {threads:,} threads are more than the limit of {limit} on this machine, which has "
            f"{processors()} processors",
            f"choose at most {limit}, or use a machine with more processors",
        )
    return threads


def free_memory() -> int:
    """Bytes that this process can still take before the system or the container ends it."""
    page = os.sysconf("SC_PAGE_SIZE")
    free = [page * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, KeyError, ValueError):
        free.append(numbers(PROCESS / "meminfo")["MemAvailable:"] * 1024)
    with suppress(OSError, KeyError, ValueError):  # a limit of "max" is none; files that were read can be given back
        used = int((CGROUP / "memory.current").read_text()) - numbers(CGROUP / "memory.stat")["inactive_file"]
        free.append(int((CGROUP / "memory.max").read_text()) - used)
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    if addresses != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            free.append(addresses - page * int((PROCESS / "self" / "statm").read_text().split()[0]))
    return max(0, min(free))


def numbers(file: Path) -> dict[str, int]:
    """The first number of every line that begins with a word, keyed by that word."""
    words = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in words if len(row) > 1 and row[1].isdecimal()}
