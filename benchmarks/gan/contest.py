"""The rules of the contest: equal size, equal arithmetic, one learning-rate grid for all, results that are kept.

Size. Generator and critic each have as many weights as the denoiser, to within 10 %: so a GAN has a critic, which does
not draw, in addition.

Arithmetic. Every method trains for as many floating-point operations of matrix products and convolutions, forwards and
backwards, counted by torch's own formulas; unlike seconds, these do not depend on the load of the machine. A step of a
GAN costs several times as much as a step of a denoiser: two networks learn, and a penalty takes gradients of gradients.

Results are kept in `results`, one file for each run: the same command goes on where it was stopped, on any machine, and
deleted results are measured anew. Processor seconds belong to the machine of the run.

Rate. Each method takes the best of one grid of rates, by runs whose seeds are not those of the result. The rate rises
at first and falls to zero over the last half, for all methods alike.
"""

import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sfumato.measures.interval import of_mean
from sfumato.report import Report
from sfumato.training.optimizers import rate_factor

RESULTS = Path(__file__).parent / "results"
LIMIT = 0.10  # how far sizes may be apart
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
POINTS = 100  # of a loss curve

Real = Callable[[], Tensor]  # the next batch of data
Watch = Callable[[int], None]  # told the steps done
Tell = Callable[[int, int], None]  # told the steps done, and those in all


class Contestant(Protocol):
    """A generative model in training."""

    networks: dict[str, nn.Module]

    def step(self, real: Real, factor: float) -> dict[str, float]: ...

    def draw(self, n: int, chance: torch.Generator, batch: int = 250) -> Tensor: ...


# --- equal size, equal arithmetic ------------------------------------------------------------------------------------


def size(net: nn.Module) -> int:
    """The number of weights."""
    return sum(p.numel() for p in net.parameters())


def fitted(build: Callable[[int], nn.Module], target: int) -> int:
    """The even width at which `build` makes a network nearest to `target` weights.

    Raises:
        ValueError: no width comes within 10 %.
    """

    def weights(width: int) -> int:
        with torch.device("meta"):
            return size(build(width))

    width = 2
    while weights(width + 2) < target:
        width += 2
    width = min(width, width + 2, key=lambda width: abs(weights(width) - target))
    if abs(weights(width) / target - 1) > LIMIT:
        raise ValueError(
            f"width {width} gives {weights(width):,} weights and not {target:,}: none is within {LIMIT:.0%}"
        )
    return width


class Operations(TorchDispatchMode):
    """A context that counts in `total` the floating-point operations of matrix products and convolutions.

    torch's FlopCounterMode does the same by module, and for that cannot follow gradients of gradients.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of a call."""
    with Operations() as counted:
        run()
    return counted.total


# --- training --------------------------------------------------------------------------------------------------------


def fit(
    contestant: Contestant, real: Real, steps: int, watch: Watch, watches: int, tell: Tell
) -> dict[str, list[float | None]]:
    """Trains for `steps` steps, and calls `watch` after each of `watches` equal parts of them.

    Returns:
        the mean losses by network over each hundredth of the run; training ends at the first loss that is not finite,
        which is None.
    """
    curves: dict[str, list[float | None]] = {}
    sums: dict[str, float] = {}
    edges = {round(steps * (i + 1) / POINTS): i for i in range(POINTS)}
    looks = {round(steps * (i + 1) / watches) for i in range(watches)}
    begin = 0
    for done in range(1, steps + 1):
        losses = contestant.step(real, rate_factor(done - 1, steps, steps // 50, 0.5))
        sums = {name: sums.get(name, 0.0) + loss for name, loss in losses.items()}
        finite = all(map(math.isfinite, losses.values()))
        if done in edges or not finite:
            for name, total in sums.items():
                curves.setdefault(name, []).append(total / (done - begin) if math.isfinite(total) else None)
            sums, begin = {}, done
        if not finite:
            break
        if done in looks:
            watch(done)
        tell(done, steps)
    return curves


# --- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One run: a method at a learning rate, from a seed, with `budget` times the denoiser's operations."""

    method: str
    lr: float
    seed: int
    budget: float = 1.0
    option: str = ""

    @property
    def path(self) -> str:
        """Where its result is kept."""
        return f"{self.method}{self.option}/lr{self.lr:g}-x{self.budget:g}-seed{self.seed}.json"


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """The result in the file `path`, or else the result of `make`, which is then written to it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(rounded(make()), allow_nan=False) + "\n")
        aside.replace(path)
    return json.loads(path.read_text())


def rounded(value: Any) -> Any:
    """Plain values, with six digits a number."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def results(
    cells: Iterable[Cell],
    folder: Path,
    work: Callable[[Cell, Tell], dict],
    report: Report,
) -> dict[Cell, dict]:
    """The result of each cell, kept in `folder`; only cells without one are run."""
    cells = list(dict.fromkeys(cells))
    missing = [cell for cell in cells if not (folder / cell.path).exists()]

    def make(cell: Cell) -> dict:
        before = 1000 * missing.index(cell)

        def tell(done: int, total: int) -> None:
            report.progress(str(folder), before + 1000 * done // total, 1000 * len(missing), cell.path)

        tell(0, 1)
        return work(cell, tell)

    return {cell: kept(folder / cell.path, lambda cell=cell: make(cell)) for cell in cells}


def best(found: Mapping[Cell, dict], score: Callable[[dict], float]) -> Cell:
    """The cell whose setting has the smallest median score over seeds."""
    groups: dict[Cell, list[float]] = {}
    for cell, result in found.items():
        groups.setdefault(replace(cell, seed=0), []).append(score(result))
    return min(groups, key=lambda cell: statistics.median(groups[cell]))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean with half the width of Student's interval of 95 %: "1.234 ± 0.056"."""
    if not values:
        return "none"
    found = of_mean(torch.tensor(values))
    half = "" if found.high is None else f" ± {found.high - found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f}{half}"


def row(*cells: object) -> None:
    """Prints a row of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells: str) -> None:
    """Prints the head of a Markdown table."""
    row(*cells)
    print("|" + "---|" * len(cells), flush=True)
