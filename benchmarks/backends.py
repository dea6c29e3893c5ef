"""Is a back end faster than PyTorch? One evaluation of a network without gradients by each, with the same weights.

    python benchmarks/backends.py --threads 2 --repeats 15

S and C are the U-Nets of `unet_speed.py`, T is the default model's, with as many pictures at once as it draws without
guidance (4) and with it (8). PyTorch is measured as the package uses it, with the kernel in C++, without that kernel
(no compiler, or another processor), and in bfloat16. OpenVINO is measured in the precision of the back end and, by its
own hint, in bfloat16, which the back end does not use.

Programs take turns, step by step (`turns.py`). The table gives the median over the turns of (PyTorch's time / theirs),
with the quartiles of these ratios, and the largest difference from PyTorch's float32 without the kernel.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
import turns
from peers import of_the_tests
from torch import Tensor, nn
from unet_speed import SIZES

from sfumato.allocator import keep_freed_memory
from sfumato.export import onnx
from sfumato.export.backends import Session, onnxruntime, openvino
from sfumato.generation.draw import open_model
from sfumato.networks import UNet, kernels, native
from sfumato.user_cache import user_cache

Evaluate = Callable[[], Tensor]

BATCHES = {"T": (4, 8), "S": (4, 32), "C": (4, 8)}
PROGRAMS = ("torch", "torch without kernel", "torch bf16", "onnxruntime", "openvino", "openvino bf16")


def network_of(name: str) -> tuple[nn.Module, int]:
    """The network, ready to evaluate, and the width of its condition vector."""
    if name == "T":
        model = open_model()
        kernels.use(None)
        return model.denoiser.network, model.conditioner.vector_dim
    torch.manual_seed(0)
    network = of_the_tests("conftest.py", "wake_up")(UNet(3, **SIZES[name][1])).eval()
    return network.to(memory_format=torch.channels_last), 0


def inputs_of(batch: int, vector_dim: int) -> dict[str, Tensor]:
    """Random inputs, in the memory format of sampling."""
    torch.manual_seed(1)
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    inputs = {"x": x, "time": torch.rand(batch) * 1000}
    return {**inputs, "vector": torch.randn(batch, vector_dim)} if vector_dim else inputs


def evaluate_by(program: str, name: str, batch: int, graph: Path) -> Evaluate:
    """One evaluation by a program."""
    keep_freed_memory()
    network, vector_dim = network_of(name)
    inputs = inputs_of(batch, vector_dim)
    if program.startswith("torch"):
        return by_torch(network, inputs, program == "torch bf16", kernel=program != "torch without kernel")
    shapes, threads = {n: tuple(v.shape) for n, v in inputs.items()}, torch.get_num_threads()
    if program == "onnxruntime":
        return by_backend(onnxruntime.start(graph.read_bytes(), shapes, threads), inputs)
    precision = "bf16" if program == "openvino bf16" else "f32"
    return by_backend(openvino.start(graph.read_bytes(), shapes, threads, precision), inputs)


def by_torch(network: nn.Module, inputs: dict[str, Tensor], half: bool, kernel: bool) -> Evaluate:
    used = native.enable(user_cache("kernels")) if kernel else None

    def evaluate() -> Tensor:
        kernels.use(used)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return network(**inputs)

    return evaluate


def by_backend(session: Session, inputs: dict[str, Tensor]) -> Evaluate:
    def evaluate() -> Tensor:
        return torch.from_numpy(session({name: value.contiguous().numpy() for name, value in inputs.items()}))

    return evaluate


def build(program: str, name: str, batch: int, graph: Path) -> turns.Steps:
    return {"evaluate": evaluate_by(program, name, batch, graph)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--networks", nargs="+", choices=BATCHES, default=list(BATCHES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("torch", "onnxruntime", "openvino"))
    print(f"{versions}; threads {arguments.threads}, turns {arguments.repeats}")
    print(f"kernel: {getattr(native.enable(user_cache('kernels')), 'name', 'none')}")
    kernels.use(None)
    print("| network | batch | program | time | torch / it (quartiles) | largest difference |")
    print("|---|---|---|---|---|---|")

    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            network, vector_dim = network_of(name)
            graph = Path(folder) / "network.onnx"
            graph.write_bytes(onnx.new_graph(network, inputs_of(2, vector_dim), {}))
            for batch in BATCHES[name]:
                results = [evaluate_by(program, name, batch, graph)() for program in PROGRAMS]
                exact = results[PROGRAMS.index("torch without kernel")]

                pipes = [turns.start(build, p, name, batch, graph, threads=arguments.threads) for p in PROGRAMS]
                taken = turns.measure(pipes, "evaluate", arguments.repeats)
                turns.end(pipes)

                for column, (program, result) in enumerate(zip(PROGRAMS, results, strict=True)):
                    print(
                        f"| {name} | {batch} | {program} | {turns.of(taken, column) * 1e3:.0f} ms "
                        f"| {turns.ratio(taken, 0, column)} | {(result - exact).abs().max().item():.1e} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
