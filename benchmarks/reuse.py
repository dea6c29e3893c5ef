"""Keeping the deep features of the network for some steps: what does it cost, and what does it save?

    OMP_NUM_THREADS=1 python benchmarks/reuse.py

The default model draws the same pictures from the same seeds with few steps, with and without reuse, and with 100 steps
as the truth. The table gives how far pictures are from the truth (root mean square, of 255 levels) and the processor
time of a picture. Fewer steps are the other way to save time: reuse pays if its error is smaller in the same time.
"""

import argparse
import time

import torch
from torch import Tensor

from sfumato import open_model
from sfumato.allocator import keep_freed_memory
from sfumato.model import Model

TRUTH, GREY = 100, 127.5
PROMPTS = (
    "a red apple",
    "a grinning face",
    "flag of Japan",
    "a red heart",
    "a brown dog",
    "a blue car",
    "a tree",
    "a clock",
)


def draw(model: Model, seeds: range, **settings: object) -> tuple[Tensor, float]:
    """The pictures (N, C, H, W) of every prompt and seed, and seconds of the processor a picture."""
    chosen, ends = model.sampling(**settings), []
    jobs = [(prompt, seed) for prompt in PROMPTS for seed in seeds]
    begin = time.process_time()
    for batch in model.batches(len(jobs)):
        conditions, of = zip(*jobs[batch.start : batch.stop], strict=True)
        *_, last = model.steps(conditions, of, chosen)
        ends.append(last.x)
    return torch.cat(ends).clamp(-1, 1), (time.process_time() - begin) / len(jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="pictures a prompt")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--reuse", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()

    keep_freed_memory()
    torch.set_num_threads(1)  # so that the processor's time is that of the work
    model, seeds = open_model(), range(arguments.seeds)
    truth, _ = draw(model, seeds, steps=TRUTH)
    print("| steps | reuse | miss, of 255 levels | ms a picture |\n|---|---|---|---|")
    for steps in arguments.steps:
        for reuse in arguments.reuse:
            drawn, seconds = draw(model, seeds, steps=steps, reuse=reuse)
            miss = GREY * (drawn - truth).square().mean().sqrt().item()
            print(f"| {steps} | {reuse} | {miss:.1f} | {seconds * 1e3:.0f} |", flush=True)


if __name__ == "__main__":
    main()
