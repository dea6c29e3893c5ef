"""How fast is the U-Net? One sampling step and one training step against `diffusers` with the same weights.

    python benchmarks/unet_speed.py --threads 2 --repeats 15 --precision fp32
    python benchmarks/unet_speed.py --threads 2 --repeats 15 --precision bf16

A sampling step is one evaluation without gradients. A training step is forward, mean squared error, backward, AdamW and
an exponential moving average of the weights. Ours runs as in Sfumato's trainer: channels-last memory, fused AdamW, the
average in one `foreach` call, sampling in inference mode. The peer, `diffusers`' UNet2DModel with our weights copied in
(`tests/networks` checks that the results agree), runs as its training guide has it: float32, contiguous,
`torch.optim.AdamW`, `EMAModel`. With bf16 it runs a second time under the same autocast.

Each program has a process of its own, set up as the program sets it up (ours keeps freed memory, `sfumato.allocator`),
and they take turns, step by step. The table gives the median over the turns of (their time / our time), with the
quartiles of these ratios, so that a load on the machine which outlasts a turn cancels. With one thread, processor time
is taken, which other processes disturb less; with more, the clock on the wall.
"""

from __future__ import annotations

import argparse
import multiprocessing
import runpy
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from sfumato.allocator import keep_freed_memory
from sfumato.networks import UNet

TESTS = Path(__file__).parent.parent / "tests" / "networks"
twin = runpy.run_path(str(TESTS / "test_unet_agrees_with_diffusers.py"))["twin"]
wake_up = runpy.run_path(str(TESTS / "conftest.py"))["wake_up"]

# S: a small network for 32x32 pictures, attention at 16x16. C: DDPM's for CIFAR-10.
SIZES = {
    "S": (32, {"channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention_level": 1}),
    "C": (8, {"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention_level": 1}),
}

Step = Callable[[Tensor, Tensor], None]


def sampling_step(evaluate: Callable[[Tensor, Tensor], Tensor], guard: type, precision: str) -> Step:
    """One evaluation of a network without gradients."""

    def step(x: Tensor, t: Tensor) -> None:
        with guard(), autocast(precision):
            evaluate(x, t)

    return step


def training_step(
    network: nn.Module,
    evaluate: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    average: Callable[[], None],
    precision: str,
) -> Step:
    """Forward, loss, backward, optimizer, moving average."""

    def step(x: Tensor, t: Tensor) -> None:
        with autocast(precision):
            prediction = evaluate(x, t)
        F.mse_loss(prediction.float(), x).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average()

    return step


def autocast(precision: str) -> torch.autocast | nullcontext:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def ours(network: UNet, precision: str) -> dict[str, Step]:
    """Our steps."""
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    weights: list[Tensor] = list(network.parameters())
    mean = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)

    @torch.no_grad()
    def average() -> None:
        torch._foreach_lerp_(mean, weights, 1e-3)  # pyright: ignore[reportPrivateImportUsage]

    return {
        "sampling": sampling_step(network, torch.inference_mode, precision),
        "training": training_step(network, network, optimizer, average, precision),
    }


def theirs(network: nn.Module, precision: str) -> dict[str, Step]:
    """The steps of `diffusers`."""

    def evaluate(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t).sample

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    mean = EMAModel(network.parameters(), decay=0.999)

    return {
        "sampling": sampling_step(evaluate, torch.no_grad, precision),
        "training": training_step(network, evaluate, optimizer, partial(mean.step, network.parameters()), precision),
    }


def build(program: str, size: str, precision: str) -> dict[str, Step]:
    """The steps of "ours" or of "diffusers", on the same weights."""
    torch.manual_seed(0)
    network = wake_up(UNet(3, **SIZES[size][1]))
    if program == "ours":
        keep_freed_memory()
        return ours(network, precision)
    return theirs(twin(network, **SIZES[size][1]), precision)


def serve(pipe: Connection, program: str, size: str, precision: str, threads: int) -> None:
    """The process of one program: takes the name of a step, answers with its seconds, until the name is empty."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    steps = build(program, size, precision)
    batch = SIZES[size][0]
    x, t = torch.randn(batch, 3, 32, 32), torch.rand(batch) * 1000
    while kind := pipe.recv():
        start = clock()
        steps[kind](x, t)
        pipe.send(clock() - start)


def measure(pipes: list[Connection], kind: str, repeats: int) -> list[list[float]]:
    """Seconds of the step of each program in each turn; the first two turns, which warm up, are left out."""
    turns = []

    for turn in range(repeats + 2):
        seconds = [0.0] * len(pipes)
        # Start with another one each time, so that none always follows the same neighbour.
        for i in range(len(pipes)):
            i = (i + turn) % len(pipes)
            pipes[i].send(kind)
            seconds[i] = pipes[i].recv()
        turns.append(seconds)

    return turns[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()

    settings = f"threads {arguments.threads}, turns {arguments.repeats}, ours {arguments.precision}"
    print(f"torch {torch.__version__}, {settings}")
    print("| size | step | ours | diffusers as | diffusers | ratio (quartiles) |")
    print("|---|---|---|---|---|---|")

    programs = [("ours", arguments.precision)]
    programs += [("diffusers", precision) for precision in dict.fromkeys(("fp32", arguments.precision))]
    spawn = multiprocessing.get_context("spawn")

    for size in arguments.sizes:
        pipes = []
        for program, precision in programs:
            here, there = spawn.Pipe()
            spawn.Process(target=serve, args=(there, program, size, precision, arguments.threads), daemon=True).start()
            pipes.append(here)

        for kind in ("sampling", "training"):
            turns = measure(pipes, kind, arguments.repeats)

            for column, (_, precision) in enumerate(programs[1:], start=1):
                ratios = [turn[column] / turn[0] for turn in turns]
                low, _, high = quantiles(ratios, n=4)
                own, other = (median(turn[i] for turn in turns) for i in (0, column))
                print(
                    f"| {size} | {kind} | {own * 1e3:.0f} ms | {precision} | {other * 1e3:.0f} ms "
                    f"| {median(ratios):.2f} ({low:.2f} to {high:.2f}) |",
                    flush=True,
                )

        for pipe in pipes:
            pipe.send("")


if __name__ == "__main__":
    main()
