"""Programs that take turns: each in a process of its own, set up as the program sets it up, one step at a time.

A load on the machine that outlasts a turn falls on all of them, and the ratios within a turn cancel it. With one
thread, processor time is taken, which other processes disturb less; with more, the clock on the wall.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any

import torch

Steps = Mapping[str, Callable[[], object]]  # what a program can do, by name


def start(build: Callable[..., Steps], *arguments: Any, threads: int = 1) -> Connection:
    """Starts the process of a program, which makes its steps by `build(*arguments)`; "" sent to it ends it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    spawn.Process(target=_serve, args=(there, build, arguments, threads), daemon=True).start()
    there.close()  # so that the end of the process is the end of the pipe
    return here


def _serve(pipe: Connection, build: Callable[..., Steps], arguments: tuple, threads: int) -> None:
    """Takes the name of a step, answers with its seconds, until the name is empty."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    steps = build(*arguments)
    while kind := pipe.recv():
        begin = clock()
        steps[kind]()
        pipe.send(clock() - begin)


def measure(pipes: list[Connection], kind: str, repeats: int, warm: int = 2) -> list[list[float]]:
    """Seconds of the step of each program in each turn; the first `warm` turns are left out."""
    turns = []

    for turn in range(repeats + warm):
        seconds = [0.0] * len(pipes)
        # Start with another one each time, so that none always follows the same neighbour.
        for i in range(len(pipes)):
            i = (i + turn) % len(pipes)
            pipes[i].send(kind)
            seconds[i] = pipes[i].recv()
        turns.append(seconds)

    return turns[warm:]


def of(turns: list[list[float]], column: int) -> float:
    """The median seconds of a program."""
    return median(turn[column] for turn in turns)


def ratio(turns: list[list[float]], column: int, base: int = 0) -> str:
    """How many times as long a program takes as the one at `base`: the median over the turns, and their quartiles."""
    ratios = [turn[column] / turn[base] for turn in turns]
    low, _, high = quantiles(ratios, n=4)
    return f"{median(ratios):.2f} ({low:.2f} to {high:.2f})"


def end(pipes: list[Connection]) -> None:
    """Ends the processes."""
    for pipe in pipes:
        pipe.send("")
