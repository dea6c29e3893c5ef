"""Stacked MNIST: three random digits as red, green and blue make 1,000 modes; how many does a method draw?

    sfumato data get digits
    python benchmarks/gan/stacked_mnist.py

This is the test of Metz et al. 2017 (arXiv:1611.02163): a classifier of real digits reads each colour of 25,600 drawn
pictures. The table gives how many of the 1,000 triples were drawn, and the Kullback-Leibler divergence of the drawn
triples from the triples of the data, here 10,000 digits of MNIST. The same number of real triples shows what a perfect
model would get, because a sample is never quite uniform.

The rate is the best of a grid, chosen by one run at each rate with a quarter of the operations and a fifth of the
pictures. If only one rate is given, there is no such run. Three other seeds train in full.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from contest import RATES, RESULTS, Cell, Tell, best, head, results, row, spread
from pictures import BATCH, METHODS, Draw, contestant, keep, sheet, train
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.allocator import keep_freed_memory
from sfumato.cli.progress import Terminal
from sfumato.codecs.pixels import Pixels
from sfumato.data.catalogue import get
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.keyed import generator, key

sys.path.insert(0, str(Path(__file__).parents[1]))
import fashion_accuracy

SEEDS, TRIAL, TRIAL_BUDGET = (0, 1, 2), 100, 0.25
DRAWN, DIGITS, TRIPLES = 25_600, 10, 1000
HELD_OUT, EPOCHS = 1000, 10
TIME = (0.6, 1.6)  # noisier than elsewhere, because the digit is decided early


def digits() -> tuple[Tensor, Tensor]:
    """The digits (N, 1, 28, 28) in [-1, 1], in a random order that is always the same, and which they are (N,)."""
    with tempfile.TemporaryDirectory() as cache:
        data = prepare(open_source(get("digits")), Pictures(28, 1), cache)
        assert data.labels is not None
        order = torch.randperm(len(data), generator=generator("digits"))
        return Pixels(28, 1).encode(data.rows[:])[order], torch.tensor(data.labels)[order]


def stacked(x: Tensor, n: int) -> Tensor:
    """`n` triples (n, 3, 28, 28) of pictures x (N, 1, 28, 28)."""
    return x[torch.randint(len(x), (n, 3)), 0].contiguous(memory_format=torch.channels_last)


def reader(x: Tensor, y: Tensor, file: Path) -> nn.Module:
    """The classifier of digits (B, 1, 28, 28) that `file` keeps, or one trained now on all but the last 1,000."""
    net = fashion_accuracy.classifier(DIGITS)
    if file.exists():
        net.load_state_dict(load_file(file))
    else:
        torch.manual_seed(key("reader"))
        net = fashion_accuracy.classifier(DIGITS)
        learn(net, x[:-HELD_OUT], y[:-HELD_OUT])
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), file)
    return net.eval()


def learn(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Ten epochs of AdamW with a cosine rate; unlike clothes, digits are not to be mirrored."""
    steps = EPOCHS * len(x) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
        rate.step()


def triples(net: nn.Module, x: Tensor) -> Tensor:
    """The numbers 0 ... 999 (B,) that are read from pictures x (B, 3, 28, 28), red first."""
    x = ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1  # as a file would have it
    read = fashion_accuracy.classify(net, x.reshape(-1, 1, 28, 28))
    return (read.view(-1, 3) * torch.tensor([100, 10, 1])).sum(1)


def modes(triples: Tensor, true: Tensor) -> dict[str, float]:
    """How many triples there are among (N,), and KL(drawn || true) in nats; `true` (1000,) is above 0."""
    p = triples.bincount(minlength=TRIPLES) / len(triples)
    return {"modes": int((p > 0).sum()), "kl": torch.xlogy(p, p / true).sum().item()}


def law(y: Tensor) -> Tensor:
    """The law (1000,) of independent triples of digits that are as frequent as in y (N,)."""
    p = y.bincount(minlength=DIGITS) / len(y)
    return (p[:, None, None] * p[:, None] * p).flatten()


def divergence(result: dict) -> float:
    """The divergence that chooses a rate; infinite if the training broke off."""
    return result.get("kl", math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=6500, help="of the denoiser, whose operations all have")
    parser.add_argument("--width", type=int, default=32, help="channels of the denoiser, whose weights all have")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--pictures", type=int, default=DRAWN)
    parser.add_argument("--sheet", type=Path, help="write ten pictures a method")
    arguments = parser.parse_args()

    keep_freed_memory()
    name = f"{arguments.width}-channels-{arguments.steps}-steps-{arguments.pictures}-pictures"
    folder = RESULTS / "stacked-mnist" / name
    x, y = digits()
    net, true = reader(x, y, Path("runs/gan/reader.safetensors")), law(y)

    build = partial(contestant, channels=3, width=arguments.width, time=TIME)

    def run(cell: Cell, tell: Tell) -> dict:
        found = {}

        def watch(done: int, draw: Draw) -> None:
            drawn = draw(arguments.pictures if cell.budget == 1 else arguments.pictures // 5)
            found.update(modes(triples(net, drawn), true))
            keep((folder / cell.path).with_suffix(".npy"), drawn)

        return train(cell, "stacked-mnist", build, lambda: stacked(x, BATCH), arguments.steps, watch, 1, tell) | found

    chosen = {}
    with Terminal() as report:
        for method in arguments.methods:
            trials = [Cell(method, lr, TRIAL, TRIAL_BUDGET) for lr in arguments.rates]
            setting = trials[0] if len(trials) == 1 else best(results(trials, folder, run, report), divergence)
            runs = [replace(setting, seed=seed, budget=1.0) for seed in arguments.seeds]
            chosen[method] = results(runs, folder, run, report)

    right = (fashion_accuracy.classify(net, x[-HELD_OUT:]) == y[-HELD_OUT:]).double().mean().item()
    print(f"the reader is right about {right:.1%} of {HELD_OUT:,} digits that it has not seen\n")
    torch.manual_seed(key("real triples"))
    real = modes(torch.cat([triples(net, stacked(x, 640)) for _ in range(arguments.pictures // 640)]), true)
    head("method", "rate", "steps", "Tflop", "whole runs", "modes of 1,000", "KL", "minutes of a processor")
    row("real triples", "", "", "", "", f"{real['modes']}", f"{real['kl']:.3f}", "")
    for method, found in chosen.items():
        whole = [result for result in found.values() if "kl" in result]
        some = next(iter(found.values()))
        row(
            method,
            f"{next(iter(found)).lr:g}",
            f"{some['steps']:,}",
            f"{some['operations'] / 1e12:.0f}",
            f"{len(whole)}/{len(found)}",
            spread([result["modes"] for result in whole], 0),
            spread([result["kl"] for result in whole]),
            spread([result["processor_seconds"] / 60 for result in whole], 0),
        )
    if arguments.sheet:
        drawn = {method: (folder / next(iter(found)).path).with_suffix(".npy") for method, found in chosen.items()}
        sheet(drawn).save(arguments.sheet)


if __name__ == "__main__":
    main()
