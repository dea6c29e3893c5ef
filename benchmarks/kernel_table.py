"""At how many tiles of 4 x 4 pixels the kernel in C++ becomes faster than PyTorch, by instruction set and channels.

    python benchmarks/kernel_table.py --threads 1

`TILES` in `sfumato.networks.native` comes from this table. Both programs take turns in one process; each cell is the
median of PyTorch's time / the kernel's time. "train" is forward and the gradients of the input and of the filters.

On a processor with AVX-512 the table of AVX2 is a stand-in: PyTorch and its libraries are told to use no more than
AVX2, and the kernel is compiled for it. Clock and caches stay those of this processor.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.allocator import keep_freed_memory
from sfumato.networks import native

STAND_IN = {"AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}
CHANNELS = [(32, 32), (64, 64), (128, 128), (256, 256), (512, 512), (512, 256), (128, 256)]
TILES = {1: (1, 4), 2: (2, 4), 3: (3, 4), 4: (4, 4), 8: (8, 4), 16: (4, 8), 64: (4, 16), 256: (4, 32), 2048: (32, 32)}
MOST = 1e10  # operations of a convolution; larger ones show nothing new

Table = dict[str, dict[str, float]]  # channels -> tiles -> ratio


def ratio(theirs: Callable[[], object], ours: Callable[[], object], repeats: int) -> float:
    """The median of their time over ours; each turn of either takes about a millisecond or more."""
    for call in (theirs, ours):
        call()
    begin = time.perf_counter()
    theirs()
    times = max(1, round(0.001 / (time.perf_counter() - begin)))
    found = []
    for _ in range(repeats):
        seconds = []
        for call in (theirs, ours):
            begin = time.perf_counter()
            for _ in range(times):
                call()
            seconds.append(time.perf_counter() - begin)
        found.append(seconds[0] / seconds[1])
    return round(median(found), 2)


def kernel_here() -> native.Native:
    """The kernel for the instructions that PyTorch uses."""
    compiler = next(filter(None, map(shutil.which, native.COMPILERS)))
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernel.so"
        native.build(compiler, torch.backends.cpu.get_cpu_capability(), library)
        return native.Native(ctypes.CDLL(str(library)))


def of_shape(
    kernel: native.Native, inputs: int, outputs: int, batch: int, side: int, repeats: int
) -> tuple[float, float]:
    """The ratios of a convolution, and of one with its gradients."""
    last = torch.channels_last
    w = torch.randn(outputs, inputs, 3, 3).contiguous(memory_format=last).requires_grad_()
    x = torch.randn(batch, inputs, side, side).contiguous(memory_format=last).requires_grad_()
    grad = torch.randn(batch, outputs, side, side).contiguous(memory_format=last)

    def theirs() -> Tensor:
        return F.conv2d(x, w, padding=1)

    def ours() -> Tensor:
        return native._Convolution.apply(kernel, x, w, None, None, None, None, None, None, False)

    def trained(forward: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(), (x, w), grad)

    with torch.no_grad():
        forward = ratio(theirs, ours, repeats)
    return forward, ratio(trained(theirs), trained(ours), repeats)


def measure(repeats: int) -> dict[str, Table]:
    """The tables of this process."""
    keep_freed_memory()  # as training does
    kernel = kernel_here()
    found: dict[str, Table] = {"forward": {}, "train": {}}
    for inputs, outputs in CHANNELS:
        for tiles, (batch, side) in TILES.items():
            if 2 * 9 * inputs * outputs * 16 * tiles > MOST:
                continue
            for table, value in zip(
                found.values(), of_shape(kernel, inputs, outputs, batch, side, repeats), strict=True
            ):
                table.setdefault(f"{inputs} to {outputs}", {})[str(tiles)] = value
    return found


def show(table: Table) -> None:
    print(f"{'tiles':>12}", *(f"{tiles:>6}" for tiles in TILES))
    for row, cells in table.items():
        print(f"{row:>12}", *(f"{cells.get(str(tiles), ''):>6}" for tiles in TILES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=["AVX512", "AVX2"])
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(options.repeats)))
        return

    for name in [options.only] if options.only else ["AVX512", "AVX2"]:
        command = [sys.executable, __file__, "--inner", "--threads", options.threads, "--repeats", options.repeats]
        environment = {**os.environ, **STAND_IN.get(name, {})}
        answer = subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.PIPE, check=True)
        for kind, table in json.loads(answer.stdout).items():
            print(f"\n{name}, {kind}, threads: {options.threads}")
            show(table)


if __name__ == "__main__":
    main()
