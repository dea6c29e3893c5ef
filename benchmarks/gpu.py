"""How near do our networks come to a graphics card's limit, and how far ahead of `diffusers` are they?

    python benchmarks/gpu.py                              # on a CUDA card; compilers take most of the time
    python benchmarks/gpu.py --networks C --steps training --modes eager default max-autotune
    python benchmarks/gpu.py --device cpu --tiny --modes eager --largest 4    # tries the script out, without a card

Networks: S, a small U-Net for 32 x 32 pixels; C, DDPM's for CIFAR-10; T, that of the default text model (recipe
`emoji`); D, a diffusion transformer (12 blocks of width 384, patch 2). Steps: an evaluation without gradients; a
training step of forward, mean squared error, backward, clipped gradient, AdamW and a moving average of the weights.

Ours runs as `sfumato.training` has it on a card: bfloat16 autocast, channels-last, fused attention and AdamW, the
average in one call. The peer is the network of `diffusers` with the same sizes (for T without the words, between an
unshuffling and a shuffling of pixels), under the same autocast and compiled in the same mode, with the optimizer and
the average of its training guide, in contiguous or channels-last memory, whichever is faster in eager mode.

Modes: eager, and those of `training.compile`: default (true), reduce-overhead and max-autotune, which record CUDA
graphs. The batch is doubled, in eager mode, until a picture is no longer 3 % cheaper or memory is full. Model-FLOPs
utilisation is the number of operations of the matrix products, convolutions and attention of our network, forwards and
backwards, by torch's own formulas, divided by the time and by a limit: the fastest bfloat16 product that was measured
on this card, or the dense bfloat16 peak of its data sheet.

At the end, the whole of `Trainer.train_step` is measured with its data, Muon and both averages (recipe `folder`):
pictures a second, the share of time spent waiting for data, and how often a step makes the processor wait for the card.
"""

import argparse
import gc
import itertools
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from gpu_networks import Network, networks
from growth import head, make_pictures, row
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sfumato.config import load_recipe
from sfumato.data.preparation import prepare
from sfumato.data.readers.pictures import Pictures
from sfumato.data.sources import open_source
from sfumato.training import prepared
from sfumato.training.loop import Trainer

MODES = {"eager": False, "default": True, "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune"}
STEPS = ("evaluation", "training")
PROGRAMS = ("ours", "diffusers", "diffusers, channels-last")
GAIN = 1.03  # gain that a doubled batch must bring
# Dense bfloat16 TFLOP/s with float32 sums, from NVIDIA's data sheets; the first name that the card's holds.
PEAKS = {
    "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "GH200": 989, "B200": 2250, "A100": 312, "A10G": 70,
    "L40S": 362, "L40": 181, "L4": 121, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip

Step = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """A measurement, or the `error` in its place."""

    network: str
    step: str
    program: str
    mode: str
    batch: int = 0
    pictures_per_second: float = 0.0
    flops_per_picture: float = 0.0
    error: str = ""


# --- steps -----------------------------------------------------------------------------------------------------------


def step_of(network: Network, step: str, program: str, mode: str, batch: int, device: torch.device) -> Step:
    """A step of a program on pictures of its own, compiled in a mode."""
    torch.manual_seed(0)
    ours = program == "ours"
    net = (network.ours if ours else network.peer)().to(device)
    layout = torch.contiguous_format if program == "diffusers" else torch.channels_last
    net = net.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    x = torch.randn(batch, 3, network.side, network.side, device=device).contiguous(memory_format=layout)
    t = torch.rand(batch, device=device) * 1000
    rest = (torch.randn(batch, network.vector, device=device),) if ours and network.vector else ()
    weights = list(net.parameters())
    call = torch.compile(net, mode=None if mode == "default" else mode) if mode != "eager" else net

    def predicted() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return call(x, t, *rest)

    if step == "evaluation":
        net.eval()
        return (torch.inference_mode if ours and mode == "eager" else torch.no_grad)()(predicted)

    update = our_update(weights) if ours else their_update(weights)

    def train() -> None:
        F.mse_loss(predicted().float(), x).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        update()

    return train


def our_update(weights: list[nn.Parameter]) -> Callable[[], None]:
    """AdamW and the average, as `sfumato.training` has them."""
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    live: list[Tensor] = list(weights)
    mean = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update() -> None:
        optimizer.step()
        for weight in weights:
            weight.grad = None
        torch._foreach_lerp_(mean, live, 1e-3)  # pyright: ignore[reportPrivateImportUsage]

    return update


def their_update(weights: list[nn.Parameter]) -> Callable[[], None]:
    """AdamW and the average, as the training guide of `diffusers` has them."""
    from diffusers.training_utils import EMAModel

    optimizer, mean = torch.optim.AdamW(weights, lr=1e-5), EMAModel(weights, decay=0.999)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean.step(weights)

    return update


# --- measuring -------------------------------------------------------------------------------------------------------


def finish(device: torch.device) -> None:
    """Wait until a card has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(step: Step, device: torch.device, least: float, rounds: int = 3) -> float:
    """Seconds of a step: the median of rounds that take `least` seconds or one step each, after three to warm up."""

    def taken(times: int) -> float:
        finish(device)
        begin = time.perf_counter()
        for _ in range(times):
            step()
        finish(device)
        return time.perf_counter() - begin

    taken(2)
    times = max(1, int(least / taken(1)))
    return statistics.median(taken(times) for _ in range(rounds)) / times


def forget(device: torch.device) -> None:
    """Free the memory and the compiled code of networks that are no longer used."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def filling_batch(make: Callable[..., Step], largest: int, device: torch.device, least: float) -> int:
    """The batch, a power of two, beyond which a picture is no longer cheaper, or the last one that fits."""
    best, batch = 0.0, 1
    for size in itertools.takewhile(lambda size: size <= largest, (2**i for i in itertools.count())):
        try:
            speed = size / seconds_of(make(batch=size), device, least, rounds=1)
        except torch.OutOfMemoryError:
            break
        finally:
            forget(device)
        # Small batches cost almost nothing on a large card: only a plateau from 64 on comes from the card.
        if speed < GAIN * best and size > 64:
            break
        if speed > best:
            best, batch = speed, size
    return batch


def operations(network: Network, step: str, device: torch.device) -> float:
    """Floating-point operations of our network a picture."""
    two = step_of(network, step, "ours", "eager", 2, device)
    with FlopCounterMode(display=False) as counted:
        two()
    return counted.get_total_flops() / 2


def ceiling(device: torch.device, sides: Sequence[int], least: float) -> float:
    """Operations a second of the fastest bfloat16 product of square matrices."""

    def speed(side: int) -> float:
        a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
        return 2 * side**3 / seconds_of(lambda: a @ b, device, least)

    return max(speed(side) for side in sides)


def measure(name: str, network: Network, arguments: argparse.Namespace, device: torch.device) -> list[Result]:
    """All steps, programs and modes of a network; the slower layout of the peer only in eager mode."""
    found = []
    for step in arguments.steps:
        flops = operations(network, step, device)

        def cell(program: str, mode: str, batch: int, step: str = step, flops: float = flops) -> Result:
            result = Result(name, step, program, mode, batch, flops_per_picture=flops)
            try:
                seconds = seconds_of(step_of(network, step, program, mode, batch, device), device, arguments.least)
                return replace(result, pictures_per_second=batch / seconds)
            except Exception as error:  # noqa: BLE001 - a mode that fails is told, and the others go on
                return replace(result, error=first_line(error))
            finally:
                forget(device)

        eager = []
        for program in PROGRAMS:
            make = partial(step_of, network, step, program, "eager", device=device)
            eager.append(cell(program, "eager", filling_batch(make, arguments.largest, device, arguments.least)))
        ours, *peers = eager
        found += eager
        for result in (ours, max(peers, key=lambda r: r.pictures_per_second)):
            modes = [mode for mode in arguments.modes if mode != "eager"]
            found += [cell(result.program, mode, result.batch) for mode in modes]
    return found


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


# --- tables ----------------------------------------------------------------------------------------------------------


def rival(result: Result, results: Sequence[Result]) -> Result | None:
    """The faster of the peer's results for the same network, step and mode."""
    same = (result.network, result.step, result.mode)
    peers = [r for r in results if r.program != "ours" and (r.network, r.step, r.mode) == same and not r.error]
    return max(peers, key=lambda r: r.pictures_per_second, default=None)


def table(results: Sequence[Result], limit: float, peak: float | None) -> None:
    """Print a row for each result."""
    head("network", "step", "program", "mode", "batch", "pictures/s", "TFLOP/s", "of measured", "of peak", "ratio")
    for r in results:
        if r.error:
            row(r.network, r.step, r.program, r.mode, r.batch, r.error, "", "", "", "")
            continue
        speed = r.pictures_per_second * r.flops_per_picture
        peer = rival(r, results) if r.program == "ours" else None
        row(
            r.network,
            r.step,
            r.program,
            r.mode,
            r.batch,
            f"{r.pictures_per_second:,.0f}",
            f"{speed / 1e12:.3g}",
            f"{speed / limit:.1%}",
            f"{speed / peak:.1%}" if peak else "",
            f"{r.pictures_per_second / peer.pictures_per_second:.2f}" if peer else "",
        )


def best(results: Sequence[Result]) -> None:
    """Prints our best mode against the peer's best mode and layout."""
    head("network", "step", "ours", "diffusers", "ratio of the best")
    for name, step in dict.fromkeys((r.network, r.step) for r in results):
        fine = [r for r in results if (r.network, r.step) == (name, step) and not r.error]
        sides = [[r for r in fine if (r.program == "ours") == own] for own in (True, False)]
        if all(sides):
            a, b = (max(side, key=lambda r: r.pictures_per_second) for side in sides)
            words = (f"{r.mode}, batch {r.batch}" for r in (a, b))
            row(name, step, *words, f"{a.pictures_per_second / b.pictures_per_second:.2f}")


# --- the whole training step -----------------------------------------------------------------------------------------


def whole(mode: str, batch: int, tiny: bool, device: torch.device, least: float) -> tuple[float, float, int | None]:
    """Pictures a second of the trainer, its share of waiting for data, and how often a step waits for the card."""
    side = 8 if tiny else 32
    few = ["network.channels=32", "network.multipliers=[1]", "network.attention_level=null"] if tiny else []
    with tempfile.TemporaryDirectory() as folder:
        pictures = make_pictures(Path(folder) / "pictures", 2048 if not tiny else 64, side)
        compiled = str(MODES[mode]).lower()
        settings = [f"data.path={pictures}", f"codec.size={side}", f"training.batch={batch}", "condition.kind=none"]
        settings += ["codec.channels=3", "network.channels=64"]
        config = load_recipe("folder", [*settings, f"training.compile={compiled}", "training.steps=1000000", *few])
        data = prepare(open_source(pictures), Pictures(side), Path(folder) / "data")
        ready = prepared.build(config, data, [], len(data))
        ready.model.to(device)
        run = Trainer(ready.config, ready.model, data, ready.train_indices, ready.validation_indices)
        seconds_of(run.train_step, device, 0.0, rounds=1)  # compiles
        run.waited, begin = 0.0, time.perf_counter()
        speed = batch / seconds_of(run.train_step, device, least)
        waited = run.waited / (time.perf_counter() - begin)
        return speed, waited, waits(run.train_step) if device.type == "cuda" else None


def waits(step: Step) -> int:
    """How often a step makes the processor wait for the card."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="*", default=["S", "C", "T", "D"])
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS)
    parser.add_argument("--modes", nargs="+", default=["eager", "default", "reduce-overhead"], choices=MODES)
    parser.add_argument("--largest", type=int, default=8192, help="batch")
    parser.add_argument("--least", type=float, default=1.0, help="seconds of a measurement")
    parser.add_argument("--peak", type=float, help="nominal TFLOP/s of the card, where it is not known here")
    parser.add_argument("--batch", type=int, default=512, help="of the whole training step")
    parser.add_argument("--tiny", action="store_true", help="networks that only show that all runs")
    parser.add_argument("--json", type=Path, help="write the numbers")
    arguments = parser.parse_args(given)

    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    card = torch.cuda.get_device_name(device) if cuda else "a processor"
    peak = arguments.peak or next((peak for name, peak in PEAKS.items() if name in card), None)
    limit = ceiling(device, (4096, 8192, 16384) if cuda else (256,), arguments.least)
    nominal = f"{peak:g} TFLOP/s" if peak else "not known"
    print(f"torch {torch.__version__}, {card}: bfloat16 product {limit / 1e12:.3g} TFLOP/s, nominal {nominal}\n")

    available, results = networks(arguments.tiny), []
    for name in arguments.networks:
        results += measure(name, available[name], arguments, device)
    table(results, limit, peak * 1e12 if peak else None)
    print()
    best(results)
    print()
    head("trainer, mode", "batch", "pictures/s", "waiting for data", "waits for the card a step")
    for mode in arguments.modes:
        try:
            speed, waited, times = whole(mode, arguments.batch, arguments.tiny, device, arguments.least)
            row(mode, arguments.batch, f"{speed:,.0f}", f"{waited:.2%}", "" if times is None else times)
        except Exception as error:  # noqa: BLE001
            row(mode, arguments.batch, first_line(error), "", "")
        forget(device)
    if arguments.json:
        numbers = {"card": card, "ceiling": limit, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
