"""What a piece of work costs, measured in a process of its own.

The process is a fork of this one, so torch need not be imported again. Its memory at the start is known, and the system
counts its peak. Its time and memory are limited. Nothing may use the threads of torch before the fork, or they would
not work in the new process.
"""

import math
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

Work = Callable[[], float]  # prepares, and returns the seconds of what is measured


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one measurement, or the limit that it hit ("time" or "memory")."""

    seconds: float = math.nan
    bytes: float = math.nan
    hit: str = ""


def clock() -> float:
    """Seconds: processor time if there is one thread, otherwise wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(call: Callable[[], object]) -> float:
    begin = clock()
    call()
    return clock() - begin


def repeated(call: Callable[[], object], repeats: int) -> float:
    """The median seconds of a call, after one that warms up."""
    call()
    return statistics.median(timed(call) for _ in range(repeats))


def apart(work: Work, seconds: float, gigabytes: float) -> Cost:
    """The cost of `work` in a process of its own, with limits on its wall time and memory."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_child, args=(work, there, gigabytes))
    process.start()
    there.close()
    try:
        answer = here.recv() if here.poll(seconds) else Cost(hit="time")
    except EOFError:  # ended by the system
        answer = Cost(hit="memory")
    process.kill()
    process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _child(work: Work, answer: Connection, gigabytes: float) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before = resident()
    try:
        seconds = work()
        answer.send(Cost(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before))
    except (MemoryError, RuntimeError) as error:  # torch has no class for it
        memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        answer.send(Cost(hit="memory") if memory else error)
    except Exception as error:  # noqa: BLE001 - raised again in the process that asked
        answer.send(error)


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
