"""How fast is the U-Net? One sampling step and one training step against `diffusers` with the same weights.

    python benchmarks/unet_speed.py --threads 2 --repeats 15 --precision fp32
    python benchmarks/unet_speed.py --threads 2 --repeats 15 --precision bf16
    python benchmarks/unet_speed.py --threads 2 --repeats 15 --precision bf16 --peers azula denoising-diffusion-pytorch

A sampling step is one evaluation without gradients. A training step is forward, mean squared error, backward, AdamW and
an exponential moving average of the weights. Ours runs as in Sfumato's trainer: channels-last memory, fused AdamW, the
average in one `foreach` call, sampling in inference mode. The peer, `diffusers`' UNet2DModel with our weights copied in
(`tests/networks` checks that the results agree), runs as its training guide has it: float32, contiguous,
`torch.optim.AdamW`, `EMAModel`. With bf16 it runs a second time under the same autocast.

`--peers` adds ours with activation checkpointing, ours with Muon, the default optimizer, and U-Nets of other
architectures with as many weights (to within 10 %), in the same loops as `diffusers`: a network may be faster because
it does less, so compare what they draw, too (`training_speed.py`). azula's has no attention and fewer operations a
weight.

Programs take turns, step by step (`turns.py`), and each is set up as it sets itself up: ours keeps freed memory
(`sfumato.allocator`) and has the kernel in C++, which SFUMATO_KERNEL=torch leaves out. The table gives the median over
the turns of (their time / our time), with the quartiles of these ratios.

A square matrix product takes its turns among them: what the processor can do at most. Below each row of the table is
the share of it at which our step runs, by the operations that a direct convolution would need (a backward pass twice
those of a forward pass): above 100 % only with less arithmetic than that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
import turns
from peers import Azula, DenoisingDiffusion, as_large, of_the_tests
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision_import import import_torchvision

from sfumato.allocator import keep_freed_memory
from sfumato.networks import UNet, native
from sfumato.networks.recompute import checkpoint_activations
from sfumato.training.optimizers import Optimizer
from sfumato.user_cache import user_cache

# S: a small network for 32x32 pictures, attention at 16x16. C: DDPM's for CIFAR-10.
SIZES = {
    "S": (32, {"channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention_level": 1}),
    "C": (8, {"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention_level": 1}),
}

SIDE = 2048  # of the matrices whose product is the ceiling
CHECKPOINTED, MUON = "ours-checkpointed", "ours-muon"
PEERS = {"azula": Azula, "denoising-diffusion-pytorch": DenoisingDiffusion}

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
    optimizer: Optimizer | torch.optim.Optimizer,
    average: Callable[[], None],
    precision: str,
) -> Step:
    """Forward, loss, backward, optimizer, moving average."""

    def step(x: Tensor, t: Tensor) -> None:
        with autocast(precision):
            prediction = evaluate(x, t)
        F.mse_loss(prediction.float(), x).backward()
        optimizer.step()
        network.zero_grad(set_to_none=True)
        average()

    return step


def autocast(precision: str) -> torch.autocast | nullcontext:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def ours(network: UNet, precision: str, optimizer: str = "adamw") -> dict[str, Step]:
    """Our steps, with one of the trainer's optimizers."""
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    weights: list[Tensor] = list(network.parameters())
    mean = [weight.detach().clone() for weight in weights]
    descent = Optimizer(dict(network.named_parameters()), optimizer, 1e-5, (0.9, 0.999), 0.01)

    @torch.no_grad()
    def average() -> None:
        torch._foreach_lerp_(mean, weights, 1e-3)  # pyright: ignore[reportPrivateImportUsage]

    return {
        "sampling": sampling_step(network, torch.inference_mode, precision),
        "training": training_step(network, network, descent, average, precision),
    }


def theirs(network: nn.Module, evaluate: Callable[[Tensor, Tensor], Tensor], precision: str) -> dict[str, Step]:
    """The steps of a peer, as the training guide of `diffusers` has them."""
    from diffusers.training_utils import EMAModel

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    mean = EMAModel(network.parameters(), decay=0.999)

    return {
        "sampling": sampling_step(evaluate, torch.no_grad, precision),
        "training": training_step(network, evaluate, optimizer, partial(mean.step, network.parameters()), precision),
    }


def steps_of(program: str, size: str, precision: str) -> dict[str, Step]:
    """The steps of a program: ours, "diffusers" with the same weights, or another peer with as many."""
    torch.manual_seed(0)
    settings = SIZES[size][1]
    network = of_the_tests("conftest.py", "wake_up")(UNet(3, **settings))
    if program in ("ours", CHECKPOINTED, MUON):
        keep_freed_memory()
        native.enable(user_cache("kernels"))
        if program == CHECKPOINTED:
            checkpoint_activations(network)
        return ours(network, precision, "muon" if program == MUON else "adamw")

    import_torchvision()
    if program == "diffusers":
        peer = of_the_tests("test_unet_agrees_with_diffusers.py", "twin")(network, **settings)
        return theirs(peer, lambda x, t: peer(x, t).sample, precision)
    weights = sum(p.numel() for p in network.parameters())
    peer = as_large(PEERS[program], weights, settings["multipliers"], settings["blocks"])
    return theirs(peer, peer, precision)


def build(program: str, size: str, precision: str) -> turns.Steps:
    """The steps of a program on pictures and times of its own."""
    batch = SIZES[size][0]
    steps = steps_of(program, size, precision)
    x, t = torch.randn(batch, 3, 32, 32), torch.rand(batch) * 1000
    return {kind: partial(step, x, t) for kind, step in steps.items()}


def product(precision: str) -> turns.Steps:
    """A product of two matrices, in place of either step."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, SIDE, SIDE, dtype=dtype)
    return dict.fromkeys(("sampling", "training"), lambda: a @ b)


def operations(size: str) -> dict[str, int]:
    """Floating-point operations of our steps, by direct convolutions; those of the optimizer are not counted."""
    batch, settings = SIZES[size]
    network = UNet(3, **settings)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network(torch.randn(1, 3, 32, 32), torch.rand(1))
    forward = batch * counted.get_total_flops()
    return {"sampling": forward, "training": 3 * forward}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--peers", nargs="+", choices=[CHECKPOINTED, MUON, *PEERS], default=[], help="besides diffusers"
    )
    arguments = parser.parse_args()

    settings = f"threads {arguments.threads}, turns {arguments.repeats}, ours {arguments.precision}"
    print(f"torch {torch.__version__}, {settings}")
    print("| size | step | ours | peer | as | its time | ratio (quartiles) |")
    print("|---|---|---|---|---|---|---|")

    precisions = list(dict.fromkeys(("fp32", arguments.precision)))
    programs = [("ours", arguments.precision)]
    programs += [(peer, precision) for peer in ("diffusers", *arguments.peers) for precision in precisions]

    for size in arguments.sizes:
        pipes = [turns.start(build, name, size, precision, threads=arguments.threads) for name, precision in programs]
        pipes.append(turns.start(product, arguments.precision, threads=arguments.threads))

        for kind in ("sampling", "training"):
            taken = turns.measure(pipes, kind, arguments.repeats)

            for column, (peer, precision) in enumerate(programs[1:], start=1):
                own, other = turns.of(taken, 0), turns.of(taken, column)
                print(
                    f"| {size} | {kind} | {own * 1e3:.0f} ms | {peer} | {precision} | {other * 1e3:.0f} ms "
                    f"| {turns.ratio(taken, column)} |",
                    flush=True,
                )
            ceiling = 2 * SIDE**3 / turns.of(taken, -1) / 1e9
            speed = operations(size)[kind] / turns.of(taken, 0) / 1e9
            print(
                f"| {size} | {kind} | {speed:.0f} GFLOP/s | matrix product | {arguments.precision} "
                f"| {ceiling:.0f} GFLOP/s | {speed / ceiling:.0%} of it |",
                flush=True,
            )

        turns.end(pipes)


if __name__ == "__main__":
    main()
