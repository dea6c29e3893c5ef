"""How much memory does a training step take? Ours, with what saves some, against `diffusers`.

    OMP_NUM_THREADS=1 python benchmarks/step_memory.py

Each measurement has a process of its own, in which a program of `unet_speed.py` makes its network, its optimizer and
its averages and then takes two training steps. What is shown is the most memory that the process held meanwhile
(resident set size, Linux's VmHWM) above what it held before: gradients, the optimizer's moments, activations and what
the libraries hold. All have the same weights, and AdamW but where Muon is named, the default optimizer, which keeps one
moment of a matrix in place of two. Medians of the repeats.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
import unet_speed

PROCESS = Path("/proc/self")
MEBI = 2**20


def resident(status: str, field: str) -> int:
    """Bytes that a field of /proc/self/status tells: VmRSS, held now, or VmHWM, the most that was held."""
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            number, unit = rest.split()
            assert unit == "kB", f"{field} is given in {unit}"
            return int(number) * 1024
    raise ValueError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def peak(work: Callable[[], object]) -> int:
    """The most bytes that this process holds during `work`, above what it held before."""
    (PROCESS / "clear_refs").write_text("5")  # the peak is what is held now
    before = resident((PROCESS / "status").read_text(), "VmRSS")
    work()
    return resident((PROCESS / "status").read_text(), "VmHWM") - before


def measure(pipe: Connection, program: str, size: str, precision: str, threads: int) -> None:
    """Sends the bytes of two training steps."""
    torch.set_num_threads(threads)
    step = unet_speed.build(program, size, precision)["training"]
    pipe.send(peak(lambda: (step(), step())))


def measured(program: str, size: str, precision: str, threads: int) -> int:
    """The bytes of two training steps in a new process."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=measure, args=(there, program, size, precision, threads))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--sizes", nargs="+", choices=unet_speed.SIZES, default=list(unet_speed.SIZES))
    arguments = parser.parse_args()

    heads = ["size", "batch", "precision", "diffusers", "ours", "ratio"]
    heads += ["with activation checkpointing", "ratio", "with Muon", "ratio"]
    print("| " + " | ".join(heads) + " |")
    print("|" + len(heads) * "---|")
    for size in arguments.sizes:
        for precision in arguments.precisions:
            theirs, *ours = (
                median(measured(program, size, precision, arguments.threads) for _ in range(arguments.repeats))
                for program in ("diffusers", "ours", unet_speed.CHECKPOINTED, unet_speed.MUON)
            )
            cells = [size, unet_speed.SIZES[size][0], precision, f"{theirs / MEBI:,.0f} MiB"]
            for value in ours:
                cells += [f"{value / MEBI:,.0f} MiB", f"{value / theirs:.2f}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
