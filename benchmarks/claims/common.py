"""Common parts of the claims: small models of Fashion-MNIST, trained once for each seed, and their tables.

The network is small (0.9 M parameters, 14 x 14 positions) and its training short, so a claim can be checked on two CPU
cores within an hour. Runs are kept in runs/claims; a claim that was stopped goes on where it was.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato import load_recipe, train
from sfumato.cli.progress import Terminal
from sfumato.data.catalogue import get
from sfumato.diffusion.bound import discrete_bound
from sfumato.diffusion.reverse import Variance, large, small
from sfumato.model import Model

sys.path.insert(0, str(Path(__file__).parent.parent))
import fashion_accuracy

SEEDS = (0, 1, 2)
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantiles of Student's law, by the number of values
SMALL = ("network.channels=32", "condition.kind=none", "training.sample_every=100000", "training.checkpoint_every=300")


def trained(name: str, overrides: Sequence[str], seed: int, steps: int) -> Model:
    """The model of one setting and seed, from runs/claims or trained now."""
    out = Path("runs/claims") / f"{name}-{seed}"
    if not (out / "model" / "model.json").exists():
        settings = [*SMALL, *overrides, f"training.steps={steps}", f"training.seed={seed}"]
        with Terminal() as terminal:
            terminal.say(f"{out.name}:")
            train(load_recipe("fashion", settings), out, terminal)
    return Model.load(out / "model")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two to five values and half the width of its 95 % interval (Student)."""
    n, mean = len(values), sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, STUDENT[n] * math.sqrt(variance / n)


def shown(values: Sequence[float], digits: int = 3) -> str:
    """ "1.234 ± 0.056"."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def row(*cells: object) -> None:
    """Prints a row of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells: str) -> None:
    """Prints the head of a Markdown table."""
    row(*cells)
    print("|" + "---|" * len(cells), flush=True)


def bits(model: Model, x: Tensor, seed: int = 0) -> dict[str, float]:
    """Bits per dimension of pictures (N, C, H, W) by the bound of 1,000 steps.

    The reverse variance is the fixed one that is better on ten of the pictures.

    Returns:
        the parts "prior", "kl" and "decoder" and their sum "total", means over the pictures.
    """
    times = torch.linspace(1, 0, 1001, dtype=torch.float64)

    def parts(x: Tensor, variance: Variance) -> dict[str, float]:
        def noise(step: int) -> Tensor:
            return torch.randn(x.shape, generator=torch.Generator().manual_seed(1000 * seed + step))

        bound = discrete_bound(model.denoiser, x, times, noise, variance)
        found = {"prior": bound.prior, "kl": bound.kl.sum(1), "decoder": bound.decoder, "total": bound.total}
        return {name: value.mean().item() for name, value in found.items()}

    return parts(x, min((small, large), key=lambda variance: parts(x[:10], variance)["total"]))


# --- a distance between sets of pictures -----------------------------------------------------------------------------


class Features:
    """The 128 last channels of a classifier of real clothes, averaged over 3 x 3 positions; trained once and kept.

    Attributes:
        train: the 60,000 training pictures (N, 1, 28, 28).
        test: the 10,000 test pictures (N, 1, 28, 28).
    """

    def __init__(self, size: int = 28) -> None:
        folder, kept = get("fashion-mnist"), Path("runs/claims/classifier.safetensors")
        self.train, labels, classes = fashion_accuracy.real(folder, size, "train")
        self.test = fashion_accuracy.real(folder, size, "t10k")[0]
        self.net = fashion_accuracy.classifier(len(classes))
        if kept.exists():
            self.net.load_state_dict(load_file(kept))
        else:
            torch.manual_seed(0)
            fashion_accuracy.train(self.net, self.train, labels)
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file(self.net.state_dict(), kept)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Pictures (N, 1, 28, 28) in [-1, 1], rounded to bytes as a file would be -> features (N, 128)."""
        x = ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        layers = nn.Sequential(*list(self.net.eval())[:-3])
        return torch.cat([layers(part).mean(dim=(2, 3)) for part in x.split(1000)])


def frechet(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of two sets of features (N, D), (M, D) as Gaussians: |m - n|^2 + tr(A + B - 2 (A B)^1/2)."""
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    # the eigenvalues of A B are those of A^1/2 B A^1/2, which is symmetric
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * shared).item()
