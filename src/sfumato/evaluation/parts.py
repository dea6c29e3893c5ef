"""The parts of the report: what each metric found, as rows with their basis."""

from sfumato.evaluation.interval import Interval
from sfumato.evaluation.nll import NLL
from sfumato.evaluation.nll_report import over_pictures
from sfumato.evaluation.report import Part, Row
from sfumato.evaluation.samples import Samples


def likelihood_part(found: NLL, basis: dict[str, object]) -> Part:
    """Bits per dimension, by three ways."""
    steps = len(found.bound.times) - 1
    return Part(
        "nll",
        "Likelihood",
        "Negative log likelihood of unseen pictures in bits per dimension: two upper bounds, and the value of the "
        "probability-flow ODE for uniformly dequantised pictures. Intervals are over pictures.",
        [
            Row("bound", f"bound of {steps:,} steps, bits/dim", over_pictures(found.bound.total), better="lower"),
            Row("continuous", "continuous-time bound, bits/dim", over_pictures(found.continuous.total), better="lower"),
            Row("ode", "probability-flow ODE, bits/dim", over_pictures(found.ode.total), better="lower"),
        ],
        {**basis, "pictures": len(found.bound.prior), "steps": steps, "probes": len(found.ode.probes)},
    )


def speed_part(samples: Samples, machine: str) -> Part:
    """How fast the pictures were drawn."""
    rate = Interval(len(samples.pictures) / samples.seconds, None, None)
    return Part(
        "speed",
        "Speed",
        "Of the drawing of these pictures, other load of the machine included.",
        [
            Row("rate", "pictures/s", rate, better="higher"),
            Row("evaluations", "network evaluations a picture", Interval(samples.evaluations, None, None), better="lower"),
        ],
        {"machine": machine},
    )
