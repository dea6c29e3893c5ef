"""The parts of the report: what each metric found, as rows with their basis."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.codecs.codec import Codec
from sfumato.evaluation.nll_report import kl_svg, over_pictures
from sfumato.evaluation.report import Part, Row
from sfumato.evaluation.samples import Samples
from sfumato.features.spaces import FeatureSpace
from sfumato.measures.frechet import frechet
from sfumato.measures.interval import Interval, of_share
from sfumato.measures.kernel import kid
from sfumato.measures.manifold import manifold
from sfumato.measures.nll import NLL
from sfumato.measures.statistics import compared
from sfumato.measures.vendi import vendi
from sfumato.page import Figure
from sfumato.report import Report

Basis = Mapping[str, Any]
NEIGHBOURS = (
    "Precision and density say whether drawn pictures look real, recall and coverage whether all of the data are drawn."
)
PICTURES = "pictures in levels of 255 (sharpness: variance of the Laplacian)"
VALUES = "samples in the unit of the data (roughness: differences of neighbours, 1 for white noise)"
TERMS = "What each step of the chain costs, from noise (t = 1) to picture (t = 0); kl.csv has the numbers."


def quality_part(
    space: FeatureSpace, reference: Tensor, control: Tensor, drawn: Tensor, seed: int, basis: Basis, report: Report
) -> Part:
    """Distances, fidelity and diversity in one feature space.

    Args:
        space: the feature space; if it is blind to what a picture shows, only distances are given, with the reason.
        reference: features (N, D) of real pictures.
        control: features (N, D) of other real pictures: what a perfect model would reach.
        drawn: features (N, D).
        seed: decides random subsets.
        basis: what the numbers depend on.
        report: told how far it is.
    """

    def measured(of: Tensor, which: str) -> dict[str, Interval]:
        def tell(task: str):
            return lambda done, total: report.progress(f"{task} in {space.name}, {which}", done, total)

        distances = frechet(reference, of, seed, tell("Fréchet distance"))
        found = {"fd": distances.distance}
        if distances.infinite is not None:
            found["fd_infinity"] = distances.infinite
        found["kid"] = _times(kid(reference, of), 1000)
        if not space.blind:
            neighbours = manifold(reference, of, seed, progress=tell("neighbours"))
            found |= {name: getattr(neighbours, name) for name in ("precision", "recall", "density", "coverage")}
        found["vendi"] = vendi(of, seed, tell("Vendi score"))
        return found

    told = {
        "fd": ("Fréchet distance", "lower"),
        "fd_infinity": ("Fréchet distance of endlessly many pictures", "lower"),
        "kid": ("KID x 1000", "lower"),
        "precision": ("precision", "higher"),
        "recall": ("recall", "higher"),
        "density": ("density", "higher"),
        "coverage": ("coverage", "higher"),
        "vendi": ("Vendi score", ""),
    }
    of_drawn, of_real = measured(drawn, "drawn"), measured(control, "real")
    return Part(
        f"quality-{space.name.replace(' ', '-')}",
        f"Quality in the features {space.name}",
        "Drawn pictures are compared with real ones, and as many other real ones with the same. Distances say how far "
        "apart the laws are, and the Vendi score how diverse the pictures are. " + (space.blind or NEIGHBOURS),
        [Row(name, told[name][0], value, of_real.get(name), told[name][1]) for name, value in of_drawn.items()],
        basis,
    )


def _times(value: Interval, factor: float) -> Interval:
    low, high = (None if end is None else factor * end for end in (value.low, value.high))
    return Interval(factor * value.mean, low, high)


def accuracy_part(
    classes: Sequence[str],
    drawn: Tensor,
    asked: Sequence[int],
    real: Tensor,
    labels: Sequence[int],
    basis: Basis,
) -> Part:
    """How often a classifier takes a picture for its class.

    Args:
        classes: names by index.
        drawn: what the classifier says of drawn pictures (N,).
        asked: the classes that were asked for.
        real: what it says of real pictures (M,).
        labels: their classes.
        basis: what the numbers depend on.
    """
    right, ceiling = drawn == torch.tensor(asked), real == torch.tensor(labels)
    rows = [Row("all", "all classes", _share(right), _share(ceiling), "higher", right.double().numpy())]
    for i, name in enumerate(classes):
        of_class, of_real = right[torch.tensor(asked) == i], ceiling[torch.tensor(labels) == i]
        if len(of_class):
            real_share = _share(of_real) if len(of_real) else None
            rows.append(Row(f"recall:{name}", f"recall of {name}", _share(of_class), real_share, "higher"))
    return Part(
        "accuracy",
        "Class accuracy",
        "How often the classifier of the learned features takes a drawn picture for the class that was asked for. Its "
        "accuracy on real pictures that it was not trained on stands beside it. The intervals are Wilson's.",
        rows,
        basis,
    )


def _share(hits: Tensor) -> Interval:
    return of_share(hits.sum().item(), len(hits))


def statistics_part(
    codec: Codec, real: Mapping[str, Tensor], drawn: Mapping[str, Tensor], seed: int, basis: Basis
) -> Part:
    """Sharpness and colours of pictures, or the values of other data, both from `statistics`."""
    rows = []
    for name, found in compared(real, drawn, seed).items():
        rows.append(Row(name, f"{name}, mean", found.drawn, found.real))
        rows.append(Row(f"{name}-distance", f"{name}, Wasserstein-1 distance to real", found.distance, better="lower"))
    return Part(
        "statistics",
        "Sharpness and colours" if codec.pictorial else "Values",
        f"Means over {PICTURES if codec.pictorial else VALUES}, and how far the distributions are apart.",
        rows,
        basis,
    )


def likelihood_part(found: NLL, basis: Basis) -> Part:
    """Bits per dimension, by three ways."""
    steps = len(found.bound.times) - 1
    methods = {
        "bound": (f"bound of {steps:,} steps, bits/dim", found.bound.total),
        "continuous": ("continuous-time bound, bits/dim", found.continuous.total),
        "ode": ("probability-flow ODE, bits/dim", found.ode.total),
    }
    return Part(
        "nll",
        "Likelihood",
        "Negative log likelihood of pictures that the model has not seen: two upper bounds, and the value of the "
        "probability-flow ODE for uniformly dequantised pictures. Intervals are over pictures.",
        [
            Row(key, name, over_pictures(value), better="lower", values=value.numpy())
            for key, (name, value) in methods.items()
        ],
        {**basis, "pictures": len(found.bound.prior), "steps": steps, "probes": len(found.ode.probes)},
        [Figure("kl.svg", kl_svg(found).encode(), "The terms of the bound over time.", TERMS)],
        columns=("real pictures", ""),
    )


def speed_part(samples: Samples, machine: str) -> Part:
    """How fast the pictures were drawn."""
    rate = Interval(len(samples.rows) / samples.seconds, None, None)
    evaluations = Interval(float(samples.evaluations), None, None)
    return Part(
        "speed",
        "Speed",
        "How fast these pictures were drawn, beside all other work of the machine.",
        [
            Row("rate", "pictures/s", rate, better="higher"),
            Row("evaluations", "network evaluations a picture", evaluations, better="lower"),
        ],
        {"machine": machine},
        columns=("measured", ""),
    )
