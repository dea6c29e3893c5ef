"""What does a step of sampling cost beyond the network? Ours against the schedulers of `diffusers`.

    OMP_NUM_THREADS=1 python benchmarks/step_overhead.py

The network returns its input and costs nothing. Ours is `Model.steps`, as everything that draws uses it: solver,
denoiser, guidance, noise of a generator a picture. Theirs is `scheduler.step` alone, at the same batch (the lanes of a
model on a processor, 4 pictures of 32 x 32 x 3), with the steps set before. Milliseconds a step of the processor, the
median of the turns; the schedule is the linear one of DDPM, and the first drawing, which computes the coefficients of
the grid, stands apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torchvision_import import import_torchvision

from sfumato import registry
from sfumato.config import Config
from sfumato.model import Model

STEPS = 20
SETTINGS = {
    "name": "overhead",
    "data": {"path": "none", "size": 32},
    "network": {"kind": "unet", "channels": 32, "multipliers": [1], "blocks": 1, "attention_level": None},
    "diffusion": {"schedule": "linear", "parameterization": "epsilon", "sigma_data": 1},
    "condition": {"kind": "class"},
}
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")


class Free(nn.Module):
    """A network that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # by whose place a model knows its device

    def forward(self, x: Tensor, level: Tensor, **cond: Tensor | None) -> Tensor:
        return x


def free_model() -> Model:
    """A model of 32 x 32 colour pictures in two classes, whose network is free."""
    model = Model.build(Config.model_validate(SETTINGS), ("one", "other")).eval()
    model.denoiser.network = Free()
    return model


def ours(model: Model, solver: str, guidance: float) -> Callable[[], None]:
    """Draws a batch."""
    settings = model.sampling(solver=solver, grid="karras", steps=STEPS, guidance=guidance)
    conditions, seeds = ["one"] * model.lanes, list(range(model.lanes))

    def run() -> None:
        for _ in model.steps(conditions, seeds, settings):
            pass

    return run


def theirs(name: str, batch: int) -> Callable[[], None]:
    """All steps of a scheduler of `diffusers`."""
    import_torchvision()
    import diffusers

    scheduler = getattr(diffusers, name)()
    first = torch.randn(batch, 3, 32, 32)

    @torch.no_grad()
    def run() -> None:
        scheduler.set_timesteps(STEPS)
        x = first
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, x).prev_sample

    return run


def milliseconds(run: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Of the first run and the median of the others, a step."""
    taken = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        run()
        taken.append((time.process_time() - begin) / STEPS * 1e3)
    return taken[0], median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--solvers", nargs="+", choices=registry.SOLVERS, default=list(registry.SOLVERS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    model = free_model()
    ours(model, "ddim", 1.0)()  # whatever a process does once
    print("| solver | ms a step | guided | first drawing | calls of the network a step |")
    print("|---|---|---|---|---|")
    for solver in arguments.solvers:
        first, plain = milliseconds(ours(model, solver, 1.0), arguments.repeats)
        _, guided = milliseconds(ours(model, solver, 2.0), arguments.repeats)
        calls = 2 if solver in ("heun", "edm", "dpm++2s") else 1
        print(f"| {solver} | {plain:.3f} | {guided:.3f} | {first:.3f} | {calls} |", flush=True)
    for name in SCHEDULERS:
        first, plain = milliseconds(theirs(name, model.lanes), arguments.repeats)
        print(f"| diffusers {name} | {plain:.3f} | | {first:.3f} | 1 |", flush=True)


if __name__ == "__main__":
    main()
